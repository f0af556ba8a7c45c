"""From an environment id to an environment, or to the vector environment that SB3 trains on."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from crl.envs import atari, crafter, dmc, foraging, gym_pixels, particles
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


def _chain(*, items: int = 8, length: int = 100, render_mode: str | None = None) -> Maker:
    from crl.envs.toy_chain import MAX_ITEMS, ToyChain

    check_positive(items=items, length=length)
    if items > MAX_ITEMS:
        raise EnvironmentOptionError(f"items={items}: a whole number from 1 to {MAX_ITEMS}")
    if render_mode not in (None, "rgb_array"):
        raise EnvironmentOptionError(f"render_mode={render_mode!r}: None or 'rgb_array'")
    return partial(ToyChain, items=items, length=length, render_mode=render_mode)


_CHAIN = "toy/chain"
_TOYS = {
    "toy/reach": "bring a dot with momentum to a goal; 32x32, continuous, no OpenGL",
    "toy/reach-discrete": "the same with five actions",
    _CHAIN: "collect items in the right order; 32x32, four actions, sub-goals in its infos",
}

#: by the beginning of an id: raises ValueError for one that there is not; all ids; what takes an id and the options
_SUITES: dict[str, tuple[Callable[[str], Any], Callable[[], list[str]], Callable[..., Any]]] = {
    "atari/": (atari.game_of, atari.game_ids, atari.settings),
    "dmc/": (dmc.split_id, dmc.task_ids, dmc.from_pixels),
    "lbf/": (foraging.split_id, foraging.task_ids, foraging.with_partners),
    "mpe/": (particles.split_id, particles.task_ids, particles.with_partners),
}
#: worlds shared with scripted partners
_SHARED = {**foraging.EXAMPLES, **particles.EXAMPLES}


def list_envs() -> dict[str, str]:
    """Ids of crl's own environments, and what they are. ``gym/<id>`` stands for any gymnasium environment that renders."""
    suite = dict.fromkeys(dmc.task_ids(), "DeepMind Control from pixels")
    games = dict.fromkeys(atari.game_ids(), "Atari 2600")
    other = {"gym/<id>": "any gymnasium environment with render_mode='rgb_array', from pixels"}
    return {**_TOYS, **crafter.IDS, **_SHARED, **suite, **games, **other}


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
    if source == _CHAIN:
        check_names(source, _chain, options)
        return _chain(**options)
    if source in crafter.IDS:
        check_names(source, crafter.from_pixels, options)
        return crafter.from_pixels(source, **options)
    if source in _TOYS:
        check_names(source, _toy, options)
        return _toy(source, **options)
    if source.startswith("atari/"):
        return partial(atari.AtariGame, _of_suite(source, options))
    if source.startswith(tuple(_SUITES)):
        maker: Maker = _of_suite(source, options)
        return maker
    make = gym_pixels.rendered if source.startswith("gym/") else gym_pixels.as_it_is
    try:
        return make(source, **options)
    except (gym.error.Error, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not source.removeprefix("gym/").startswith(str(error.name)):
            raise  # the module is there, but not what it imports
        module, _, name = source.removeprefix("gym/").rpartition(":")
        if module and isinstance(error, ModuleNotFoundError):
            raise UnknownEnvironmentError(
                f"no module {error.name} to take the environment {name} of {source!r} from: Python must find it (in the "
                "current folder, or installed)"
            ) from error
        own = [*_TOYS, *crafter.IDS, *_SHARED, *dmc.task_ids(), *atari.game_ids()]
        known = [*own, *gym.registry, *(f"gym/{name}" for name in gym.registry)]
        raise UnknownEnvironmentError(f"no environment {source!r}. Nearest: {_nearest(source, known)}") from error


def _of_suite(env_id: str, options: dict[str, Any]) -> Any:
    """What the suite of an id makes of it and its options, once both are known to be right."""
    check_id, ids, take = _SUITES[env_id[: env_id.index("/") + 1]]
    try:
        check_id(env_id)
    except ValueError as error:
        raise UnknownEnvironmentError(f"{error}. Nearest: {_nearest(env_id, ids())}") from error
    check_names(env_id, take, options)
    return take(env_id, **options)


def _in_training(source: Any, options: dict[str, Any]) -> Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]:
    """What goes around an environment, and its Monitor, in training alone."""
    if isinstance(source, str) and source.startswith("atari/"):
        from crl.envs.atari_training import AtariTraining

        chosen = _of_suite(source, options)
        if chosen.terminal_on_life_loss or chosen.clip_reward:
            return partial(AtariTraining, terminal_on_life_loss=chosen.terminal_on_life_loss, clip_reward=chosen.clip_reward)
    return lambda env: env


def make_env(
    env_id: Source,
    seed: int | None = None,
    evaluation: bool = False,
    env_index: int = 0,
    **options: Any,
) -> gym.Env[Any, Any]:
    """
    One environment with image observations, ``(channels, height, width)`` uint8 where it is one of crl's own.

    :param env_id: ``toy/...``, ``crafter/reward``, ``dmc/<domain>-<task>``, ``atari/<Game>``, ``lbf/<id>``, ``mpe/<id>``
        (worlds with scripted partners, whose observations are vectors unless ``pixels=True``), ``gym/<gymnasium id>`` (seen
        through its renderings), or the plain id of an environment registered with gymnasium (left as it is; its observations
        must hold images). An id may be ``module:id``, which imports the module that registers it. Or a class or function that
        makes an environment, or one that is made already.
    :param seed: makes every episode repeatable: its seed is a hash of this and the episode's number. None: random episodes.
    :param evaluation: take the episodes of another stream, none of which is trained on under any seed. Of Atari, whole games
        with true rewards, where training has lives and clipped rewards.
    :param env_index: of this one among parallel ones, each of which has episodes of its own
    :param options: of the environment. ``toy/reach``: ``distractors`` (1). ``toy/chain``: ``items`` (8), ``length`` (100).
        ``crafter/``: ``size`` (64), ``length`` (10000). ``dmc/``: ``size`` (84), ``n_stack`` (3),
        ``action_repeat`` (PlaNet's, elsewhere 2), ``camera``, ``shadow_size``, ``time_limit``. ``atari/``: those of
        :func:`crl.envs.atari.settings`, such as ``protocol`` ("100k", or "v5"). ``lbf/``, ``mpe/``: those of
        :mod:`crl.envs.agent_pool`; ``lbf/`` has ``relative``, ``time_limit`` and ``penalty``, too, and ``mpe/`` has
        ``sight``. ``gym/``: ``size``, ``n_stack``, ``action_repeat`` (1), others go to gymnasium.
    :raises UnknownEnvironmentError: when there is none of this id
    :raises EnvironmentOptionError: for an option that the environment does not have, or a value out of range
    :raises NotPixelsError: when its observations are no images
    """
    if seed is not None:
        check_seed(seed)
    env = _maker(env_id, options)()
    if seed is not None:
        env = EpisodeSeeds(env, seed, env_index, evaluation)
    return env if evaluation else _in_training(env_id, options)(env)


def make_vec_env(
    env_id: Source,
    n_envs: int = 1,
    seed: int = 0,
    *,
    subprocess: bool = False,
    evaluation: bool = False,
    native: bool | None = None,
    **options: Any,
) -> VecEnv:
    """
    What SB3 algorithms train on: ``n_envs`` environments, each in SB3's ``Monitor``; called as SB3's own function of this name
    is, but that options need no dictionary, and that the seed is 0 if none is given. (Of Atari in training, the Monitor counts
    whole games and their true rewards.)

    :param env_id: see :func:`make_env`
    :param n_envs: parallel environments
    :param seed: of the run; episode j of environment i has the seed hash(seed, i, j). SB3 passes an agent's own ``seed=`` on
        to its environments, which then replaces this one.
    :param subprocess: one process each (slow environments), else all in this one
    :param evaluation: see :func:`make_env`
    :param native: the emulator's own vector environment in C++ threads (:class:`crl.envs.atari_vector.AtariVecEnv`, Atari
        only). None: where several games are for evaluation. It is faster on several cores and gives the same, but its games
        cannot be taken up in their middle.
    :param options: of the environment
    :raises UnknownEnvironmentError: when there is none of this id
    :raises EnvironmentOptionError: for a wrong option or value, less than one environment, several of one made already, or
        ``native`` where there is no such thing
    :raises NotPixelsError: when its observations are no images
    """
    check_seed(seed)
    check_positive(n_envs=n_envs)
    if isinstance(env_id, gym.Env) and (n_envs > 1 or subprocess):
        raise EnvironmentOptionError("one environment cannot be several: give what makes it (a class, a function or an id)")
    make = _maker(env_id, options)  # in this process, whose errors are easier to read than a worker's
    has_native = isinstance(env_id, str) and env_id.startswith("atari/")
    if native and not has_native:
        raise EnvironmentOptionError(f"native=True: {env_id} has no vector environment of its own, only atari/<Game> has")
    if native and subprocess:
        raise EnvironmentOptionError("native=True and subprocess=True are two ways to run side by side: choose one")
    if native or (native is None and has_native and evaluation and n_envs > 1 and not subprocess):
        from crl.envs.atari_vector import AtariVecEnv

        return AtariVecEnv(_of_suite(env_id, options), n_envs, seed, evaluation)  # type: ignore[arg-type]
    around = (lambda env: env) if evaluation else _in_training(env_id, options)
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    from crl.envs.monitor import ResumableMonitor

    def maker(index: int) -> Maker:
        return lambda: around(ResumableMonitor(EpisodeSeeds(make(), seed, index, evaluation)))

    makers = [maker(index) for index in range(n_envs)]
    return SubprocVecEnv(makers) if subprocess else DummyVecEnv(makers)
