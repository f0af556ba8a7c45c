"""
Scripted teams for the particle worlds: predators of a prey, a prey with its other predators, mates who spread over landmarks.

All move as CLAM's and LIAM's heuristics do, along the axis on which their target is farther away, and one action in ten is
random. What differs is whom or what they move to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crl.envs.agent_pool import Pool, Script

REST, LEFT, RIGHT, DOWN, UP = range(5)
#: share of actions that are random, so that no single action gives a team away
NOISE = 0.1
#: seconds ahead for which an interceptor reckons
LOOK_AHEAD = 1.0
#: steps after which patrols and rotations go on to the next place
SHIFT = 12
#: how near a predator must come before a prey with a habit leaves its corner, and the steps it keeps to a choice
FEAR, HOLD = 0.5, 6
_CORNERS = np.array([(0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7)])
_THIRDS = np.array([(np.cos(angle), np.sin(angle)) for angle in 2.0 * np.pi * np.arange(3) / 3.0])


@dataclass(frozen=True)
class Particles:
    """
    What scripts see, all in the world's coordinates.

    :param ego: position, ``(2,)``
    :param ego_velocity: ``(2,)``
    :param partners: positions, ``(n_partners, 2)``
    :param landmarks: positions, ``(n_landmarks, 2)``
    :param step: of the episode, from 0
    """

    ego: np.ndarray
    ego_velocity: np.ndarray
    partners: np.ndarray
    landmarks: np.ndarray
    step: int


def towards(way: np.ndarray, near: float = 0.0) -> int:
    """
    :param way: to the target, ``(2,)``
    :param near: rest within this distance on both axes
    :return: the move along the axis on which it is longer
    """
    x, y = float(way[0]), float(way[1])
    if max(abs(x), abs(y)) <= near:
        return REST
    if abs(x) > abs(y):
        return RIGHT if x > 0 else LEFT
    return UP if y > 0 else DOWN


#: where each partner wants to be; None is where it is
Targets = Callable[[Particles], Sequence["np.ndarray | None"]]


class Team:
    """
    :param targets: of each partner, ``(2,)``, or None to rest, of the state alone
    :param near: how near is near enough; 0 for those who want to touch
    """

    def __init__(self, targets: Targets, near: float = 0.0) -> None:
        self.targets = targets
        self.near = near

    def __call__(self, world: Particles, rng: np.random.Generator) -> list[int]:
        """See :class:`crl.envs.agent_pool.Script`."""
        random, moves = rng.random(len(world.partners)) < NOISE, rng.integers(5, size=len(world.partners))
        return [
            int(move) if by_chance else REST if target is None else towards(target - here, self.near)
            for target, here, by_chance, move in zip(self.targets(world), world.partners, random, moves, strict=True)
        ]


class Settled:
    """
    A team whose members choose their targets when the episode begins, and keep to them.

    :param choose: index of a landmark for each partner
    :param near: how near is near enough
    """

    def __init__(self, choose: Callable[[Particles], Sequence[int]], near: float = 0.05) -> None:
        self.choose = choose
        self._team = Team(self._targets, near)
        self._chosen: list[int] | None = None

    def _targets(self, world: Particles) -> Sequence[np.ndarray | None]:
        if self._chosen is None:
            self._chosen = [int(index) for index in self.choose(world)]
        return [world.landmarks[index] for index in self._chosen]

    def __call__(self, world: Particles, rng: np.random.Generator) -> list[int]:
        """See :class:`crl.envs.agent_pool.Script`."""
        return self._team(world, rng)


def _distances(points: np.ndarray, to: np.ndarray) -> np.ndarray:
    return np.hypot(points[:, 0] - to[0], points[:, 1] - to[1])


# ---- predators of a prey (the ego)


def all_chase(world: Particles) -> list[np.ndarray]:
    """All go where the prey is."""
    return [world.ego] * len(world.partners)


def one_chases_two_follow(world: Particles) -> list[np.ndarray]:
    """The first chases, the others follow it (CLAM's first team)."""
    return [world.ego, *[world.partners[0]] * (len(world.partners) - 1)]


def chase_far_near(world: Particles) -> list[np.ndarray]:
    """One chases; one goes to the farthest of all others, one to the nearest (CLAM's second team)."""
    everyone = np.concatenate([world.partners, world.ego[None]])
    far, near = _distances(everyone, world.partners[1]), _distances(everyone, world.partners[2])
    near[2] = np.inf  # itself
    return [world.ego, everyone[int(far.argmax())], everyone[int(near.argmin())]]


def all_intercept(world: Particles) -> list[np.ndarray]:
    """All go where the prey will be if it keeps its velocity."""
    return [world.ego + LOOK_AHEAD * world.ego_velocity] * len(world.partners)


def two_guard_one_chases(world: Particles) -> list[np.ndarray]:
    """The first chases, the others stay at the first obstacle."""
    return [world.ego, *[world.landmarks[0]] * (len(world.partners) - 1)]


def patrol(world: Particles) -> list[np.ndarray]:
    """From corner to corner, whatever the prey does."""
    start = world.step // SHIFT
    return [_CORNERS[(start + index) % len(_CORNERS)] for index in range(len(world.partners))]


def surround(world: Particles) -> list[np.ndarray]:
    """Each at its own side of the prey."""
    return [world.ego + 0.3 * side for side in _THIRDS[: len(world.partners)]]


def sentries(world: Particles) -> list[np.ndarray | None]:
    """They chase what comes near, and rest else."""
    near = _distances(world.partners, world.ego) < 0.6
    return [world.ego if is_near else None for is_near in near]


def _team(targets: Targets, near: float = 0.0) -> Callable[[], Script[Particles]]:
    return lambda: Team(targets, near)


PREDATORS: Pool[Particles] = Pool(
    {
        "all-chase": _team(all_chase),
        "one-chases-two-follow": _team(one_chases_two_follow),
        "chase-far-near": _team(chase_far_near),
        "all-intercept": _team(all_intercept),
        "two-guard-one-chases": _team(two_guard_one_chases),
        "patrol": _team(patrol),
        "surround": _team(surround),
        "sentries": _team(sentries),
    },
    test=("surround", "sentries"),
)


# ---- a prey (the last partner) and the ego's mates, who chase it


class Habit:
    """
    A prey that rests in a corner until a predator comes near, and then goes to another corner: which one is its habit, and
    shows when it goes. Its other predators chase it.

    :param after: from a corner, 0 to 3 counted anticlockwise from the upper right, to the one it flees to
    """

    def __init__(self, after: Callable[[int], int]) -> None:
        self.after = after
        self._team = Team(self._targets, near=0.05)
        self._corner: int | None = None
        self._since = 0

    def _targets(self, world: Particles) -> Sequence[np.ndarray]:
        prey = world.partners[-1]
        if self._corner is None:
            self._corner, self._since = int(_distances(_CORNERS, prey).argmin()), world.step - HOLD
        predators = np.concatenate([world.partners[:-1], world.ego[None]])
        if world.step - self._since >= HOLD and _distances(predators, prey).min() < FEAR:
            self._corner, self._since = self.after(self._corner), world.step
        return [prey] * (len(world.partners) - 1) + [_CORNERS[self._corner]]

    def __call__(self, world: Particles, rng: np.random.Generator) -> list[int]:
        """See :class:`crl.envs.agent_pool.Script`."""
        return self._team(world, rng)


def flee(world: Particles) -> list[np.ndarray]:
    """Straight away from the nearest predator, whatever comes."""
    prey = world.partners[-1]
    predators = np.concatenate([world.partners[:-1], world.ego[None]])
    nearest = predators[int(_distances(predators, prey).argmin())]
    return [prey] * (len(world.partners) - 1) + [np.clip(2.0 * prey - nearest, -0.9, 0.9)]


def to_the_emptiest(world: Particles) -> list[np.ndarray]:
    """To the corner that is farthest from all predators."""
    predators = np.concatenate([world.partners[:-1], world.ego[None]])
    room = [_distances(predators, corner).min() for corner in _CORNERS]
    return [world.partners[-1]] * (len(world.partners) - 1) + [_CORNERS[int(np.argmax(room))]]


PREY: Pool[Particles] = Pool(
    {
        "anticlockwise": lambda: Habit(lambda corner: (corner + 1) % 4),
        "clockwise": lambda: Habit(lambda corner: (corner - 1) % 4),
        "across": lambda: Habit(lambda corner: (corner + 2) % 4),
        "left-and-right": lambda: Habit(lambda corner: (1, 0, 3, 2)[corner]),
        "up-and-down": lambda: Habit(lambda corner: (3, 2, 1, 0)[corner]),
        "stay-home": lambda: Habit(lambda corner: corner),
        "flee": _team(flee),
        "to-the-emptiest": _team(to_the_emptiest, 0.05),
    },
    test=("flee", "to-the-emptiest"),
)


# ---- mates who spread over landmarks


def nearest_landmark(world: Particles) -> list[int]:
    """Each takes the landmark that is nearest to it."""
    return [int(_distances(world.landmarks, here).argmin()) for here in world.partners]


def farthest_landmark(world: Particles) -> list[int]:
    """Each takes the landmark that is farthest from it."""
    return [int(_distances(world.landmarks, here).argmax()) for here in world.partners]


def follow_ego(world: Particles) -> list[np.ndarray]:
    """Both go where the ego is."""
    return [world.ego] * len(world.partners)


def mirror_ego(world: Particles) -> list[np.ndarray]:
    """Both go to the place opposite to the ego's."""
    return [-world.ego] * len(world.partners)


def stay(world: Particles) -> list[None]:
    """Both rest."""
    return [None] * len(world.partners)


def rotate(world: Particles) -> list[np.ndarray]:
    """From landmark to landmark."""
    start = world.step // SHIFT
    return [world.landmarks[(start + index) % len(world.landmarks)] for index in range(len(world.partners))]


MATES: Pool[Particles] = Pool(
    {
        "nearest-landmark": lambda: Settled(nearest_landmark),
        "first-two-landmarks": lambda: Settled(lambda world: (0, 1)),
        "last-two-landmarks": lambda: Settled(lambda world: (1, 2)),
        "farthest-landmark": lambda: Settled(farthest_landmark),
        "follow-ego": _team(follow_ego),
        "stay": _team(stay),
        "mirror-ego": _team(mirror_ego, 0.05),
        "rotate": _team(rotate, 0.05),
    },
    test=("mirror-ego", "rotate"),
)
