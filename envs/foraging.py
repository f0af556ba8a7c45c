"""
``lbf/<id>``: level-based foraging (Albrecht and Ramamoorthy 2013; lbforaging of Papoudakis et al. 2021) with a pool of
partners.

Players on a grid load food: a food is taken when the levels of the players that load it together reach its own, and each gets
a share by its level; all food of an episode is worth 1. The ego gets its own share.

What differs from the package, which is used for the rules alone:

- the time limit is ``truncated``, not ``terminated``;
- it renders without a display: a picture in numpy, with fixed ranges;
- a reset with a seed gives one and the same world, whatever the episode before it was;
- its grid observations, which gymnasium refuses, and its heuristics, which cannot be imported, are not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from crl.envs.agent_pool import AgentPoolEnv, Pool, check_pool_options, check_stack, observed
from crl.envs.errors import EnvironmentOptionError, check_positive
from crl.envs.foraging_partners import FORAGERS, MATES, Foraging

_SIZES, _PLAYERS, _FOODS = range(5, 20), range(2, 10), range(1, 5)
_ID = re.compile(r"(?:Foraging)?-?(2s-)?(\d+)x(\d+)-(\d+)p-(\d+)f(-coop)?(?:-v3)?", re.IGNORECASE)
_N_ACTIONS = 6
#: steps of an episode, lbforaging's own
LENGTH = 50
#: ids for lists, and what they are
EXAMPLES = {
    "lbf/8x8-2p-2f": "level-based foraging with a scripted partner: 8x8, 2 foods",
    "lbf/8x8-2p-2f-coop": "the same where all food takes both, and not every partner does its share",
    "lbf/<id>": "any Foraging[-2s]-<s>x<s>-<p>p-<f>f[-coop]-v3: 5 to 19 cells, 2 to 9 players, 1 to 4 foods; 2s: short sight",
}


def task_ids() -> list[str]:
    """All ids, ``lbf/Foraging[-2s]-<s>x<s>-<p>p-<f>f[-coop]-v3``."""
    return [
        f"lbf/Foraging{sight}-{s}x{s}-{p}p-{f}f{coop}-v3"
        for s in _SIZES
        for p in _PLAYERS
        for f in _FOODS
        for coop in ("", "-coop")
        for sight in ("", "-2s")
    ]


def split_id(env_id: str) -> str:
    """
    :param env_id: ``lbf/<id>``, where ``Foraging-`` and ``-v3`` may be left out: ``lbf/8x8-2p-2f``, ``lbf/2s-8x8-2p-2f``
    :return: lbforaging's id
    :raises ValueError: when there is none
    """
    found = _ID.fullmatch(env_id.removeprefix("lbf/"))
    if found is not None:
        sight, s, width, p, f, coop = found.groups()
        if s == width and int(s) in _SIZES and int(p) in _PLAYERS and int(f) in _FOODS:
            return f"Foraging{'-2s' if sight else ''}-{s}x{s}-{p}p-{f}f{'-coop' if coop else ''}-v3"
    raise ValueError(
        f"level-based foraging has no task {env_id!r}: lbf/Foraging[-2s]-<s>x<s>-<p>p-<f>f[-coop]-v3 with a field of s = "
        f"{_SIZES[0]} to {_SIZES[-1]}, p = {_PLAYERS[0]} to {_PLAYERS[-1]} players and f = {_FOODS[0]} to {_FOODS[-1]} foods"
    )


def _pool_of(name: str) -> Pool[Foraging]:
    return MATES if "-coop" in name else FORAGERS


def with_partners(
    env_id: str,
    *,
    pool: str = "train",
    partner: int | str | None = None,
    oracle: bool = False,
    relative: bool = False,
    time_limit: int = LENGTH,
    penalty: float = 0.0,
    pixels: bool = False,
    size: int = 64,
    n_stack: int = 1,
) -> Callable[[], gym.Env[Any, Any]]:
    """
    :param env_id: ``lbf/<id>``
    :param pool: scripts that are drawn: ``"train"``, ``"test"`` or ``"all"``
    :param partner: id or name of the only one that is drawn
    :param oracle: tell the ego the partner's id
    :param relative: see :class:`LevelBasedForaging`
    :param time_limit: steps of an episode
    :param penalty: for an attempt to load food that is too heavy for those who load it (lbforaging's; its ids have none)
    :param pixels: observe pictures
    :param size: side of the pictures, in pixels
    :param n_stack: pictures in an observation
    :return: makes the environment; lbforaging is loaded no sooner
    :raises ValueError: when there is no such id
    :raises EnvironmentOptionError: for a value out of range
    """
    name = split_id(env_id)
    check_pool_options(_pool_of(name), pool, partner, oracle=oracle, pixels=pixels, relative=relative)
    check_positive(size=size, n_stack=n_stack, time_limit=time_limit)
    check_stack(n_stack, pixels)
    if not penalty >= 0:
        raise EnvironmentOptionError(f"penalty={penalty!r}: 0 or more")
    make = partial(LevelBasedForaging, name, None, pool, partner, relative, time_limit, float(penalty), size)
    return partial(observed, make, oracle, pixels, n_stack)


class LevelBasedForaging(AgentPoolEnv[Foraging]):
    """
    Observations, float32: row, column and level of each food, of the ego, and of the others. ``relative``: food and others as
    seen from the ego, (0, 0, 0) when they are gone or out of sight, all in -1 to 1 (places by the field's side, levels by the
    highest there is). Else lbforaging's own vector: rows and columns counted from 0, (-1, -1, 0) for what is not there.

    With limited sight (``2s``) the two differ in more: lbforaging counts from a corner of what is seen, which moves along, and
    puts whom it sees first in the first place. ``relative`` tells the ego's true place, keeps each of the others in its own,
    and sees as far in all directions, also along the border.

    Actions: none, north, south, west, east, load.

    Pictures, ``(size, size, 3)`` uint8: the ego in red, others in green, food in blue, by their levels; with limited sight the
    window around the ego, what is beyond the field in grey.

    :param name: lbforaging's id
    :param scripts: of the partners; None takes crl's own for the task
    :param pool: see :class:`AgentPoolEnv`
    :param partner: see :class:`AgentPoolEnv`
    :param relative: see above
    :param time_limit: steps of an episode
    :param penalty: for an attempt to load what is too heavy
    :param size: side of the pictures, in pixels
    :raises ImportError: without lbforaging; names the extra
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(
        self,
        name: str,
        scripts: Pool[Foraging] | None = None,
        pool: str = "train",
        partner: int | str | None = None,
        relative: bool = False,
        time_limit: int = LENGTH,
        penalty: float = 0.0,
        size: int = 64,
    ) -> None:
        super().__init__(_pool_of(name) if scripts is None else scripts, pool, partner)
        self.render_mode = "rgb_array"
        self.size = size
        make = _package()
        # its rules, without the wrappers of gymnasium.make: those object to a list of rewards, and take time
        own = {"grid_observation": False, "max_episode_steps": time_limit, "penalty": penalty}
        self._env = make(**{**gym.spec(name).kwargs, **own})
        space = self._env.observation_space[0]
        self._relative = relative
        #: what relative places have to be multiplied by to be counted in fields; None: they are lbforaging's own
        self.relative_unit = float(space.high[0] + 1.0) if relative else None
        self._scale = space.high + np.tile(np.array([1.0, 1.0, 0.0], dtype=np.float32), space.shape[0] // 3)
        low, high = (-np.ones_like(space.low), np.ones_like(space.high)) if relative else (space.low, space.high)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(_N_ACTIONS)
        self.n_partners = len(self._env.players) - 1
        self.n_partner_actions = _N_ACTIONS
        self.partner_observation_size = space.shape[0]
        things = [f"food{i}" for i in range(self._env.max_num_food)] + ["ego"]
        things += [f"partner{i}" for i in range(self.n_partners)]
        self.columns = tuple(f"{thing}_{what}" for thing in things for what in ("row", "column", "level"))
        side = self._env.rows
        self._window = min(self._env.sight, side)
        #: of the field around the ego: less than all of it is seen from some cells
        self._short_sighted = self._window < side - 1
        self._shown = 2 * self._window + 1 if self._short_sighted else side
        self._pixel = (np.arange(size) * self._shown) // size
        self._highest_food, self._highest_level = float(space.high[2]), float(max(self._env.max_player_level))

    def _begin_world(self, seed: int) -> np.ndarray:
        for player in self._env.players:
            player.position = None  # else cells where the last episode ended stay out of the draw
        observations, _ = self._env.reset(seed=seed)
        self._seen = observations
        return self._observe(0)

    def _observe(self, player: int) -> np.ndarray:
        if not self._relative:
            return np.array(self._seen[player])
        things = self._seen[player].reshape(-1, 3).copy() if not self._short_sighted else self._in_sight(player)
        ego = self._env.max_num_food
        missing = things[:, 2] == 0.0
        row, column, _ = things[ego].tolist()
        things[:ego, :2] -= (row, column)
        things[ego + 1 :, :2] -= (row, column)
        things[missing] = 0.0
        return things.ravel() / self._scale

    def _in_sight(self, player: int) -> np.ndarray:
        """As lbforaging's vector, ``(foods + players, 3)``, but for what :class:`LevelBasedForaging` says of limited sight."""
        env = self._env
        things = np.tile(np.array([-1.0, -1.0, 0.0], dtype=np.float32), (env.max_num_food + len(env.players), 1))
        center = np.array(env.players[player].position)
        foods = np.argwhere(env.field)
        near = foods[np.abs(foods - center).max(1, initial=0) <= env.sight]
        for row, (r, c) in enumerate(near):
            things[row] = r, c, env.field[r, c]
        others = [other for index, other in enumerate(env.players) if index != player]
        for row, other in enumerate((env.players[player], *others), env.max_num_food):
            if np.abs(np.array(other.position) - center).max() <= env.sight:
                things[row] = *other.position, other.level
        return things

    def _step_world(self, own: int, actions: Sequence[int]) -> tuple[np.ndarray, float, bool, bool]:
        self._seen, rewards, over, _, _ = self._env.step([own, *actions])
        # it says of the time limit, too, that the game is over
        terminated = bool(over) and not self._env.field.any()
        return self._observe(0), float(rewards[0]), terminated, bool(over) and not terminated

    def _world(self) -> Foraging:
        field = self._env.field
        rows, columns = np.nonzero(field)
        foods = {(row, column): int(field[row, column]) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)}
        players = self._env.players
        cells = [(int(player.position[0]), int(player.position[1])) for player in players]
        return Foraging(foods, cells, [int(player.level) for player in players], field.shape)

    def _partner_observations(self) -> np.ndarray:
        return np.stack([self._observe(player) for player in range(1, len(self._seen))])

    def render(self) -> np.ndarray:
        """The field, or the part of it that the ego sees: ``(size, size, 3)`` uint8."""
        env, reach = self._env, self._window
        ego = env.players[0].position
        # as much around the field as can come into sight
        cells = np.full((env.rows + 2 * reach, env.cols + 2 * reach, 3), 64, dtype=np.uint8)
        inside = cells[reach : reach + env.rows, reach : reach + env.cols]
        inside[..., :2] = 0
        inside[..., 2] = np.round(255.0 / self._highest_food * env.field)
        for index, player in enumerate(env.players):
            inside[player.position][min(index, 1)] = round(255.0 / self._highest_level * int(player.level))
        seen = cells[ego[0] : ego[0] + self._shown, ego[1] : ego[1] + self._shown]
        shown = seen if self._short_sighted else inside
        return np.ascontiguousarray(shown[self._pixel][:, self._pixel])


def _package() -> Any:
    try:
        import lbforaging  # noqa: F401 (registers the ids)
        from lbforaging.foraging import ForagingEnv
    except ModuleNotFoundError as error:
        raise ImportError(
            f"level-based foraging needs the extra 'multiagent': pip install 'crl[multiagent]' ({error})"
        ) from error
    return ForagingEnv
