"""Environments registered with gymnasium: as they are (plain id), or seen through their renderings (``gym/<id>``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from crl.envs.errors import EnvironmentOptionError, NotPixelsError, check_positive
from crl.envs.wrappers import ActionRepeat, PixelStack


def find_spec(name: str) -> EnvSpec:
    """
    :param name: a registered id; ``module:id`` imports the module that registers it first, as ``gymnasium.make`` does
    :raises gymnasium.error.Error: when there is none
    :raises ModuleNotFoundError: when there is no such module
    """
    module, _, plain = name.rpartition(":")
    if module:
        import_module(module)
    return gym.spec(plain)


def rendered(
    env_id: str, *, size: int = 84, n_stack: int = 3, action_repeat: int = 1, **options: Any
) -> Callable[[], gym.Env[Any, Any]]:
    """
    :param env_id: ``gym/<id>``
    :param size: side of the frames, in pixels; what the environment renders is resized (bilinear)
    :param n_stack: frames in an observation
    :param action_repeat: steps per action, rewards summed
    :param options: of the environment itself
    :return: makes it
    :raises EnvironmentOptionError: for a value out of range
    """
    check_positive(size=size, n_stack=n_stack, action_repeat=action_repeat)

    def make(spec: EnvSpec) -> gym.Env[Any, Any]:
        env = _make(spec, {**options, "render_mode": "rgb_array"}, "; crl's own are size, n_stack, action_repeat")
        return PixelStack(ActionRepeat(env, action_repeat), n_stack, size)

    # the spec itself: a process of its own does not know what was registered in this one
    return partial(make, find_spec(env_id.removeprefix("gym/")))


def as_it_is(env_id: str, **options: Any) -> Callable[[], gym.Env[Any, Any]]:
    """
    :param env_id: id of an environment whose observations are, or hold, images
    :param options: of the environment
    :return: makes it
    """
    return partial(_make_images, find_spec(env_id), options)


def _make_images(spec: EnvSpec, options: dict[str, Any]) -> gym.Env[Any, Any]:
    return with_images(_make(spec, options), spec.id)


def _make(spec: EnvSpec, options: dict[str, Any], hint: str = "") -> gym.Env[Any, Any]:
    try:
        return gym.make(spec, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise EnvironmentOptionError(f"{spec.id} has no such option ({error}){hint}") from error


def with_images(env: gym.Env[Any, Any], name: str) -> gym.Env[Any, Any]:
    """
    :param env: environment
    :param name: for the message
    :return: the same
    :raises NotPixelsError: unless its observation space is, or has, a ``Box`` of uint8 with three dimensions
    """
    space = env.observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    if not any(isinstance(part, spaces.Box) and part.dtype == np.uint8 and len(part.shape) == 3 for part in parts):
        env.close()
        raise NotPixelsError(
            f"{name} has no image observations but {space}. gym/{name} shows its renderings instead; images of your own are "
            "Box(0, 255, (channels, height, width), np.uint8), or channels last"
        )
    return env
