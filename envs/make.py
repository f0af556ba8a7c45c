"""From an environment id to an environment, or to the vector environment that SB3 trains on."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


class UnknownEnvironmentError(ValueError):
    """No environment of this id; the message names the nearest ones."""


def _toy(discrete: bool, **options: Any) -> gym.Env[Any, Any]:
    from crl.envs.toy import ToyReach

    return ToyReach(discrete=discrete, **options)


#: id to (what it is, how it is made)
_ENVS: dict[str, tuple[str, Callable[..., gym.Env[Any, Any]]]] = {
    "toy/reach": ("bring a dot with momentum to a goal; 32x32, continuous, no OpenGL", lambda **o: _toy(False, **o)),
    "toy/reach-discrete": ("the same with five actions", lambda **o: _toy(True, **o)),
}


def list_envs() -> dict[str, str]:
    """Ids of crl's own environments, and what they are."""
    return {env_id: text for env_id, (text, _) in _ENVS.items()}


def make_env(env_id: str, seed: int | None = None, **options: Any) -> gym.Env[Any, Any]:
    """
    One environment with image observations, ``(channels, height, width)`` uint8 where it is one of crl's own.

    :param env_id: one of :func:`list_envs`, or the id of any environment registered with gymnasium
    :param seed: makes every episode repeatable: its seed is a hash of this and the episode's number. None: random episodes.
    :param options: of the environment
    :raises UnknownEnvironmentError: when there is none of this id
    """
    env = _make(env_id, options)
    if seed is None:
        return env
    from crl.envs.episode_seeds import EpisodeSeeds

    return EpisodeSeeds(env, seed)


def _make(env_id: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
    if env_id in _ENVS:
        return _ENVS[env_id][1](**options)
    try:
        return gym.make(env_id, **options)
    except gym.error.Error as error:
        names = [*_ENVS, *gym.registry]
        near = difflib.get_close_matches(env_id, names, n=3, cutoff=0.4)
        raise UnknownEnvironmentError(f"no environment {env_id!r}: {error} Nearest: {', '.join(near) or 'none'}") from error


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
    from crl.envs.episode_seeds import EpisodeSeeds
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    def maker(index: int) -> Callable[[], gym.Env[Any, Any]]:
        return lambda: Monitor(EpisodeSeeds(_make(env_id, options), seed, index))

    makers = [maker(index) for index in range(n_envs)]
    return SubprocVecEnv(makers) if subprocess else DummyVecEnv(makers)
