"""From an environment id to an environment, or to the vector environment that SB3 trains on."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from crl.envs.dmc import default_action_repeat, split_id, task_ids

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Maker = Callable[..., "gym.Env[Any, Any]"]


class UnknownEnvironmentError(ValueError):
    """No environment of this id; the message names the nearest ones."""


class EnvironmentOptionError(ValueError):
    """An option that this environment does not have; the message names those it has."""


def _reach(*, render_mode: str | None = None) -> gym.Env[Any, Any]:
    from crl.envs.toy import ToyReach

    return ToyReach(discrete=False, render_mode=render_mode)


def _reach_discrete(*, render_mode: str | None = None) -> gym.Env[Any, Any]:
    from crl.envs.toy import ToyReach

    return ToyReach(discrete=True, render_mode=render_mode)


def _dmc(
    env_id: str,
    *,
    size: int = 84,
    n_stack: int = 3,
    action_repeat: int | None = None,
    camera: int | None = None,
    shadow_size: int | None = None,
    time_limit: float | None = None,
) -> gym.Env[Any, Any]:
    from crl.envs.dmc import DMControl
    from crl.envs.wrappers import ActionRepeat, PixelStack

    domain, task = split_id(env_id)
    env = DMControl(domain, task, size, camera, shadow_size, time_limit)
    # rendering comes outside of the repeat: only the last of the repeated steps is drawn
    return PixelStack(ActionRepeat(env, action_repeat or default_action_repeat(domain)), n_stack)


def _gym(env_id: str, *, size: int = 84, n_stack: int = 3, action_repeat: int = 1, **options: Any) -> gym.Env[Any, Any]:
    from crl.envs.wrappers import ActionRepeat, PixelStack

    env = gym.make(env_id.removeprefix("gym/"), render_mode="rgb_array", **options)
    return PixelStack(ActionRepeat(env, action_repeat), n_stack, size)


_TOYS: dict[str, tuple[str, Maker]] = {
    "toy/reach": ("bring a dot with momentum to a goal; 32x32, continuous, no OpenGL", _reach),
    "toy/reach-discrete": ("the same with five actions", _reach_discrete),
}


def list_envs() -> dict[str, str]:
    """Ids of crl's own environments, and what they are. ``gym/<id>`` stands for any gymnasium environment that renders."""
    toys = {env_id: text for env_id, (text, _) in _TOYS.items()}
    dmc = dict.fromkeys(task_ids(), "DeepMind Control from pixels")
    return {**toys, **dmc, "gym/<id>": "any gymnasium environment with render_mode='rgb_array', from pixels"}


def check_env_id(env_id: str) -> None:
    """
    Nothing is made, and no simulator is loaded.

    :param env_id: see :func:`make_env`
    :raises UnknownEnvironmentError: when there is none of this id
    """
    if env_id in _TOYS:
        return
    if env_id.startswith("dmc/"):
        try:
            split_id(env_id)
        except ValueError as error:
            raise UnknownEnvironmentError(f"{error}. Nearest: {_nearest(env_id, task_ids())}") from error
        return
    name = env_id.removeprefix("gym/")
    try:
        gym.spec(name)
    except gym.error.Error as error:
        known = [*_TOYS, *task_ids(), *gym.registry, *(f"gym/{name}" for name in gym.registry)]
        raise UnknownEnvironmentError(f"no environment {env_id!r}. Nearest: {_nearest(env_id, known)}") from error


def _nearest(env_id: str, known: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(env_id, known, n=3, cutoff=0.3)) or "none"


def _make(env_id: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
    check_env_id(env_id)
    if env_id in _TOYS:
        maker = _TOYS[env_id][1]
    elif env_id.startswith("dmc/"):
        maker = partial(_dmc, env_id)
    elif env_id.startswith("gym/"):
        return _gym(env_id, **options)
    else:
        return gym.make(env_id, **options)
    names = [name for name, p in inspect.signature(maker).parameters.items() if p.kind is p.KEYWORD_ONLY]
    wrong = [name for name in options if name not in names]
    if wrong:
        raise EnvironmentOptionError(f"{env_id} has no option {', '.join(wrong)}; it has {', '.join(names)}")
    return maker(**options)


def make_env(env_id: str, seed: int | None = None, **options: Any) -> gym.Env[Any, Any]:
    """
    One environment with image observations, ``(channels, height, width)`` uint8 where it is one of crl's own.

    :param env_id: ``toy/...``, ``dmc/<domain>-<task>``, ``gym/<gymnasium id>`` (seen through its renderings), or the plain id
        of an environment registered with gymnasium (left as it is)
    :param seed: makes every episode repeatable: its seed is a hash of this and the episode's number. None: random episodes.
    :param options: of the environment. ``dmc/``: ``size`` (84), ``n_stack`` (3), ``action_repeat`` (PlaNet's), ``camera``,
        ``shadow_size``, ``time_limit``. ``gym/``: ``size``, ``n_stack``, ``action_repeat`` (1), others go to gymnasium.
    :raises UnknownEnvironmentError: when there is none of this id
    :raises EnvironmentOptionError: for an option that the environment does not have
    """
    env = _make(env_id, options)
    if seed is None:
        return env
    from crl.envs.episode_seeds import EpisodeSeeds

    return EpisodeSeeds(env, seed)


def make_vec_env(
    env_id: str,
    seed: int = 0,
    n_envs: int = 1,
    subprocess: bool = False,
    **options: Any,
) -> VecEnv:
    """
    What SB3 algorithms train on: ``n_envs`` environments, each in SB3's ``Monitor``.

    :param env_id: see :func:`make_env`
    :param seed: of the run; episode j of environment i has the seed hash(seed, i, j). SB3 passes an agent's own ``seed=`` on
        to its environments, which then replaces this one.
    :param n_envs: parallel environments
    :param subprocess: one process each (slow environments), else all in this one
    :param options: of the environment
    :raises UnknownEnvironmentError: when there is none of this id
    :raises ValueError: for less than one environment
    """
    if n_envs < 1:
        raise ValueError(f"n_envs={n_envs}: at least 1")
    check_env_id(env_id)  # in this process, whose errors are easier to read than a worker's
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    from crl.envs.episode_seeds import EpisodeSeeds
    from crl.envs.monitor import ResumableMonitor

    def maker(index: int) -> Callable[[], gym.Env[Any, Any]]:
        return lambda: ResumableMonitor(EpisodeSeeds(_make(env_id, options), seed, index))

    makers = [maker(index) for index in range(n_envs)]
    return SubprocVecEnv(makers) if subprocess else DummyVecEnv(makers)
