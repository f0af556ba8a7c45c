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
#: how near those must come whom a prey fears
FEAR = 1.0
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


# ---- a prey (the last partner) and the ego's mates, who chase it. Preys differ in whom they fear: one that fears the ego
# alone is best left to its mates, one that fears the mates must be caught by the ego


def _near(world: Particles, feared: np.ndarray) -> np.ndarray:
    """Of those that the prey fears, ``(n, 2)``, the ones that are too near to it."""
    return feared[_distances(feared, world.partners[-1]) < FEAR]


def _hunted(world: Particles, prey: np.ndarray | None) -> list[np.ndarray | None]:
    """The prey goes there, or rests; its other predators chase it."""
    return [*[world.partners[-1]] * (len(world.partners) - 1), prey]


def _flee(world: Particles, feared: np.ndarray) -> list[np.ndarray | None]:
    prey, near = world.partners[-1], _near(world, feared)
    if not len(near):
        return _hunted(world, None)
    nearest = near[int(_distances(near, prey).argmin())]
    return _hunted(world, np.clip(2.0 * prey - nearest, -0.9, 0.9))


def _hide(world: Particles, feared: np.ndarray) -> list[np.ndarray | None]:
    if not len(_near(world, feared)):
        return _hunted(world, None)
    room = [_distances(feared, corner).min() for corner in _CORNERS]
    return _hunted(world, _CORNERS[int(np.argmax(room))])


def flees_ego(world: Particles) -> list[np.ndarray | None]:
    """Straight away from the ego when that is near; it minds nobody else, and can be caught where the ego keeps away."""
    return _flee(world, world.ego[None])


def hides_from_ego(world: Particles) -> list[np.ndarray | None]:
    """To the corner that is farthest from the ego when that is near; it minds nobody else."""
    return _hide(world, world.ego[None])


def flees_mates(world: Particles) -> list[np.ndarray | None]:
    """Straight away from the ego's mates when one is near; the ego can come up to it."""
    return _flee(world, world.partners[:-1])


def hides_from_mates(world: Particles) -> list[np.ndarray | None]:
    """To the corner that is farthest from the ego's mates when one is near; the ego can come up to it."""
    return _hide(world, world.partners[:-1])


def fears_nobody(world: Particles) -> list[np.ndarray | None]:
    """It rests."""
    return _hunted(world, None)


def follows_a_mate(world: Particles) -> list[np.ndarray | None]:
    """It goes to the first of the ego's mates."""
    return _hunted(world, world.partners[0])


def flees_all(world: Particles) -> list[np.ndarray | None]:
    """Straight away from the nearest predator when that is near."""
    return _flee(world, np.concatenate([world.partners[:-1], world.ego[None]]))


def follows_ego(world: Particles) -> list[np.ndarray | None]:
    """It goes to the ego."""
    return _hunted(world, world.ego)


PREY: Pool[Particles] = Pool(
    {
        "flees-ego": _team(flees_ego),
        "hides-from-ego": _team(hides_from_ego),
        "flees-mates": _team(flees_mates),
        "hides-from-mates": _team(hides_from_mates),
        "fears-nobody": _team(fears_nobody),
        "follows-a-mate": _team(follows_a_mate),
        "flees-all": _team(flees_all),
        "follows-ego": _team(follows_ego),
    },
    test=("flees-all", "follows-ego"),
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
