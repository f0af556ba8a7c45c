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
#: how near the ego must come for a prey that fears it
FEAR = 1.0
#: speed under which the ego is slow for its prey; it falls by a quarter in each step without thrust
SLOW = 0.25
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


# ---- a prey (the last partner) and the ego's mates, who patrol. Preys differ in how they are caught: those that mind nobody
# by going to them, those that trust who is slow by waiting for them. Mates that hunt would bury what the ego does in noise


def _slow(world: Particles) -> bool:
    return float(np.hypot(*world.ego_velocity)) < SLOW


def _from_ego(world: Particles) -> float:
    return float(_distances(world.partners[-1:], world.ego)[0])


def _beside_patrols(world: Particles, prey: np.ndarray | None) -> list[np.ndarray | None]:
    """The prey goes there, or rests; its other predators are on patrol."""
    return [*patrol(world)[:-1], prey]


def _away(world: Particles) -> np.ndarray | None:
    """Straight away from the ego if that is near."""
    prey = world.partners[-1]
    return np.clip(2.0 * prey - world.ego, -0.9, 0.9) if _from_ego(world) < FEAR else None


def rests(world: Particles) -> list[np.ndarray | None]:
    """It stays where it is."""
    return _beside_patrols(world, None)


def goes_to_the_middle(world: Particles) -> list[np.ndarray | None]:
    """It stays in the middle of the world."""
    return _beside_patrols(world, np.zeros(2))


def goes_to_the_edge(world: Particles) -> list[np.ndarray | None]:
    """It stays at the edge that is nearest to it."""
    edge = world.partners[-1].copy()
    axis = int(np.abs(edge).argmax())
    edge[axis] = np.copysign(0.95, edge[axis])
    return _beside_patrols(world, edge)


def _trusts(world: Particles, comes: bool) -> list[np.ndarray | None]:
    """It flees an ego that is not slow, and to one that is it comes, or not."""
    if not _slow(world):
        return _beside_patrols(world, _away(world))
    return _beside_patrols(world, world.ego if comes else None)


def trusts_the_slow(world: Particles) -> list[np.ndarray | None]:
    """It comes to an ego that is slow, and flees one that is not."""
    return _trusts(world, True)


def trusts_the_slow_nearby(world: Particles) -> list[np.ndarray | None]:
    """As one that trusts the slow, but does not come from afar."""
    return _trusts(world, _from_ego(world) < 1.5 * FEAR)


def trusts_the_slow_later(world: Particles) -> list[np.ndarray | None]:
    """As one that trusts the slow, but not before some steps."""
    return _trusts(world, world.step >= SHIFT)


def flees_ego(world: Particles) -> list[np.ndarray | None]:
    """Away from an ego that is near, slow or not."""
    return _beside_patrols(world, _away(world))


def follows_ego(world: Particles) -> list[np.ndarray | None]:
    """It goes to the ego."""
    return _beside_patrols(world, world.ego)


PREY: Pool[Particles] = Pool(
    {
        "rests": _team(rests),
        "goes-to-the-middle": _team(goes_to_the_middle, 0.05),
        "goes-to-the-edge": _team(goes_to_the_edge, 0.05),
        "trusts-the-slow": _team(trusts_the_slow),
        "trusts-the-slow-nearby": _team(trusts_the_slow_nearby),
        "trusts-the-slow-later": _team(trusts_the_slow_later),
        "flees-ego": _team(flees_ego),
        "follows-ego": _team(follows_ego),
    },
    test=("flees-ego", "follows-ego"),
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
