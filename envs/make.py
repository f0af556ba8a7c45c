"""From an environment id to an environment, or to the vector environment that SB3 trains on."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from crl.envs import dmc, gym_pixels
from crl.envs.episode_seeds import EpisodeSeeds, check_seed
from crl.envs.errors import EnvironmentOptionError, UnknownEnvironmentError, check_names, check_positive

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Maker = Callable[[], "gym.Env[Any, Any]"]
#: an id, something that makes an environment (a class, a function), or an environment
Source = str | Callable[..., "gym.Env[Any, Any]"] | gym.Env


def _toy(env_id: str, *, distractors: int = 1, render_mode: str | None = None) -> Maker:
    from crl.envs.toy import ToyReach

    if render_mode not in (None, "rgb_array"):
        raise EnvironmentOptionError(f"render_mode={render_mode!r}: None or 'rgb_array'")
    if not isinstance(distractors, int) or not 0 <= distractors <= 8:
        raise EnvironmentOptionError(f"distractors={distractors!r}: a whole number from 0 to 8")
    return partial(ToyReach, discrete=env_id == "toy/reach-discrete", distractors=distractors, render_mode=render_mode)


_TOYS = {
    "toy/reach": "bring a dot with momentum to a goal; 32x32, continuous, no OpenGL",
    "toy/reach-discrete": "the same with five actions",
}


def list_envs() -> dict[str, str]:
    """Ids of crl's own environments, and what they are. ``gym/<id>`` stands for any gymnasium environment that renders."""
    suite = dict.fromkeys(dmc.task_ids(), "DeepMind Control from pixels")
    return {**_TOYS, **suite, "gym/<id>": "any gymnasium environment with render_mode='rgb_array', from pixels"}


def check_env_id(env_id: str, options: dict[str, Any] | None = None) -> None:
    """
    Nothing is made, and no simulator is loaded. (Options of ``gym/`` and plain ids that are the environment's own are not
    known before it is made.)

    :param env_id: see :func:`make_env`
    :param options: of the environment
    :raises UnknownEnvironmentError: when there is none of this id
    :raises EnvironmentOptionError: for an option that there is not, or a value out of range
    """
    _maker(env_id, options or {})


def _nearest(env_id: str, known: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(env_id, known, n=3, cutoff=0.3)) or "none"


def _maker(source: Any, options: dict[str, Any]) -> Maker:
    """All checks that need no simulator, then a function that makes the environment."""
    if isinstance(source, gym.Env):
        if options:
            raise EnvironmentOptionError(f"options ({', '.join(options)}) are for environments that are still to be made")
        return partial(gym_pixels.with_images, source, type(source.unwrapped).__name__)
    if not isinstance(source, str):
        name = getattr(source, "__name__", type(source).__name__)
        return lambda: gym_pixels.with_images(source(**options), name)
    if source in _TOYS:
        check_names(source, _toy, options)
        return _toy(source, **options)
    if source.startswith("dmc/"):
        try:
            dmc.split_id(source)
        except ValueError as error:
            raise UnknownEnvironmentError(f"{error}. Nearest: {_nearest(source, dmc.task_ids())}") from error
        check_names(source, dmc.from_pixels, options)
        return dmc.from_pixels(source, **options)
    make = gym_pixels.rendered if source.startswith("gym/") else gym_pixels.as_it_is
    try:
        return make(source, **options)
    except (gym.error.Error, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not source.removeprefix("gym/").startswith(str(error.name)):
            raise  # the module is there, but not what it imports
        known = [*_TOYS, *dmc.task_ids(), *gym.registry, *(f"gym/{name}" for name in gym.registry)]
        raise UnknownEnvironmentError(f"no environment {source!r}. Nearest: {_nearest(source, known)}") from error


def make_env(
    env_id: Source,
    seed: int | None = None,
    evaluation: bool = False,
    **options: Any,
) -> gym.Env[Any, Any]:
    """
    One environment with image observations, ``(channels, height, width)`` uint8 where it is one of crl's own.

    :param env_id: ``toy/...``, ``dmc/<domain>-<task>``, ``gym/<gymnasium id>`` (seen through its renderings), or the plain id
        of an environment registered with gymnasium (left as it is; its observations must hold images). An id may be
        ``module:id``, which imports the module that registers it. Or a class or function that makes an environment, or one
        that is made already.
    :param seed: makes every episode repeatable: its seed is a hash of this and the episode's number. None: random episodes.
    :param evaluation: take the episodes of another stream, none of which is trained on under any seed
    :param options: of the environment. ``toy/``: ``distractors`` (1). ``dmc/``: ``size`` (84), ``n_stack`` (3),
        ``action_repeat`` (PlaNet's, elsewhere 2), ``camera``, ``shadow_size``, ``time_limit``. ``gym/``: ``size``,
        ``n_stack``, ``action_repeat`` (1), others go to gymnasium.
    :raises UnknownEnvironmentError: when there is none of this id
    :raises EnvironmentOptionError: for an option that the environment does not have, or a value out of range
    :raises NotPixelsError: when its observations are no images
    """
    if seed is not None:
        check_seed(seed)
    env = _maker(env_id, options)()
    return env if seed is None else EpisodeSeeds(env, seed, evaluation=evaluation)


def make_vec_env(
    env_id: Source,
    seed: int = 0,
    n_envs: int = 1,
    subprocess: bool = False,
    evaluation: bool = False,
    **options: Any,
) -> VecEnv:
    """
    What SB3 algorithms train on: ``n_envs`` environments, each in SB3's ``Monitor``.

    :param env_id: see :func:`make_env`
    :param seed: of the run; episode j of environment i has the seed hash(seed, i, j). SB3 passes an agent's own ``seed=`` on
        to its environments, which then replaces this one.
    :param n_envs: parallel environments
    :param subprocess: one process each (slow environments), else all in this one
    :param evaluation: take the episodes of another stream, none of which is trained on under any seed
    :param options: of the environment
    :raises UnknownEnvironmentError: when there is none of this id
    :raises EnvironmentOptionError: for a wrong option or value, less than one environment, or several of one made already
    :raises NotPixelsError: when its observations are no images
    """
    check_seed(seed)
    check_positive(n_envs=n_envs)
    if isinstance(env_id, gym.Env) and (n_envs > 1 or subprocess):
        raise EnvironmentOptionError("one environment cannot be several: give what makes it (a class, a function or an id)")
    make = _maker(env_id, options)  # in this process, whose errors are easier to read than a worker's
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    from crl.envs.monitor import ResumableMonitor

    def maker(index: int) -> Maker:
        return lambda: ResumableMonitor(EpisodeSeeds(make(), seed, index, evaluation))

    makers = [maker(index) for index in range(n_envs)]
    return SubprocVecEnv(makers) if subprocess else DummyVecEnv(makers)
