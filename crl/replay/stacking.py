"""Frame stacks inside observations: how many frames there are, and which of the first ones are padding."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

_WRAPPERS = (
    "Frames must be stacked along the channels, oldest first, (n_stack * channels, height, width): with SB3's wrappers "
    "VecTransposeImage(VecFrameStack(env, n_stack)), or make_vec_env of crl.envs. gymnasium's FrameStackObservation gives "
    "(n_stack, height, width, channels), which has to be transposed and merged first"
)


def check_frames(space: spaces.Space) -> spaces.Box:
    """
    :param space: of the observations that a frame-wise buffer is to hold
    :return: the same space
    :raises ValueError: when it is not a channels-first uint8 image; says what to change
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        shape = getattr(space, "shape", None)
        raise ValueError(
            f"FrameReplayBuffer holds images (channels, height, width), got a space of shape {shape}. {_WRAPPERS}"
        )
    if not is_image_space(space):
        raise ValueError(
            f"FrameReplayBuffer holds uint8 images in 0..255, got {space.dtype} in [{space.low.min()}, {space.high.max()}]: "
            "declare the space as Box(0, 255, shape, uint8). Behind VecNormalize pass norm_obs=False (rewards are normalised "
            "all the same), or leave the image out of norm_obs_keys"
        )
    if space.shape[0] > min(space.shape[1:]):
        raise ValueError(f"FrameReplayBuffer needs channels first, got {space.shape}. {_WRAPPERS}")
    return space


def infer_n_stack(channels: int, n_stack: int | None) -> int:
    """
    :param channels: of the whole observation
    :param n_stack: as told by the user; None infers it, taking frames to have 1, 3 or 4 channels and stacks up to 8 frames
    :return: frames in one observation
    :raises ValueError: when the channels are not divisible, or the number cannot be told from the channels alone
    """
    if n_stack is not None:
        if n_stack < 1 or channels % n_stack:
            raise ValueError(f"n_stack={n_stack} does not divide the {channels} channels of the observation")
        return n_stack
    possible = [channels // c for c in (1, 3, 4) if channels % c == 0 and channels // c <= 8]
    if len(possible) == 1:
        return possible[0]
    if not possible:
        raise ValueError(f"{channels} channels: pass replay_buffer_kwargs=dict(n_stack=<frames in one observation>)")
    ways = " or ".join(f"{k} frames of {channels // k}" for k in possible)
    raise ValueError(
        f"{channels} channels may be {ways}: pass replay_buffer_kwargs=dict(n_stack=...), the frames in one observation"
    )


def first_stack(frames: np.ndarray) -> tuple[int, bool]:
    """
    How an episode's first stack is padded.

    :param frames: ``(n_stack, channels, height, width)``, oldest first
    :return: how many of the frames are real (the newest ones, at least 1), and whether the others are zeros (SB3's
        VecFrameStack) or repeat the oldest real one
    """
    n_stack = len(frames)
    zeros = 0
    while zeros < n_stack - 1 and not frames[zeros].any():
        zeros += 1
    repeats = 0
    while repeats < n_stack - 1 and np.array_equal(frames[repeats], frames[repeats + 1]):
        repeats += 1
    return (n_stack - zeros, True) if zeros > repeats else (n_stack - repeats, False)


def check_shift(obs: np.ndarray, next_obs: np.ndarray, channels: int) -> None:
    """
    :param obs: ``(n_stack * channels, height, width)``
    :param next_obs: of the same step
    :param channels: of one frame
    :raises ValueError: when the next observation is not this one shifted by one frame
    """
    if not np.array_equal(obs[channels:], next_obs[:-channels]):
        n_stack = len(obs) // channels
        raise ValueError(
            f"with n_stack={n_stack} the next observation must be the observation shifted by one frame of {channels} channels "
            f"(its first {n_stack - 1} frames the last {n_stack - 1} of its predecessor), and it is not. {_WRAPPERS}. "
            "If the frames are not stacked at all, pass replay_buffer_kwargs=dict(n_stack=1)"
        )
