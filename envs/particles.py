"""
``mpe/simple_tag`` and ``mpe/simple_spread``: particle worlds (Lowe et al. 2017; mpe2's version) with a pool of partners.

- ``simple_tag``: the ego is the prey of three predators. -10 for each that touches it, minus the border's penalty, and, as in
  CLAM, +3 for each pair of predators that touch each other: the best way to flee depends on who chases how. With
  ``role="predator"`` it is one of the predators, and the prey is what it has to learn about: +10 for each predator that
  touches it (mpe2's reward, which predators share).
- ``simple_spread``: the ego and two mates share a reward for covering three landmarks, minus collisions.

mpe2 makes the world and knows its physics, rewards and observations; its turn-taking interface and its renderer (which zooms
with the state) are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from crl.envs.agent_pool import AgentPoolEnv, Pool, check_pool_options, check_stack, observed
from crl.envs.errors import EnvironmentOptionError, check_positive
from crl.envs.particle_teams import MATES, PREDATORS, PREY, Particles

#: steps of an episode (CLAM's and LIAM's; mpe2's own is 25)
LENGTH = 50
#: for each pair of predators that touch (CLAM's)
PAIR_BONUS = 3.0
#: pictures show -RANGE to RANGE on both axes, whatever the state
RANGE = 1.3
_FORCES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], dtype=np.float64)


@dataclass(frozen=True)
class _Role:
    """
    :param ego: name of the agent that learns
    :param scripts: of the others
    :param last: what the end of its observations is about
    :param bonus: for each pair of partners that touch
    """

    ego: str
    scripts: Pool[Particles]
    last: tuple[str, ...] = ()
    bonus: float = 0.0


@dataclass(frozen=True)
class _Task:
    """
    :param text: what it is
    :param module: of mpe2
    :param kwargs: of its world
    :param roles: that the ego may have, the usual one first
    :param n_landmarks: in the world
    """

    text: str
    module: str
    kwargs: dict[str, Any]
    roles: dict[str, _Role]
    n_landmarks: int

    def role(self, name: str | None) -> _Role:
        """
        :param name: None takes the usual one
        :raises EnvironmentOptionError: when there is none of this name
        """
        if name is not None and name not in list(self.roles):  # a list, as what cannot be hashed is no role either
            raise EnvironmentOptionError(f"role={name!r}: {' or '.join(map(repr, self.roles))}")
        return self.roles[next(iter(self.roles)) if name is None else name]


_TASKS = {
    "mpe/simple_tag": _Task(
        "a prey among three scripted predators, or one of them, particles (mpe2)",
        "simple_tag_v3",
        dict(num_good=1, num_adversaries=3, num_obstacles=2),
        {
            "prey": _Role("agent_0", PREDATORS, bonus=PAIR_BONUS),
            "predator": _Role("adversary_0", PREY, last=("partner2_velocity",)),
        },
        2,
    ),
    "mpe/simple_spread": _Task(
        "covering three landmarks with two scripted mates, particles (mpe2)",
        "simple_spread_v3",
        dict(N=3, local_ratio=0.5),
        # nobody speaks, but observations have the places
        {"mate": _Role("agent_0", MATES, last=("partner0_message", "partner1_message"))},
        3,
    ),
}

#: ids for lists, and what they are
EXAMPLES = {name: task.text for name, task in _TASKS.items()}


def task_ids() -> list[str]:
    """All ids."""
    return list(_TASKS)


def split_id(env_id: str) -> _Task:
    """
    :param env_id: ``mpe/<task>``; dashes may stand for underscores, and mpe2's version may follow
    :return: the task
    :raises ValueError: when there is none
    """
    plain = env_id.lower().replace("-", "_")
    task = _TASKS.get(plain) or next((task for task in _TASKS.values() if plain == f"mpe/{task.module}"), None)
    if task is None:
        raise ValueError(f"there is no particle world {env_id!r}, but {', '.join(_TASKS)}")
    return task


def with_partners(
    env_id: str,
    *,
    pool: str = "train",
    partner: int | str | None = None,
    oracle: bool = False,
    pixels: bool = False,
    size: int = 64,
    n_stack: int = 1,
    sight: float | None = None,
    role: str | None = None,
) -> Callable[[], gym.Env[Any, Any]]:
    """
    :param env_id: ``mpe/simple_tag`` or ``mpe/simple_spread``
    :param pool: scripts that are drawn: ``"train"``, ``"test"`` or ``"all"``
    :param partner: id or name of the only one that is drawn
    :param oracle: tell the ego the partners' id
    :param pixels: observe pictures
    :param size: side of the pictures, in pixels
    :param n_stack: pictures in an observation
    :param sight: see :class:`ParticleWorld`; of vectors alone
    :param role: see :class:`ParticleWorld`
    :return: makes the environment; mpe2 is loaded no sooner
    :raises ValueError: when there is no such id
    :raises EnvironmentOptionError: for a value out of range
    """
    check_pool_options(split_id(env_id).role(role).scripts, pool, partner, oracle=oracle, pixels=pixels)
    check_positive(size=size, n_stack=n_stack)
    check_stack(n_stack, pixels)
    if sight is not None and (isinstance(sight, bool) or not isinstance(sight, int | float) or not sight > 0):
        raise EnvironmentOptionError(
            f"sight={sight!r}: a distance above 0 in the world's unit (LIAM's is 0.5), or None: all is seen"
        )
    if sight is not None and pixels:
        raise EnvironmentOptionError(f"sight={sight} and pixels=True: pictures show the whole world; leave one of them out")
    # from the id, not the task: scripts are functions, which do not go to other processes
    return partial(observed, partial(ParticleWorld, env_id, pool, partner, size, None, sight, role), oracle, pixels, n_stack)


class ParticleWorld(AgentPoolEnv[Particles]):
    """
    Observations: mpe2's own vector of the ego, float32, without bounds (see :attr:`columns`). Actions: rest, left, right,
    down, up. Episodes are truncated after 50 steps and never terminate.

    Pictures, ``(size, size, 3)`` uint8: the ego in red, others in green, landmarks in blue, y upwards.

    :param env_id: of the task
    :param pool: see :class:`AgentPoolEnv`
    :param partner: see :class:`AgentPoolEnv`
    :param size: side of the pictures, in pixels
    :param scripts: of the partners; None takes the task's own
    :param sight: partners that are farther from the ego are told as (0, 0), where nobody can be; LIAM's predator and prey has
        0.5 (Papoudakis et al. 2021, arXiv:2006.09447). None: all are seen. The partners themselves see everything.
    :param role: whom the ego plays: in ``simple_tag`` the ``"prey"`` (as None, CLAM and LIAM have it) or a ``"predator"`` with
        two mates, whose partners are these mates and the prey, the last of them. The pools are different ones.
    :raises ImportError: without mpe2; names the extra
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        env_id: str,
        pool: str = "train",
        partner: int | str | None = None,
        size: int = 64,
        scripts: Pool[Particles] | None = None,
        sight: float | None = None,
        role: str | None = None,
    ) -> None:
        self.task = split_id(env_id)
        self.role = self.task.role(role)
        super().__init__(self.role.scripts if scripts is None else scripts, pool, partner)
        self.render_mode = "rgb_array"
        self.size = size
        self.sight = sight
        made = _package(self.task.module).raw_env(**self.task.kwargs)
        self._scenario, self._particles = made.scenario, made.world
        self._shared = made.local_ratio
        agents = self._particles.agents
        self._ego = next(agent for agent in agents if agent.name == self.role.ego)
        self._partners = [agent for agent in agents if agent is not self._ego]
        self.observation_space = spaces.Box(-np.inf, np.inf, made.observation_space(self._ego.name).shape, np.float32)
        self.action_space = spaces.Discrete(len(_FORCES))
        #: places of landmarks and partners are told as seen from the ego, in the world's own unit
        self.relative_unit = 1.0
        self.n_partners = len(self._partners)
        self.n_partner_actions = len(_FORCES)
        self.partner_observation_size = max(made.observation_space(agent.name).shape[0] for agent in self._partners)
        things = ["ego_velocity", "ego_position"]
        things += [f"landmark{i}_from_ego" for i in range(self.task.n_landmarks)]
        things += [f"partner{i}_from_ego" for i in range(self.n_partners)]
        things += self.role.last
        self.columns = tuple(f"{thing}_{axis}" for thing in things for axis in "xy")
        assert len(self.columns) == self.observation_space.shape[0], "each number has its name"
        #: of each partner, the numbers that tell of it; its place comes first
        self._about = [
            [index for index, column in enumerate(self.columns) if column.startswith(f"partner{i}_")]
            for i in range(self.n_partners)
        ]
        self._step = 0

    def _begin_world(self, seed: int) -> np.ndarray:
        self._scenario.reset_world(self._particles, seeding.np_random(seed)[0])
        self._step = 0
        return self._observe_own()

    def _observe_own(self) -> np.ndarray:
        obs = self._observe(self._ego)
        if self.sight is not None:
            for about in self._about:
                if np.hypot(*obs[about[:2]]) > self.sight:
                    obs[about] = 0.0
        return obs

    def _observe(self, agent: Any) -> np.ndarray:
        return np.asarray(self._scenario.observation(agent, self._particles), dtype=np.float32)

    def _step_world(self, own: int, actions: Sequence[int]) -> tuple[np.ndarray, float, bool, bool]:
        for agent, action in ((self._ego, own), *zip(self._partners, actions, strict=True)):
            agent.action.u = _FORCES[action] * (5.0 if agent.accel is None else agent.accel)
            agent.action.c = np.zeros(self._particles.dim_c)
        self._particles.step()
        self._step += 1
        return self._observe_own(), self._reward(), False, self._step >= LENGTH

    def _reward(self) -> float:
        own = float(self._scenario.reward(self._ego, self._particles))
        if self._shared is not None:
            return (1.0 - self._shared) * float(self._scenario.global_reward(self._particles)) + self._shared * own
        if not self.role.bonus:
            return own
        pairs = [
            (a, b)
            for index, a in enumerate(self._partners)
            for b in self._partners[index + 1 :]
            if self._scenario.is_collision(a, b)
        ]
        return own + self.role.bonus * len(pairs)

    def _world(self) -> Particles:
        return Particles(
            self._ego.state.p_pos,
            self._ego.state.p_vel,
            np.stack([agent.state.p_pos for agent in self._partners]),
            np.stack([landmark.state.p_pos for landmark in self._particles.landmarks]),
            self._step,
        )

    def _partner_observations(self) -> np.ndarray:
        told = np.zeros((self.n_partners, self.partner_observation_size), dtype=np.float32)
        for row, agent in zip(told, self._partners, strict=True):
            seen = self._observe(agent)
            row[: len(seen)] = seen  # a prey sees less than its predators
        return told

    def render(self) -> np.ndarray:
        """The world within the fixed range, ``(size, size, 3)`` uint8."""
        canvas = np.zeros((self.size, self.size, 3), dtype=np.float32)
        kinds = (self._ego,), self._partners, self._particles.landmarks
        for channel, things in enumerate(kinds):
            for thing in things:
                _disc(canvas[..., channel], thing.state.p_pos, thing.size)
        return np.round(255.0 * canvas).astype(np.uint8)


def _disc(canvas: np.ndarray, centre: np.ndarray, radius: float) -> None:
    """Draw an anti-aliased disc into ``(size, size)`` of 0 to 1; what lies outside of the picture is not seen."""
    size = canvas.shape[0]
    scale = size / (2.0 * RANGE)
    x, y, radius = (centre[0] + RANGE) * scale - 0.5, (RANGE - centre[1]) * scale - 0.5, radius * scale
    left, top = max(0, int(x - radius - 1)), max(0, int(y - radius - 1))
    right, bottom = min(size, int(x + radius + 3)), min(size, int(y + radius + 3))
    if left >= right or top >= bottom:
        return
    dx, dy = np.arange(left, right) - x, np.arange(top, bottom) - y
    alpha = np.clip(radius + 0.5 - np.sqrt(dx[None, :] ** 2 + dy[:, None] ** 2), 0.0, 1.0)
    window = canvas[top:bottom, left:right]
    np.maximum(window, alpha, out=window)


def _package(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"mpe2.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f"particle worlds need the extra 'multiagent': pip install 'crl[multiagent]' ({error})") from error
