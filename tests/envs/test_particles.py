"""Particle worlds: mpe2's numbers, pictures with a fixed range, and what each team does."""

import numpy as np
import pytest
from gymnasium.utils import seeding
from mpe2 import simple_spread_v3, simple_tag_v3

from crl.envs import EnvironmentOptionError, make_env
from crl.envs.particle_teams import (
    DOWN,
    LEFT,
    MATES,
    PREDATORS,
    PREY,
    REST,
    RIGHT,
    SHIFT,
    UP,
    Particles,
    towards,
)
from crl.envs.particles import LENGTH, PAIR_BONUS, RANGE, split_id


class Calm:
    """A generator that never lets chance decide."""

    def random(self, n):
        return np.full(n, 0.999)

    def integers(self, high, size):
        return np.zeros(size, dtype=int)


def world(ego, partners, landmarks, velocity=(0, 0), step=0):
    return Particles(*(np.array(part, dtype=float) for part in (ego, velocity, partners, landmarks)), step)


def place(env, ego, partners, landmarks=()):
    env = env.unwrapped
    for thing, position in zip(
        [env._ego, *env._partners, *env._particles.landmarks], [ego, *partners, *landmarks], strict=False
    ):
        thing.state.p_pos, thing.state.p_vel = np.array(position, dtype=float), np.zeros(2)


# ---- mpe2's numbers


def test_ids():
    for name in ("mpe/simple_tag", "mpe/simple-tag", "mpe/simple_tag_v3", "mpe/Simple_Tag"):
        assert split_id(name).module == "simple_tag_v3"
    with pytest.raises(ValueError, match="no particle world 'mpe/simple', but mpe/simple_tag, mpe/simple_spread"):
        split_id("mpe/simple")


@pytest.mark.parametrize(
    "env_id, role, make, ego, others, bonus",
    [
        (
            "mpe/simple_tag",
            "prey",
            lambda: simple_tag_v3.parallel_env(max_cycles=LENGTH),
            "agent_0",
            ["adversary_0", "adversary_1", "adversary_2"],
            True,
        ),
        (
            "mpe/simple_tag",
            "predator",
            lambda: simple_tag_v3.parallel_env(max_cycles=LENGTH),
            "adversary_0",
            ["adversary_1", "adversary_2", "agent_0"],
            False,
        ),
        (
            "mpe/simple_spread",
            None,
            lambda: simple_spread_v3.parallel_env(max_cycles=LENGTH),
            "agent_0",
            ["agent_1", "agent_2"],
            False,
        ),
    ],
)
def test_numbers_are_the_packages_own(env_id, role, make, ego, others, bonus):
    env, theirs = make_env(env_id, pool="all", role=role), make()
    pairs_seen = touches = 0
    for seed in range(4):
        obs, info = env.reset(seed=seed)
        seen, _ = theirs.reset(seed=int(seeding.np_random(seed)[0].integers(2**31, size=3)[0]))
        rng = np.random.default_rng(seed)
        for step in range(LENGTH):
            assert (obs == seen[ego]).all()
            for told, name in zip(info["partner_observations"], others, strict=True):
                assert (told[: len(seen[name])] == seen[name]).all() and not told[len(seen[name]) :].any()
            state = env.unwrapped._world()
            own = towards(state.partners[-1] - state.ego) if role == "predator" else int(rng.integers(5))
            obs, reward, terminated, truncated, info = env.step(own)
            actions = dict(zip(others, info["partner_actions"].tolist(), strict=True))
            seen, rewards, _, cut, _ = theirs.step({ego: own, **actions})
            pairs = 0
            if bonus:
                places = info["partner_observations"][:, 2:4].astype(float)
                pairs = sum(np.hypot(*(places[a] - places[b])) < 0.15 for a, b in ((0, 1), (0, 2), (1, 2)))
            pairs_seen += pairs
            touches += role == "predator" and rewards[ego] > 0
            assert reward == pytest.approx(rewards[ego] + PAIR_BONUS * pairs, abs=1e-6)
            assert not terminated and truncated == cut[ego] == (step == LENGTH - 1)
    assert pairs_seen > 0 or not bonus
    assert touches > 0 or role != "predator"


def test_columns_are_what_they_are_called():
    for env_id, role, partners, landmarks in (
        ("mpe/simple_tag", "prey", 3, 2),
        ("mpe/simple_tag", "predator", 3, 2),
        ("mpe/simple_spread", "mate", 2, 3),
    ):
        env = make_env(env_id, role=role)
        env.reset(seed=0)
        things = [tuple(pair) for pair in np.random.default_rng(0).uniform(-1, 1, (1 + partners + landmarks, 2))]
        place(env, things[0], things[1 : 1 + partners], things[1 + partners :])
        env.unwrapped._ego.state.p_vel = np.array([0.3, -0.4])
        seen = dict(zip(env.unwrapped.columns, env.unwrapped._observe(env.unwrapped._ego).tolist(), strict=True))
        for index, axis in enumerate("xy"):
            assert seen[f"ego_velocity_{axis}"] == pytest.approx((0.3, -0.4)[index])
            assert seen[f"ego_position_{axis}"] == pytest.approx(things[0][index])
            for i in range(partners):
                assert seen[f"partner{i}_from_ego_{axis}"] == pytest.approx(things[1 + i][index] - things[0][index], abs=1e-6)
            for i in range(landmarks):
                away = things[1 + partners + i][index] - things[0][index]
                assert seen[f"landmark{i}_from_ego_{axis}"] == pytest.approx(away, abs=1e-6)
        if role == "predator":
            env.unwrapped._partners[-1].state.p_vel = np.array([0.5, 0.6])
            told = dict(zip(env.unwrapped.columns, env.unwrapped._observe_own().tolist(), strict=True))
            assert [told[f"partner2_velocity_{axis}"] for axis in "xy"] == pytest.approx([0.5, 0.6])


def test_roles():
    for role, words in (("hunter", "role='hunter': 'prey' or 'predator'"), (1, "role=1"), (["prey"], "role=")):
        with pytest.raises(EnvironmentOptionError, match=words):
            make_env("mpe/simple_tag", role=role)
    with pytest.raises(EnvironmentOptionError, match="role='prey': 'mate'"):
        make_env("mpe/simple_spread", role="prey")
    prey, predator = (make_env("mpe/simple_tag", role=role) for role in ("prey", "predator"))
    usual = make_env("mpe/simple_tag")
    assert usual.unwrapped.pool_names == prey.unwrapped.pool_names == PREDATORS.names
    assert predator.unwrapped.pool_names == PREY.names
    with pytest.raises(EnvironmentOptionError, match="partner='all-chase'.*one of 0 rests"):
        make_env("mpe/simple_tag", role="predator", partner="all-chase")


# ---- pictures


def test_pictures():
    env = make_env("mpe/simple_tag", pixels=True, size=52)
    obs, info = env.reset(seed=0)
    assert obs.shape == (3, 52, 52) and obs.dtype == np.uint8 and info["state"].shape == (14,)
    scale = 52 / (2 * RANGE)  # 20 pixels are one
    place(env, (0.5, 1.0), [(-1.0, -1.0), (1.1, -0.6), (0.0, 0.0)], [(-0.7, 0.7), (9.0, 0.0)])
    picture = env.unwrapped.render()
    for channel, centres, radius in (
        (0, [(0.5, 1.0)], 0.05),
        (1, [(-1.0, -1.0), (1.1, -0.6), (0.0, 0.0)], 0.075),
        (2, [(-0.7, 0.7)], 0.2),
    ):
        area = np.pi * (radius * scale) ** 2 * len(centres)
        assert picture[..., channel].sum() / 255 == pytest.approx(area, rel=0.15), "what is out of range is not seen"
        for x, y in centres:
            row, column = int((RANGE - y) * scale), int((x + RANGE) * scale)
            assert picture[row - 1 : row + 1, column - 1 : column + 1, channel].max() > 200
    # the range is fixed: one thing far out moves no other
    place(env, (0.5, 1.0), [(-1.0, -1.0), (40.0, -0.6), (0.0, 0.0)], [(-0.7, 0.7), (9.0, 0.0)])
    other = env.unwrapped.render()
    assert (other[..., [0, 2]] == picture[..., [0, 2]]).all()
    assert (other[30:, :26] == picture[30:, :26]).all() and other[..., 1].sum() < picture[..., 1].sum()


def test_half_a_disc_at_the_border():
    env = make_env("mpe/simple_spread", pixels=True, size=52)
    env.reset(seed=0)
    place(env, (RANGE, 0.0), [(0.0, -RANGE), (5.0, 5.0)], [(-9.0, -9.0)] * 3)
    picture = env.unwrapped.render()
    half = 0.5 * np.pi * (0.15 * 20) ** 2
    assert picture[..., 0].sum() / 255 == pytest.approx(half, rel=0.2)
    assert picture[..., 1].sum() / 255 == pytest.approx(half, rel=0.2)
    assert picture[..., 2].sum() == 0


# ---- teams


def test_moves_go_along_the_longer_axis():
    cases = [((0.5, 0.2), RIGHT), ((-0.5, 0.2), LEFT), ((0.2, 0.5), UP), ((0.2, -0.5), DOWN), ((0.3, 0.3), UP)]
    for way, want in cases:
        assert towards(np.array(way)) == want
    assert towards(np.array((0.04, -0.05)), near=0.05) == REST
    assert towards(np.array((0.04, -0.06)), near=0.05) == DOWN
    # and mpe2 moves that way
    env = make_env("mpe/simple_tag", partner="patrol")
    for action, way in ((LEFT, (-1, 0)), (RIGHT, (1, 0)), (DOWN, (0, -1)), (UP, (0, 1)), (REST, (0, 0))):
        env.reset(seed=0)
        place(env, (0, 0), [(9, 9), (-9, 9), (9, -9)], [(5, 5), (-5, 5)])
        assert np.sign(np.round(env.step(action)[0][:2], 6)).tolist() == list(way)


TRIO = [(-0.5, 0.0), (0.5, 0.1), (0.4, 0.6)]


@pytest.mark.parametrize(
    "name, state, want",
    [
        ("all-chase", world((0, -0.8), TRIO, [(0, 0), (1, 1)]), [DOWN, DOWN, DOWN]),
        ("one-chases-two-follow", world((0, -0.8), TRIO, [(0, 0), (1, 1)]), [DOWN, LEFT, LEFT]),
        # the farthest from the second is the ego; the nearest to the third the second
        ("chase-far-near", world((-0.6, -0.8), TRIO, [(0, 0), (1, 1)]), [DOWN, LEFT, DOWN]),
        # the ego at (0, -0.8) will be at (0.9, -0.1)
        ("all-intercept", world((0, -0.8), TRIO, [(0, 0), (1, 1)], velocity=(0.9, 0.7)), [RIGHT, RIGHT, DOWN]),
        ("two-guard-one-chases", world((-0.5, 0.9), TRIO, [(0.9, 0.0), (1, 1)]), [UP, RIGHT, DOWN]),
        ("patrol", world((0, 0), TRIO, [(0, 0), (1, 1)], step=0), [RIGHT, LEFT, DOWN]),
        ("patrol", world((0.9, 0.9), TRIO, [(0, 0), (1, 1)], step=SHIFT), [UP, LEFT, DOWN]),
        # to the prey's right, upper left and lower left
        ("surround", world((0, 0), [(0.0, 0.1), (0.6, 0.3), (-0.1, 0.6)], [(0, 0), (1, 1)]), [RIGHT, LEFT, DOWN]),
        ("sentries", world((-0.5, 0.5), TRIO, [(0, 0), (1, 1)]), [UP, REST, REST]),
    ],
)
def test_predators(name, state, want):
    assert PREDATORS.scripts[name]()(state, Calm()) == want


LAND = [(-0.9, 0.0), (0.0, 0.9), (0.9, 0.0)]


@pytest.mark.parametrize(
    "name, state, want",
    [
        ("nearest-landmark", world((0, 0), [(-0.5, 0.1), (0.1, 0.2)], LAND), [LEFT, UP]),
        ("first-two-landmarks", world((0, 0), [(0.5, 0.1), (0.1, 0.2)], LAND), [LEFT, UP]),
        ("last-two-landmarks", world((0, 0), [(0.5, 0.1), (0.1, 0.2)], LAND), [UP, RIGHT]),
        ("farthest-landmark", world((0, 0), [(-0.5, 0.1), (0.0, 0.8)], LAND), [RIGHT, LEFT]),
        ("follow-ego", world((0.6, -0.9), [(0.5, 0.1), (0.1, -0.8)], LAND), [DOWN, RIGHT]),
        ("stay", world((0, 0), [(0.5, 0.1), (0.1, 0.2)], LAND), [REST, REST]),
        ("mirror-ego", world((0.6, -0.9), [(-0.5, 0.1), (-0.6, 0.91)], LAND), [UP, REST]),
        ("rotate", world((0, 0), [(0.5, 0.1), (0.1, 0.2)], LAND, step=0), [LEFT, UP]),
        ("rotate", world((0, 0), [(0.5, 0.1), (0.1, 0.2)], LAND, step=SHIFT), [UP, RIGHT]),
    ],
)
def test_mates(name, state, want):
    assert MATES.scripts[name]()(state, Calm()) == want


#: two mates, on their way to the two upper corners, and the prey, the last, in the upper right
HUNT = [(0.3, 0.7), (0.7, 0.4), (0.6, 0.5)]
FAR, FARTHEST, LOW, FAST = (0.6, -0.7), (-0.9, -0.9), (0.6, -0.2), (0.0, 0.3)


@pytest.mark.parametrize(
    "name, state, want",
    [
        ("rests", world(LOW, HUNT, [], FAST), [RIGHT, LEFT, REST]),
        ("goes-to-the-middle", world(LOW, HUNT, [], FAST), [RIGHT, LEFT, LEFT]),
        ("goes-to-the-middle", world(LOW, [*HUNT[:2], (0.04, -0.04)], [], step=SHIFT), [LEFT, LEFT, REST]),
        ("goes-to-the-edge", world(LOW, HUNT, [], FAST), [RIGHT, LEFT, RIGHT]),
        ("goes-to-the-edge", world(LOW, [*HUNT[:2], (0.2, -0.7)], []), [RIGHT, LEFT, DOWN]),
        ("goes-to-the-edge", world(LOW, [*HUNT[:2], (0.2, -0.94)], []), [RIGHT, LEFT, REST]),
        ("trusts-the-slow", world(FARTHEST, HUNT, []), [RIGHT, LEFT, LEFT]),
        ("trusts-the-slow", world(LOW, HUNT, [], FAST), [RIGHT, LEFT, UP]),
        ("trusts-the-slow", world(FAR, HUNT, [], FAST), [RIGHT, LEFT, REST]),
        ("trusts-the-slow-nearby", world(FAR, HUNT, []), [RIGHT, LEFT, DOWN]),
        ("trusts-the-slow-nearby", world(FARTHEST, HUNT, []), [RIGHT, LEFT, REST]),
        ("trusts-the-slow-nearby", world(LOW, HUNT, [], FAST), [RIGHT, LEFT, UP]),
        ("trusts-the-slow-later", world(LOW, HUNT, [], step=SHIFT - 1), [RIGHT, LEFT, REST]),
        ("trusts-the-slow-later", world(LOW, HUNT, [], step=SHIFT), [LEFT, LEFT, DOWN]),
        ("trusts-the-slow-later", world(LOW, HUNT, [], FAST, step=SHIFT), [LEFT, LEFT, UP]),
        ("flees-ego", world(LOW, HUNT, []), [RIGHT, LEFT, UP]),
        ("flees-ego", world(FAR, HUNT, []), [RIGHT, LEFT, REST]),
        ("follows-ego", world(FAR, HUNT, [], FAST), [RIGHT, LEFT, DOWN]),
    ],
)
def test_prey(name, state, want):
    assert PREY.scripts[name]()(state, Calm()) == want


def played(partner, wait):
    """Mean return where the ego goes to the prey, or rests."""
    env, returns = make_env("mpe/simple_tag", role="predator", partner=partner), 0.0
    for seed in range(12):
        env.reset(seed=seed)
        for _ in range(LENGTH):
            state = env.unwrapped._world()
            returns += env.step(REST if wait else towards(state.partners[-1] - state.ego))[1] / 12
    return returns


def test_who_the_prey_is_says_what_to_do():
    for partner in set(PREY.names) - set(PREY.test):
        wait, go = played(partner, wait=True), played(partner, wait=False)
        assert abs(wait - go) > 15 and (wait > go) == partner.startswith("trusts"), partner


def test_all_teams_are_tested_above():
    for test, pool in ((test_predators, PREDATORS), (test_mates, MATES), (test_prey, PREY)):
        assert {name for name, *_ in test.pytestmark[0].args[1]} == set(pool.names)


def test_choices_are_kept_for_an_episode():
    script = MATES.scripts["nearest-landmark"]()
    assert script(world((0, 0), [(-0.5, 0.1), (0.1, 0.2)], LAND), Calm()) == [LEFT, UP]
    assert script(world((0, 0), [(0.8, 0.1), (0.1, 0.2)], LAND), Calm()) == [LEFT, UP]
    assert script(world((0, 0), [(-0.9, 0.04), (0.1, 0.2)], LAND), Calm()) == [REST, UP], "near enough"


def test_one_action_in_ten_is_random():
    state, rng = world((0, -0.8), TRIO, [(0, 0), (1, 1)]), np.random.default_rng(0)
    script = PREDATORS.scripts["all-chase"]()
    others = sum(action != DOWN for _ in range(1000) for action in script(state, rng))
    assert 0.06 < others / 3000 < 0.10, "four fifths of a tenth"


def test_all_predators_are_alike():
    """Sizes, speeds and accelerations tell nothing."""
    for partner in PREDATORS.names:
        env = make_env("mpe/simple_tag", partner=partner).unwrapped
        assert {(agent.size, agent.max_speed, agent.accel, agent.mass) for agent in env._partners} == {(0.075, 1.0, 3.0, 1.0)}


@pytest.mark.parametrize(
    "env_id, role", [("mpe/simple_tag", "prey"), ("mpe/simple_tag", "predator"), ("mpe/simple_spread", "mate")]
)
def test_limited_sight_hides_those_who_are_far(env_id, role):
    """And changes nothing else."""
    whole, short = (make_env(env_id, seed=0, role=role, sight=sight) for sight in (None, 0.5))
    rng, hidden, seen = np.random.default_rng(0), 0, 0
    for _ in range(3):
        (a, one), (b, other) = whole.reset(), short.reset()
        for _ in range(50):
            for name, x, y in zip(whole.unwrapped.columns, a, b, strict=True):
                if not name.startswith("partner") or "message" in name:
                    assert x == y, name
            mates = [i for i, name in enumerate(whole.unwrapped.columns) if "from_ego_x" in name and "partner" in name]
            for i in mates:
                near = np.hypot(*a[i : i + 2]) <= 0.5
                assert (b[i : i + 2] == (a[i : i + 2] if near else 0)).all()
                hidden, seen = hidden + (not near), seen + near
                if role == "predator" and i == mates[-1]:
                    assert (b[-2:] == (a[-2:] if near else 0)).all(), "nor its velocity"
            assert (one["partner_observations"] == other["partner_observations"]).all()
            action = int(rng.integers(5))
            (a, reward, *_, one), (b, same, *_, other) = whole.step(action), short.step(action)
            assert reward == same
    assert hidden > 10 and seen > 10


def test_sight_that_makes_no_sense():
    for sight, pixels, words in (
        (0, False, "above 0"),
        (True, False, "above 0"),
        ("far", False, "above 0"),
        (0.5, True, "pixels=True"),
    ):
        with pytest.raises(EnvironmentOptionError, match=words):
            make_env("mpe/simple_tag", sight=sight, pixels=pixels)
