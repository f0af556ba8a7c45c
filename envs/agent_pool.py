"""
Worlds shared with others whose behaviour changes from episode to episode: what ``lbf/`` and ``mpe/`` environments promise.

An environment with a pool is a single-agent one: the learning agent (the *ego*) acts, and all others (its *partners*, be they
mates or opponents) follow one script of a pool, drawn anew at every reset by the environment's own generator. The scripts
differ in behaviour alone: bodies, levels, colours, speeds and starts come from one distribution, and the first observation of
an episode is the same whichever script was drawn.

Attributes (``env.unwrapped.pool_names``, or ``vec_env.get_attr("pool_names")``):

- ``pool_names``: names of all scripts, training and test ones; an id is an index into it. ``pool_size``: how many.
- ``partner_ids``: those that are drawn in this environment.
- ``n_partners``, ``n_partner_actions``, ``partner_observation_size``: how many partners there are, how many actions each has,
  and how long the observation of each is.
- ``columns``: a name for each number of the vector observation.
- ``relative_unit``, where places of others and things may be told as they are seen from the ego: what these must be multiplied
  by to be counted as they are otherwise; None, or no such attribute: they are told as the ego's place is.

Infos of every reset and step, and only they, tell about the partners (agent modelling may be scored on them, or be trained on
them where a method says so; a policy never sees them):

- ``info["partner_id"]``: int, constant within an episode.
- ``info["partner_actions"]``: int64 ``(n_partners,)``, what they did in this very step, together with the ego; -1 at a reset.
- ``info["partner_observations"]``: float32 ``(n_partners, partner_observation_size)``, what each sees after this step. So what
  they saw when they acted in step t is in the info of step t - 1, or in that of the reset.

Options of :func:`crl.envs.make_env` and :func:`crl.envs.make_vec_env`:

- ``pool="train"`` | ``"test"`` | ``"all"``: the scripts that are drawn, uniformly.
- ``partner=<id or name>``: always this one, of either subset; worlds and their randomness stay those of the same seed.
- ``oracle=True``: a one-hot of the partner's id, ``(pool_size,)``, is appended to a vector observation. Beside pixels it makes
  observations a dictionary of ``image`` and ``partner``.
- ``pixels=True``: images, ``(3 * n_stack, size, size)`` uint8, instead of the vector, which moves to ``info["state"]``; with
  ``n_stack`` (1) and ``size`` (64).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from crl.envs.env_state import get_state, set_state
from crl.envs.errors import EnvironmentOptionError
from crl.envs.wrappers import PixelStack

World = TypeVar("World", contravariant=True)

POOLS = ("train", "test", "all")


class Script(Protocol[World]):
    """How partners behave in one episode. It may remember what it likes; every episode has a new one."""

    def __call__(self, world: World, rng: np.random.Generator) -> Sequence[int]:
        """
        :param world: before the step, to be read only
        :param rng: for whatever is random in the behaviour
        :return: an action for each partner
        """
        ...


class ScriptMaker(Protocol[World]):
    """Makes a script at the beginning of an episode."""

    def __call__(self) -> Script[World]:
        """A new one, which remembers nothing."""
        ...


@dataclass(frozen=True)
class Pool(Generic[World]):
    """
    :param scripts: makers by name, in the order of their ids
    :param test: names of those that are not trained with
    """

    scripts: dict[str, ScriptMaker[World]]
    test: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all scripts; the index is the id."""
        return tuple(self.scripts)

    def ids(self, subset: str) -> tuple[int, ...]:
        """
        :param subset: ``"train"``, ``"test"`` or ``"all"``
        :return: ids of its scripts
        :raises EnvironmentOptionError: when there is none of this name
        """
        if subset not in POOLS:
            raise EnvironmentOptionError(f"pool={subset!r}: {', '.join(map(repr, POOLS))}")
        wanted = {"train": (False,), "test": (True,), "all": (False, True)}[subset]
        return tuple(index for index, name in enumerate(self.names) if (name in self.test) in wanted)

    def id_of(self, partner: int | str) -> int:
        """
        :param partner: id or name
        :raises EnvironmentOptionError: when there is none; names those there are
        """
        if isinstance(partner, str) and partner in self.names:
            return self.names.index(partner)
        whole = isinstance(partner, int | np.integer) and not isinstance(partner, bool)
        if whole and 0 <= int(partner) < len(self.names):
            return int(partner)
        known = ", ".join(f"{index} {name}" for index, name in enumerate(self.names))
        raise EnvironmentOptionError(f"partner={partner!r}: None (drawn anew every episode), or one of {known}")


def check_pool_options(pool: Pool[Any], subset: str, partner: int | str | None, **switches: Any) -> None:
    """
    :param pool: of the environment
    :param subset: option ``pool``
    :param partner: option ``partner``
    :param switches: options that are True or False, by name
    :raises EnvironmentOptionError: for a wrong one
    """
    pool.ids(subset)
    if partner is not None:
        pool.id_of(partner)
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise EnvironmentOptionError(f"{name}={value!r}: True or False")


def check_stack(n_stack: int, pixels: bool) -> None:
    """
    :param n_stack: option of the same name
    :param pixels: likewise
    :raises EnvironmentOptionError: for a stack of what is no picture
    """
    if n_stack != 1 and not pixels:
        raise EnvironmentOptionError(f"n_stack={n_stack}: pictures alone are stacked; set pixels=True, or leave n_stack at 1")


class AgentPoolEnv(gym.Env[np.ndarray, Any], Generic[World]):
    """
    The part that all such environments share: who is drawn, what infos tell, saving and restoring.

    Subclasses set ``observation_space``, ``action_space``, ``columns``, ``n_partners``, ``n_partner_actions`` and
    ``partner_observation_size``, and fill in the three methods at the end.

    :param scripts: that there are
    :param pool: the subset that is drawn from
    :param partner: id or name of the only one that is drawn; None draws from the subset
    :raises EnvironmentOptionError: for a wrong value
    """

    columns: tuple[str, ...]
    n_partners: int
    n_partner_actions: int
    partner_observation_size: int

    def __init__(self, scripts: Pool[World], pool: str = "train", partner: int | str | None = None) -> None:
        check_pool_options(scripts, pool, partner)
        self.scripts = scripts
        self.pool_names = scripts.names
        self.pool_size = len(scripts.names)
        self._drawn_from = scripts.ids(pool)
        self.partner_ids = self._drawn_from if partner is None else (scripts.id_of(partner),)
        self._fixed = partner is not None
        #: random state at the episode's beginning, and what was done since
        self._origin: Mapping[str, Any] | None = None
        self._actions: list[int] = []
        self._digest = b""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A new world and a new partner; see :class:`gymnasium.Env`."""
        super().reset(seed=seed)
        return self._begin()

    def _begin(self) -> tuple[np.ndarray, dict[str, Any]]:
        rng = self.np_random
        self._origin, self._actions = rng.bit_generator.state, []
        # the draw takes place whoever it is for: with one partner the worlds are those that all others are met in
        world_seed, script_seed, ticket = (int(number) for number in rng.integers(2**31, size=3))
        self._partner_id = self.partner_ids[0] if self._fixed else self._drawn_from[ticket % len(self._drawn_from)]
        self._script = self.scripts.scripts[self.pool_names[self._partner_id]]()
        self._script_rng = np.random.Generator(np.random.PCG64(script_seed))
        obs = self._begin_world(world_seed)
        self._digest = _hash(obs)
        return obs, self._info([-1] * self.n_partners)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """All act at once; see :class:`gymnasium.Env`."""
        own = int(action)
        actions = self._script(self._world(), self._script_rng)
        obs, reward, terminated, truncated = self._step_world(own, actions)
        self._actions.append(own)
        self._digest = _hash(obs)
        return obs, reward, terminated, truncated, self._info(actions)

    def _info(self, actions: Sequence[int]) -> dict[str, Any]:
        return {
            "partner_id": self._partner_id,
            "partner_actions": np.asarray(actions, dtype=np.int64),
            "partner_observations": self._partner_observations(),
        }

    def get_state(self) -> dict[str, Any]:
        """How the episode began, the ego's actions since, and a hash of the last observation; see :meth:`set_state`."""
        return {
            "names": self.pool_names,
            "drawn_from": self._drawn_from,
            "partner_ids": self.partner_ids,
            "origin": self._origin,
            "actions": list(self._actions),
            "observation": self._digest,
            "rng": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Play the episode again up to where :meth:`get_state` was called.

        :param state: from :meth:`get_state` of an environment of the same kind
        :raises ValueError: when it is of another pool, or when the replayed episode does not end at the same observation
        """
        own = {"names": self.pool_names, "drawn_from": self._drawn_from, "partner_ids": self.partner_ids}
        for name, value in own.items():
            if tuple(state[name]) != tuple(value):
                raise ValueError(f"the state is of an environment whose {name} are {state[name]}, this one's are {value}")
        if state["origin"] is not None:
            self.np_random.bit_generator.state = state["origin"]
            self._begin()
            for action in state["actions"]:
                self.step(action)
            if self._digest != state["observation"]:
                raise ValueError(
                    f"{type(self).__name__} does not come to the same observation when its {len(state['actions'])} actions "
                    "are played again: was the state saved with other versions or options?"
                )
        self.np_random.bit_generator.state = state["rng"]

    @abstractmethod
    def _begin_world(self, seed: int) -> np.ndarray:
        """A new world, the same for the same seed; the ego's observation."""

    @abstractmethod
    def _step_world(self, own: int, actions: Sequence[int]) -> tuple[np.ndarray, float, bool, bool]:
        """The ego's observation and reward, terminated, truncated."""

    @abstractmethod
    def _world(self) -> Any:
        """What scripts look at."""

    @abstractmethod
    def _partner_observations(self) -> np.ndarray:
        """float32 ``(n_partners, partner_observation_size)``."""


def _hash(obs: np.ndarray) -> bytes:
    return hashlib.blake2b(obs.tobytes(), digest_size=8).digest()


class OracleObservation(gym.Wrapper[Any, Any, Any, Any]):
    """
    Tells the ego who its partner is: a one-hot of the id, after a vector observation or beside an image.

    :param env: with a pool
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        size = env.unwrapped.pool_size  # type: ignore[attr-defined]
        self._one_hots = np.eye(size, dtype=np.float32)
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        self._image = len(space.shape) == 3
        if self._image:
            self.observation_space = spaces.Dict(image=space, partner=spaces.Box(0.0, 1.0, (size,), np.float32))
        else:
            low, high = np.concatenate([space.low, np.zeros(size)]), np.concatenate([space.high, np.ones(size)])
            self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def _told(self, obs: np.ndarray, info: dict[str, Any]) -> Any:
        partner = self._one_hots[info["partner_id"]]
        return {"image": obs, "partner": partner.copy()} if self._image else np.concatenate([obs, partner])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._told(obs, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._told(obs, info), reward, terminated, truncated, info

    def get_state(self) -> Any:
        """Of the wrapped environment."""
        return get_state(self.env)

    def set_state(self, state: Any) -> None:
        """Of the wrapped environment."""
        set_state(self.env, state)


def observed(make: Callable[[], AgentPoolEnv[Any]], oracle: bool, pixels: bool, n_stack: int) -> gym.Env[Any, Any]:
    """
    An environment with a pool, as its options say that it is seen.

    :param make: makes it
    :param oracle: tell the partner's id
    :param pixels: observe pictures, not vectors
    :param n_stack: pictures in an observation
    """
    env: gym.Env[Any, Any] = make()
    if pixels:
        env = PixelStack(env, n_stack)
    return OracleObservation(env) if oracle else env
