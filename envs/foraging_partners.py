"""
Scripted partners for level-based foraging, which differ in nothing but behaviour.

lbforaging's own heuristics cannot be imported (they want a package ``foraging`` that there is not), and on small fields they
nearly coincide: all but one go to the nearest food in most states. These differ in which food they go to, along which way, and
whether they load alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from crl.envs.agent_pool import Pool

NONE, NORTH, SOUTH, WEST, EAST, LOAD = range(6)
_MOVES = {NORTH: (-1, 0), SOUTH: (1, 0), WEST: (0, -1), EAST: (0, 1)}
#: share of a goal-directed partner's actions that are random instead, so that no single action gives it away
NOISE = 0.05
#: share of its steps in which the idle partner rests
IDLE = 0.9
#: cells around a food, in the order of a walk
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))

Cell = tuple[int, int]


@dataclass(frozen=True)
class Foraging:
    """
    What scripts see: the whole field, whatever the players' sight.

    :param foods: level by cell ``(row, column)``
    :param players: cells; the ego first
    :param levels: of the players
    :param size: rows and columns
    """

    foods: dict[Cell, int]
    players: Sequence[Cell]
    levels: Sequence[int]
    size: tuple[int, int]

    @cached_property
    def _free(self) -> int:
        """Cells within the field without food or player, a bit each (see :meth:`_bit`)."""
        rows, columns = self.size
        free = sum(((1 << columns) - 1) << self._bit((row, 0)) for row in range(rows))
        for cell in (*self.foods, *self.players):
            free &= ~(1 << self._bit(cell))
        return free

    def _bit(self, cell: Cell) -> int:
        """A border of one cell keeps moves from leaving at one side and coming in at the other."""
        return (cell[0] + 1) * (self.size[1] + 2) + cell[1] + 1

    def moves(self, me: int) -> list[int]:
        """Moves to free cells."""
        row, column = self.players[me]
        return [move for move, (dr, dc) in _MOVES.items() if self._free >> self._bit((row + dr, column + dc)) & 1]

    def shortest(self, me: int, target: Cell) -> list[int]:
        """
        :param me: index of a player that is not next to the target
        :param target: cell of a food
        :return: the moves with which a shortest way around food and players to a free cell next to the target begins; none
            when there is no way
        """
        width, free = self.size[1] + 2, self._free
        row, column = self.players[me]
        beside = {move: 1 << self._bit((row + dr, column + dc)) for move, (dr, dc) in _MOVES.items()}
        around = free & sum(beside.values())
        # a flood from the target, all cells of a wave at once
        wave = seen = 1 << self._bit(target)
        while wave:
            wave = (wave << 1 | wave >> 1 | wave << width | wave >> width) & free & ~seen
            if wave & around:
                return [move for move, bit in beside.items() if wave & bit]
            seen |= wave
        return []


def distance(a: Cell, b: Cell) -> int:
    """Steps between two cells of an empty field."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def approach(world: Foraging, me: int, target: Cell, rows_first: bool, rng: np.random.Generator) -> int:
    """
    One step of a shortest way to a food.

    :param world: before the step
    :param me: index of the player
    :param target: cell of the food; next to it, the action is to load
    :param rows_first: of several shortest ways the one that goes along its column to the right row first; else the other
    :param rng: for a random move where there is no way
    :return: action
    """
    if distance(world.players[me], target) == 1:
        return LOAD
    shortest = world.shortest(me, target)
    if not shortest:
        free = world.moves(me)
        return int(rng.choice(free)) if free else NONE
    return min(shortest, key=lambda move: (move in (NORTH, SOUTH)) != rows_first)


def circle(world: Foraging, me: int, target: Cell) -> int | None:
    """
    One step of a walk around a food, clockwise; where the way is blocked, the other way round.

    :param world: before the step
    :param me: index of the player
    :param target: cell of the food
    :return: action; None when the player is not yet beside the food
    """
    row, column = world.players[me]
    offset = row - target[0], column - target[1]
    if offset not in _RING:
        return None
    place, free = _RING.index(offset), world.moves(me)
    for turn in (1, -1):
        new = _RING[(place + turn) % len(_RING)]
        wanted = (new[0] - offset[0], new[1] - offset[1])
        move = next(move for move, step in _MOVES.items() if step == wanted)
        if move in free:
            return move
    return NONE


# which food: a number for each, of which the smallest is chosen


def near_self(world: Foraging, me: int, food: Cell) -> float:
    """The nearest."""
    return distance(world.players[me], food)


def far_from_self(world: Foraging, me: int, food: Cell) -> float:
    """The farthest."""
    return -distance(world.players[me], food)


def near_ego(world: Foraging, me: int, food: Cell) -> float:
    """The one nearest to the ego."""
    return distance(world.players[0], food)


def to_the(dr: int, dc: int) -> Callable[[Foraging, int, Cell], float]:
    """The outermost in a direction."""
    return lambda world, me, food: -(dr * food[0] + dc * food[1])


class Forager:
    """
    Goes to the food of its choice and loads.

    :param choose: number of each food, of which the smallest is chosen (among equals the nearest)
    :param rows_first: way of :func:`approach`
    :param keeps: go to the food once chosen until it is gone, instead of choosing anew in each step
    :param alone: consider only food that it can load by itself, and rest when there is none
    :param waits: load only when the ego is next to the food
    :param circles: walk around the food and never load
    """

    def __init__(
        self,
        choose: Callable[[Foraging, int, Cell], float],
        rows_first: bool = True,
        keeps: bool = True,
        alone: bool = False,
        waits: bool = False,
        circles: bool = False,
    ) -> None:
        self.choose = choose
        self.rows_first = rows_first
        self.keeps = keeps
        self.alone = alone
        self.waits = waits
        self.circles = circles
        #: by player
        self._targets: dict[int, Cell] = {}

    def __call__(self, world: Foraging, rng: np.random.Generator) -> list[int]:
        """See :class:`crl.envs.agent_pool.Script`."""
        return [self._act(world, me, rng) for me in range(1, len(world.players))]

    def _act(self, world: Foraging, me: int, rng: np.random.Generator) -> int:
        target = self._target(world, me)
        if rng.random() < NOISE:
            return int(rng.integers(6))
        if target is None:
            return NONE
        if self.circles:
            walk = circle(world, me, target)
            if walk is not None:
                return walk
        action = approach(world, me, target, self.rows_first, rng)
        if action == LOAD and self.waits and distance(world.players[0], target) != 1:
            return NONE
        return action

    def _target(self, world: Foraging, me: int) -> Cell | None:
        if not self.keeps or self._targets.get(me) not in world.foods:
            self._targets.pop(me, None)
            foods = [cell for cell, level in world.foods.items() if not self.alone or level <= world.levels[me]]
            if not foods:
                return None
            here = world.players[me]
            self._targets[me] = min(foods, key=lambda cell: (self.choose(world, me, cell), distance(here, cell)))
        return self._targets[me]


class Drifter:
    """
    Does nothing in particular.

    :param rests: share of the steps in which it rests; else its action is random
    """

    def __init__(self, rests: float) -> None:
        self.rests = rests

    def __call__(self, world: Foraging, rng: np.random.Generator) -> list[int]:
        """See :class:`crl.envs.agent_pool.Script`."""
        return [NONE if rng.random() < self.rests else int(rng.integers(6)) for _ in world.players[1:]]


#: where players can load by themselves
FORAGERS: Pool[Foraging] = Pool(
    {
        "nearest-by-rows": partial(Forager, near_self),
        "nearest-by-columns": partial(Forager, near_self, rows_first=False),
        "farthest": partial(Forager, far_from_self),
        "follows-ego": partial(Forager, near_ego, keeps=False),
        "idle": partial(Drifter, IDLE),
        "random": partial(Drifter, 0.0),
        "selfish": partial(Forager, near_self, alone=True),
        "waits-for-ego": partial(Forager, near_self, waits=True),
    },
    test=("selfish", "waits-for-ego"),
)

#: where all food takes both. Some do their share and some do not, which is not seen in where they stand but in how they move;
#: the former differ in where they go
MATES: Pool[Foraging] = Pool(
    {
        "nearest": partial(Forager, near_self),
        "farthest": partial(Forager, far_from_self),
        "north-first": partial(Forager, to_the(-1, 0)),
        "east-first": partial(Forager, to_the(0, 1), rows_first=False),
        "circles-nearest": partial(Forager, near_self, circles=True),
        "circles-farthest": partial(Forager, far_from_self, circles=True),
        "follows-ego": partial(Forager, near_ego, keeps=False),
        "circles-near-ego": partial(Forager, near_ego, keeps=False, circles=True),
    },
    test=("follows-ego", "circles-near-ego"),
)
