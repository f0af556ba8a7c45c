"""Stored transitions to learn from: a saved replay buffer, a run's, or a Minari data set."""

from __future__ import annotations

import pickle
from pathlib import Path

from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.save_util import load_from_pkl

from crl.encoders import check_image_space
from crl.pretrain.minari_data import MINARI, from_minari
from crl.replay import FrameReplayBuffer
from crl.runs.folder import RunFolder
from crl.runs.run import load_model


class DataError(ValueError):
    """Stored transitions that there are not, or that cannot be learned from; the message says what to do."""


def load_transitions(
    source: str, stack: int = 1, size: int | None = None, image_key: str | None = None
) -> tuple[ReplayBuffer, spaces.Box, str | None]:
    """
    :param source: a file that ``model.save_replay_buffer`` wrote (a pickle: load only what you trust), the folder of a run, or
        ``minari:<data set>``
    :param stack: Minari only: frames in an observation
    :param size: Minari only: side to which frames are resized; None keeps them
    :param image_key: of Dict observations with more than one image
    :return: the buffer, its image space, and the image's key (None for plain images)
    :raises DataError: for what is not there, is no replay buffer, or holds no images or nothing at all
    """
    if source.startswith(MINARI):
        try:
            buffer: ReplayBuffer = from_minari(source.removeprefix(MINARI), stack, size, image_key)
        except (ValueError, ImportError) as error:
            raise DataError(str(error)) from error
    elif stack != 1 or size is not None:
        raise DataError("--stack and --size are for Minari data sets: a replay buffer's observations are stacked already")
    else:
        buffer = _of_run(Path(source)) if Path(source).is_dir() else _of_file(Path(source))
    if buffer.size() == 0:
        raise DataError(f"{source} holds no transitions")
    space, key = _image(source, buffer, image_key)
    return buffer, space, key


def _of_run(path: Path) -> ReplayBuffer:
    model = load_model(RunFolder(path))
    if model.env is not None:
        model.env.close()
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        raise DataError(
            f"{path} is a run of {type(model).__name__}, which keeps no replay buffer: choose an off-policy agent's"
        )
    return buffer


def _of_file(path: Path) -> ReplayBuffer:
    found = path if path.is_file() else path.with_name(path.name + ".pkl")
    if not found.is_file():
        raise DataError(
            f"no file {path}: give what model.save_replay_buffer wrote, the folder of a run, or {MINARI}<data set>"
        )
    try:
        buffer = load_from_pkl(found)
    # whatever unpickling another program's file comes across
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{found} is no saved replay buffer ({type(error).__name__}: {error})") from error
    if not isinstance(buffer, ReplayBuffer):
        raise DataError(f"{found} holds a {type(buffer).__name__}: give what model.save_replay_buffer wrote")
    return buffer


def _image(source: str, buffer: ReplayBuffer, image_key: str | None) -> tuple[spaces.Box, str | None]:
    if isinstance(buffer, FrameReplayBuffer):
        return buffer.image_space, buffer.image_key
    space = buffer.observation_space
    if isinstance(space, spaces.Dict):
        keys = [name for name, part in space.spaces.items() if is_image_space(part)]
        if image_key not in keys and (image_key is not None or len(keys) != 1):
            raise DataError(f"{source}: its images are {', '.join(keys) or 'none'}: name one by --image-key")
        image_key = image_key or keys[0]
        space = space[image_key]
    else:
        image_key = None
    try:
        return check_image_space(space, who=source), image_key
    except ValueError as error:
        raise DataError(str(error)) from error
