"""Crafter (Hafner 2021, arXiv:2109.06780) as gymnasium environments: ``crafter/reward`` and ``crafter/noreward``."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from crl.envs.errors import EnvironmentOptionError, check_positive
from crl.envs.subgoals import KEY

IDS = {
    "crafter/reward": "Crafter: survival with 22 achievements, 64x64; rewards of first unlocks and health",
    "crafter/noreward": "Crafter without rewards, for exploration",
}
#: steps after which the world ends
LENGTH = 10_000
#: side of the pictures that all published results are on
SIZE = 64
#: fields across: the picture needs a pixel for each
_FIELDS = 9

ACTIONS = (
    "noop",
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "do",
    "sleep",
    "place_stone",
    "place_table",
    "place_furnace",
    "place_plant",
    "make_wood_pickaxe",
    "make_stone_pickaxe",
    "make_iron_pickaxe",
    "make_wood_sword",
    "make_stone_sword",
    "make_iron_sword",
)
ACHIEVEMENTS = (
    "collect_coal",
    "collect_diamond",
    "collect_drink",
    "collect_iron",
    "collect_sapling",
    "collect_stone",
    "collect_wood",
    "defeat_skeleton",
    "defeat_zombie",
    "eat_cow",
    "eat_plant",
    "make_iron_pickaxe",
    "make_iron_sword",
    "make_stone_pickaxe",
    "make_stone_sword",
    "make_wood_pickaxe",
    "make_wood_sword",
    "place_furnace",
    "place_plant",
    "place_stone",
    "place_table",
    "wake_up",
)


def from_pixels(env_id: str, *, size: int = SIZE, length: int = LENGTH) -> Callable[[], gym.Env[Any, Any]]:
    """
    :param env_id: one of :data:`IDS`
    :param size: side of the pictures, in pixels; published results are on 64
    :param length: steps of an episode; published results are on 10,000
    :return: makes the environment; the game is loaded no sooner
    :raises EnvironmentOptionError: for a value out of range
    """
    check_positive(size=size, length=length)
    if size < _FIELDS:
        raise EnvironmentOptionError(f"size={size}: at least {_FIELDS}, a pixel for each field of the view")
    return partial(Crafter, reward=env_id == "crafter/reward", size=size, length=length)


class Crafter(gym.Env[np.ndarray, Any]):
    """
    Observations: ``(3, size, size)`` uint8, the map around the player and, below, what it has. 17 actions, see
    :data:`ACTIONS`.

    Reward: 1 when at least one achievement is unlocked for the first time in the episode, and a tenth of the change of health.
    Death terminates an episode, the time limit truncates it. ``reset(seed=...)`` reproduces an episode exactly, in any
    process.

    Infos hold ``subgoals`` (see :mod:`crl.envs.subgoals`), ``achievements`` (counts in this episode), ``inventory`` and
    ``discount``. The game's map and the player's place are left out: four kilobytes a step are much between processes.

    :param reward: give rewards
    :param size: side of the pictures, in pixels
    :param length: steps of an episode
    :param render_mode: ``"rgb_array"``
    :raises ImportError: without crafter; names the extra
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    subgoal_names = ACHIEVEMENTS

    def __init__(
        self, reward: bool = True, size: int = SIZE, length: int = LENGTH, render_mode: str | None = "rgb_array"
    ) -> None:
        self.render_mode = render_mode
        self._game = _game_class()(size=(size, size), reward=reward, length=length, seed=0)
        self._unlocked = np.zeros(len(ACHIEVEMENTS), dtype=bool)
        self._picture = np.zeros((size, size, 3), dtype=np.uint8)
        self.observation_space = spaces.Box(0, 255, (3, size, size), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A new world; see :class:`gymnasium.Env`."""
        first = self._np_random is None
        super().reset(seed=seed)
        if seed is not None or first:
            # the game counts its worlds from the seed that it was made with
            self._game._seed = int(self.np_random.integers(2**31 - 1)) if seed is None else seed
            self._game._episode = 0
        self._unlocked[:] = False
        self._picture = self._game.reset()
        player = self._game._player
        return self._observe(), self._info(dict(player.inventory), dict(player.achievements), 1.0)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        self._picture, reward, over, info = self._game.step(int(action))
        terminated = info["discount"] == 0
        own = self._info(info["inventory"], info["achievements"], info["discount"])
        return self._observe(), float(reward), terminated, bool(over) and not terminated, own

    def render(self) -> np.ndarray | None:
        """The last observation, ``(size, size, 3)`` uint8."""
        return None if self.render_mode is None else self._picture

    def get_state(self) -> bytes:
        """Everything that the future depends on; see :meth:`set_state`."""
        game = self._game
        own = {name: getattr(game, name) for name in _GAME_STATE}
        return pickle.dumps({"game": own, "unlocked": self._unlocked, "picture": self._picture})

    def set_state(self, state: bytes) -> None:
        """
        Go on exactly where :meth:`get_state` was called.

        :param state: from :meth:`get_state`; it is unpickled, so it must come from nobody else
        """
        saved = pickle.loads(state)
        for name, value in saved["game"].items():
            setattr(self._game, name, value)
        for view in (self._game._local_view, self._game._sem_view):
            view._world = self._game._world
        self._unlocked, self._picture = saved["unlocked"], saved["picture"]
        self._np_random = self.np_random  # there is one from now on: the next reset() goes on counting, and draws no seed

    def _observe(self) -> np.ndarray:
        return np.ascontiguousarray(self._picture.transpose(2, 0, 1))

    def _info(self, inventory: dict[str, int], achievements: dict[str, int], discount: float) -> dict[str, Any]:
        unlocked = np.array([achievements[name] > 0 for name in ACHIEVEMENTS])
        new = unlocked & ~self._unlocked
        self._unlocked = unlocked
        return {KEY: new, "achievements": achievements, "inventory": inventory, "discount": discount}


#: of the game: the world with all that is in it, and the counters around it
_GAME_STATE = ("_world", "_player", "_seed", "_episode", "_step", "_last_health", "_unlocked")


def _game_class() -> type[Any]:
    try:
        import crafter
    except ModuleNotFoundError as error:
        raise ImportError(f"Crafter needs the extra 'crafter': pip install 'crl[crafter]' ({error})") from error
    from crafter.objects import Player

    from crl.envs.crafter_world import generate_world

    class Game(crafter.Env):
        """crafter's environment, whose episodes depend on their seed alone, and begin without delay."""

        def reset(self) -> np.ndarray:
            """As crafter's own, but for the function that makes the same world."""
            self._episode += 1
            self._step = 0
            self._world.reset(seed=hash((self._seed, self._episode)) % (2**31 - 1))
            self._update_time()
            width, height = self._world.area
            self._player = Player(self._world, (width // 2, height // 2))
            self._last_health = self._player.health
            self._world.add(self._player)
            self._unlocked: set[str] = set()
            generate_world(self._world, self._player)
            return self._obs()

        def _balance_chunk(self, chunk: Any, objs: Any) -> None:
            # Which creature vanishes is drawn from a set of objects, whose order is that of their addresses in memory: the
            # game differs between two processes with one seed. In the order of their creation it does not.
            order = self._world._obj_map
            super()._balance_chunk(chunk, sorted(objs, key=lambda obj: order[tuple(obj.pos)]))

    return Game
