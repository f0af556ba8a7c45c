"""Minari data sets with images as a replay buffer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from crl.replay import FrameReplayBuffer

#: how a data set's name begins where a file's could stand too
MINARI = "minari:"


def from_minari(dataset_id: str, stack: int = 1, size: int | None = None, image_key: str | None = None) -> FrameReplayBuffer:
    """
    :param dataset_id: of a data set on this machine, for example ``atari/breakout/expert-v0``
    :param stack: see :func:`from_episodes`
    :param size: see :func:`from_episodes`
    :param image_key: of Dict observations with more than one image
    :raises ImportError: without minari
    :raises ValueError: for a data set that is not there, or that holds no images
    """
    try:
        import minari
    except ImportError as error:
        raise ImportError("Minari data sets need minari: pip install 'crl[minari]'") from error
    try:
        dataset = minari.load_dataset(dataset_id)
    except (FileNotFoundError, ValueError) as error:
        here = ", ".join(minari.list_local_datasets()) or "none"
        raise ValueError(
            f"no Minari data set {dataset_id!r} on this machine ({error}). There are: {here}. Get it by "
            f"'minari download {dataset_id}'"
        ) from error
    space, key = _image(dataset_id, dataset.observation_space, image_key)
    return from_episodes(dataset.iterate_episodes(), space, dataset.action_space, dataset.total_steps, stack, size, key)


def _image(name: str, space: spaces.Space, key: str | None) -> tuple[spaces.Box, str | None]:
    if isinstance(space, spaces.Dict):
        keys = [other for other, part in space.spaces.items() if is_image_space(part)]
        if key not in keys and (key is not None or len(keys) != 1):
            raise ValueError(f"{name}: its images are {', '.join(keys) or 'none'} of {', '.join(space.spaces)}: name one")
        key = key or keys[0]
        return space[key], key  # type: ignore[return-value]
    if not is_image_space(space):
        raise ValueError(f"{name} holds no images, but {space}: choose a data set whose observations are uint8 images")
    return space, None  # type: ignore[return-value]


def from_episodes(
    episodes: Iterable[Any],
    space: spaces.Box,
    action_space: spaces.Space,
    total_steps: int,
    stack: int = 1,
    size: int | None = None,
    image_key: str | None = None,
) -> FrameReplayBuffer:
    """
    Minari's episodes as transitions, each frame stored once.

    :param episodes: with ``observations`` (one more than steps), ``actions``, ``rewards``, ``terminations``, ``truncations``
    :param space: of the frames, channels first or last
    :param action_space: of the actions; Box actions are stored scaled to [-1, 1], as SB3 does
    :param total_steps: of all episodes
    :param stack: frames in an observation; the first one of an episode is repeated
    :param size: side of the square to which frames are averaged or interpolated; None keeps them
    :param image_key: of Dict observations
    :raises ValueError: for values out of range, and for Box actions without finite bounds
    """
    if stack < 1 or (size is not None and size < 1) or total_steps < 1:
        raise ValueError(f"stack={stack}, size={size}, {total_steps} steps: each at least 1")
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded():
        raise ValueError(f"actions have no bounds to scale them by: {action_space}")
    first = is_image_space_channels_first(space)
    channels = space.shape[0 if first else -1]
    height, width = (size, size) if size is not None else (space.shape[1:] if first else space.shape[:2])
    stacked = spaces.Box(0, 255, (stack * channels, height, width), np.uint8)
    buffer = FrameReplayBuffer(total_steps, stacked, action_space, device="cpu", n_stack=stack)
    for episode in episodes:
        observations = episode.observations if image_key is None else episode.observations[image_key]
        frames = _frames(np.asarray(observations), first, size)
        actions = _scaled(np.asarray(episode.actions), action_space)
        obs = np.concatenate([frames[0]] * stack)
        for t, reward in enumerate(episode.rewards):
            next_obs = np.concatenate([obs[channels:], frames[t + 1]])
            terminated, truncated = bool(episode.terminations[t]), bool(episode.truncations[t])
            buffer.add(
                obs[None],
                next_obs[None],
                actions[t][None],
                np.array([reward], dtype=np.float32),
                np.array([terminated or truncated]),
                [{"TimeLimit.truncated": truncated and not terminated}],
            )
            obs = next_obs
    return buffer


def _frames(images: np.ndarray, channels_first: bool, size: int | None) -> np.ndarray:
    """``(n, channels, height, width)`` uint8."""
    frames = images if channels_first else images.transpose(0, 3, 1, 2)
    if size is None or frames.shape[-2:] == (size, size):
        return np.ascontiguousarray(frames)
    pixels = th.as_tensor(np.ascontiguousarray(frames)).float()
    smaller = min(frames.shape[-2:]) >= size
    # averages where pixels get fewer, as published agents do for Atari
    resized = (
        F.interpolate(pixels, (size, size), mode="area") if smaller else F.interpolate(pixels, (size, size), mode="bilinear")
    )
    return np.asarray(resized.round().clamp(0, 255).byte().numpy())


def _scaled(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    if not isinstance(space, spaces.Box):
        return actions
    return np.asarray(2.0 * (actions - space.low) / (space.high - space.low) - 1.0, dtype=np.float32)
