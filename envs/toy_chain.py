"""
``toy/chain``: items lie about, and are to be collected in one order out of all there are; seen from pixels.

Made for methods that learn from sub-goals, with numpy alone: Crafter's difficulty in seconds. What it is like, and why:

- Sub-goal k is to step on item k, which takes it once items 0 to k-1 are taken; else it stays where it lies. The order is the
  same in every episode and is shown nowhere; places, the floor and the start are new in each. So reaching a sub-goal takes a
  look at the whole picture for one kind of item, and later ones are met only by agents that reach the earlier ones.
- The view moves with the player, who is in its middle, and the floor has no edges: who walks out on one side comes in on the
  other. So the way to an item is seen from where it appears, as in Crafter.
- Collected items lie in the row below. That is all the memory there is: the next sub-goal can be read off the picture, and off
  nothing else.
- Each first unlock gives 1. An agent that acts at random takes the first item in 68 % of its episodes, the second in 31,
  the third in 10, the fourth in 3 (800 episodes of 100 steps).

The true state is in ``info["state"]``, see :attr:`ToyChain.STATE`, and the next sub-goal's number in ``info["labels"]``;
``info["subgoals"]`` is as :mod:`crl.envs.subgoals` says.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from crl.envs.subgoals import KEY

SIZE = 32
#: side of a field, in pixels
CELL = 4
#: fields of the floor; below it lies the row of what was collected
COLUMNS, ROWS = SIZE // CELL, SIZE // CELL - 1
#: where the player is seen
MIDDLE = COLUMNS // 2, ROWS // 2
MAX_ITEMS = COLUMNS
LENGTH = 100

#: up, down, left, right
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))

_COLOURS = np.array(
    [
        (220, 60, 50),
        (70, 190, 70),
        (70, 110, 230),
        (230, 200, 50),
        (180, 80, 210),
        (60, 200, 210),
        (240, 140, 50),
        (150, 150, 160),
    ],
    dtype=np.uint8,
)
_PLAYER = np.array((255, 255, 255), dtype=np.uint8)
_FLOOR = np.array([(24, 24, 28), (34, 32, 36), (28, 36, 34)], dtype=np.uint8)
# an item leaves the corners of its field free, the player is a ring: one can be seen on the other
_ITEM = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]], dtype=bool)
_RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=bool)


class ToyChain(gym.Env[np.ndarray, Any]):
    """
    Observations: ``(3, 32, 32)`` uint8. Actions: up, down, left, right.

    Reward 1 for each item that is stepped on in its turn. Episodes terminate when all are, and are truncated after ``length``
    steps.

    :param items: sub-goals, 1 to 8
    :param length: steps of an episode, at least 1
    :param render_mode: ``"rgb_array"`` or None
    :raises ValueError: for a value out of range
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}
    #: names of the entries of ``info["state"]``: items collected, and how many fields the next one is to the player's right
    #: and below (0, 0: none is left)
    STATE = ("collected", "next_right", "next_below")

    def __init__(self, items: int = MAX_ITEMS, length: int = LENGTH, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r}: None or 'rgb_array'")
        if not 1 <= items <= MAX_ITEMS:
            raise ValueError(f"items={items}: 1 to {MAX_ITEMS}")
        if length < 1:
            raise ValueError(f"length={length}: at least 1")
        self.items = items
        self.length = length
        self.render_mode = render_mode
        self.subgoal_names = tuple(f"item_{k}" for k in range(items))
        self.observation_space = spaces.Box(0, 255, (3, SIZE, SIZE), np.uint8)
        self.action_space = spaces.Discrete(len(MOVES))
        self._t = 0
        self._collected = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A new floor, new places and a new start; see :class:`gymnasium.Env`."""
        super().reset(seed=seed)
        rng = self.np_random
        self._t = 0
        self._collected = 0
        floor = _FLOOR[rng.integers(len(_FLOOR), size=(ROWS, COLUMNS))]
        self._floor = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
        self._floor[: ROWS * CELL] = floor.repeat(CELL, axis=0).repeat(CELL, axis=1)
        places = rng.choice(COLUMNS * ROWS, size=self.items + 1, replace=False)
        fields = [(int(place) % COLUMNS, int(place) // COLUMNS) for place in places]
        self._player, self._places = fields[0], fields[1:]
        self._draw_world()
        return self._observe(), self._info(None)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One move; see :class:`gymnasium.Env`."""
        self._t += 1
        unlocked = None
        (x, y), (dx, dy) = self._player, MOVES[action]
        self._player = (x + dx) % COLUMNS, (y + dy) % ROWS
        if self._player == self._places[self._collected]:
            unlocked = self._collected
            self._collected += 1
            self._draw_world()
        terminated = self._collected == self.items
        reward = 0.0 if unlocked is None else 1.0
        return self._observe(), reward, terminated, not terminated and self._t >= self.length, self._info(unlocked)

    def render(self) -> np.ndarray | None:
        """The picture, ``(32, 32, 3)`` uint8, in mode ``"rgb_array"``."""
        return None if self.render_mode is None else np.ascontiguousarray(self._observe().transpose(1, 2, 0))

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on; see :meth:`set_state`."""
        state = {name: getattr(self, name) for name in ("_t", "_collected", "_player")}
        state |= {"_places": list(self._places), "_floor": self._floor.copy()}
        return {**state, "rng": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Go on exactly where :meth:`get_state` was called.

        :param state: from :meth:`get_state` of an environment with as many items
        :raises ValueError: when it has another number of them
        """
        if len(state["_places"]) != self.items:
            raise ValueError(f"this chain has {self.items} items, the state is of one with {len(state['_places'])}")
        for name in ("_t", "_collected", "_player"):
            setattr(self, name, state[name])
        self._places, self._floor = list(state["_places"]), state["_floor"].copy()
        self.np_random.bit_generator.state = state["rng"]
        self._draw_world()

    def _draw_world(self) -> None:
        """All but the player, seen from the field (0, 0): changes only when an item is taken."""
        self._world = self._floor.copy()
        for k, (x, y) in enumerate(self._places):
            if k >= self._collected:
                _stamp(self._world, x, y, _ITEM, _COLOURS[k])
        for k in range(self._collected):
            _stamp(self._world, k, ROWS, _ITEM, _COLOURS[k])

    def _observe(self) -> np.ndarray:
        canvas = self._world.copy()
        floor = canvas[: ROWS * CELL]
        right, down = (CELL * (middle - at) for middle, at in zip(MIDDLE, self._player, strict=True))
        floor[:] = np.roll(floor, (down, right), axis=(0, 1))
        _stamp(canvas, *MIDDLE, _RING, _PLAYER)
        return np.ascontiguousarray(canvas.transpose(2, 0, 1))

    def _info(self, unlocked: int | None) -> dict[str, Any]:
        report = np.zeros(self.items, dtype=bool)
        if unlocked is not None:
            report[unlocked] = True
        way: tuple[int, ...] = (0, 0)
        if self._collected < self.items:
            there, sides = self._places[self._collected], (COLUMNS, ROWS)
            steps = zip(there, self._player, MIDDLE, sides, strict=True)
            way = tuple((to - at + middle) % side - middle for to, at, middle, side in steps)
        state = np.array((self._collected, *way), dtype=np.float32)
        return {KEY: report, "state": state, "labels": {"next_item": self._collected}}


def _stamp(canvas: np.ndarray, x: int, y: int, shape: np.ndarray, colour: np.ndarray) -> None:
    """Draw into the field ``(x, y)`` of ``(SIZE, SIZE, 3)``."""
    canvas[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL][shape] = colour
