"""Level-based foraging: the package's rules and numbers, its faults mended, and what each partner does."""

import time
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from lbforaging.foraging import ForagingEnv

from crl.envs import EnvironmentOptionError, make_env, make_vec_env
from crl.envs.foraging import LevelBasedForaging, split_id, task_ids
from crl.envs.foraging_partners import (
    EAST,
    FORAGERS,
    LOAD,
    MATES,
    NONE,
    NORTH,
    SOUTH,
    WEST,
    Drifter,
    Forager,
    Foraging,
    approach,
    distance,
    near_self,
)


class Calm:
    """A generator that never lets chance decide."""

    def random(self):
        return 0.999

    def choice(self, options):
        raise AssertionError(f"nothing was left to do but a random one of {options}")

    def integers(self, *_):
        raise AssertionError("a random action")


def world(foods, players, levels=None, size=(8, 8)):
    """Ego first."""
    return Foraging(dict(foods), players, levels or [1] * len(players), size)


# ---- rules


def test_ids():
    assert len(task_ids()) == len(set(task_ids())) == 15 * 8 * 4 * 2 * 2
    registered = {name for name in gym.registry if name.startswith("Foraging") and "grid" not in name}
    assert {split_id(name) for name in task_ids()} == registered, "what is listed is what there is"
    assert split_id("lbf/8x8-2p-2f") == split_id("lbf/foraging-8X8-2p-2f-v3") == "Foraging-8x8-2p-2f-v3"
    assert (
        split_id("lbf/2s-15x15-3p-4f-coop")
        == split_id("lbf/Foraging-2s-15x15-3p-4f-coop-v3")
        == "Foraging-2s-15x15-3p-4f-coop-v3"
    )
    for wrong in ("lbf/4x4-2p-2f", "lbf/8x8-1p-2f", "lbf/8x8-2p-5f", "lbf/8x8", "lbf/", "lbf/grid-8x8-2p-2f-v3"):
        with pytest.raises(ValueError, match="has no task"):
            split_id(wrong)


@pytest.mark.parametrize("name", ["Foraging-8x8-2p-2f-v3", "Foraging-2s-8x8-3p-3f-v3", "Foraging-6x6-2p-1f-coop-v3"])
def test_numbers_are_the_packages_own(name):
    """Against lbforaging itself on the same worlds with the same actions."""
    env = make_env(f"lbf/{name}", pool="all")
    theirs = gym.make(name, disable_env_checker=True).unwrapped
    ended = 0
    for seed in range(12):
        obs, info = env.reset(seed=seed)
        for player in theirs.players:
            player.position = None
        seen, _ = theirs.reset(seed=int(gym.utils.seeding.np_random(seed)[0].integers(2**31, size=3)[0]))
        over, rng = False, np.random.default_rng(seed)
        while not over:
            assert (obs == seen[0]).all() and (info["partner_observations"] == np.stack(seen[1:])).all()
            own = int(rng.integers(6))
            obs, reward, terminated, truncated, info = env.step(own)
            seen, rewards, over, _, _ = theirs.step([own, *info["partner_actions"].tolist()])
            assert reward == rewards[0] and (terminated or truncated) == over
        assert (obs == seen[0]).all()
        assert terminated == (theirs.field.sum() == 0) and truncated != terminated
        assert not truncated or theirs.current_step == 50
        ended += terminated
    assert 0 < ended < 12 or "coop" in name, "both ends must be seen"


def test_a_seed_is_a_world_whatever_came_before():
    """lbforaging keeps players off the cells where they ended the last episode."""
    env, fresh = make_env("lbf/5x5-2p-1f"), make_env("lbf/5x5-2p-1f")
    for seed in range(60):
        env.reset(seed=seed)
        for action in (1, 3, 2, 4) * 3:
            env.step(action)
        assert (env.reset(seed=1000)[0] == fresh.reset(seed=1000)[0]).all()


def test_the_time_limit_truncates():
    env = make_env("lbf/8x8-2p-2f", partner="idle", time_limit=7)
    env.reset(seed=0)
    ends = [env.step(NONE)[2:4] for _ in range(7)]
    assert ends[:-1] == [(False, False)] * 6 and ends[-1] == (False, True)


def test_an_empty_field_terminates_even_at_the_time_limit():
    env = make_env("lbf/8x8-2p-1f", partner="idle", time_limit=1).unwrapped
    env.reset(seed=0)
    row, column = np.argwhere(env._env.field)[0]
    env._env.field[row, column] = 1
    env._env._food_spawned = 1
    env._env.players[0].position, env._env.players[0].level = (row - 1, column), 1
    env._env.players[1].position = (0, 0) if row > 1 else (7, 7)
    env._env._gen_valid_moves()
    assert env.step(LOAD)[1:4] == (1.0, True, False)


def test_the_ego_gets_its_own_share():
    """Food of level 3 by a player of level 1 and one of level 2: a third, and two thirds."""
    for ego_level, share in ((1, 1 / 3), (2, 2 / 3)):
        env = make_env("lbf/8x8-2p-1f", partner="nearest-by-rows").unwrapped
        env.reset(seed=0)
        env._env.field[:] = 0
        env._env.field[4, 4], env._env._food_spawned = 3, 3
        for player, cell, level in zip(env._env.players, [(3, 4), (4, 3)], [ego_level, 3 - ego_level], strict=True):
            player.position, player.level = cell, level
        env._env._gen_valid_moves()
        env._script_rng = Calm()
        _, reward, terminated, _, info = env.step(LOAD)
        assert terminated and info["partner_actions"].tolist() == [LOAD]
        assert reward == pytest.approx(share)


def test_relative_observations():
    """The same things, as seen from the ego; a picture of the field can be drawn from either."""
    plain, relative = make_env("lbf/8x8-2p-4f", pool="all"), make_env("lbf/8x8-2p-4f", pool="all", relative=True)
    rng = np.random.default_rng(0)
    gone = 0
    for seed in range(6):
        (a, _), (b, _) = plain.reset(seed=seed), relative.reset(seed=seed)
        for action in rng.integers(6, size=50):
            things, seen = a.reshape(-1, 3), b.reshape(-1, 3)
            assert b in relative.observation_space and np.abs(b).max() <= 1.0
            ego = things[4]
            for index, (thing, view) in enumerate(zip(things, seen, strict=True)):
                want = (thing[:2] - (0 if index == 4 else ego[:2])) / 8
                level = thing[2] / (2 if index >= 4 else 4)
                assert view == pytest.approx([*want, level] if thing[2] else [0, 0, 0], abs=1e-6)
                gone += thing[2] == 0
            a, _, terminated, truncated, _ = plain.step(int(action))
            b = relative.step(int(action))[0]
            if terminated or truncated:
                break
    assert gone > 0


# ---- pictures


def test_pictures_of_the_whole_field():
    env = make_env("lbf/8x8-2p-2f", pixels=True, size=16).unwrapped
    env.reset(seed=0)
    env._env.field[:] = 0
    env._env.field[1, 2], env._env.field[6, 5] = 4, 1
    for player, cell, level in zip(env._env.players, [(0, 0), (7, 7)], [1, 2], strict=True):
        player.position, player.level = cell, level
    picture = env.render()
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    cells = picture[::2, ::2]
    assert (np.repeat(np.repeat(cells, 2, 0), 2, 1) == picture).all()
    want = np.zeros((8, 8, 3), np.uint8)
    want[0, 0] = (128, 0, 0)  # ego of level 1 of 2
    want[7, 7] = (0, 255, 0)
    want[1, 2], want[6, 5] = (0, 0, 255), (0, 0, 64)  # levels 4 and 1 of 4
    assert (cells == want).all()


def test_pictures_in_any_size():
    for name, size in (("15x15-2p-4f-coop", 64), ("8x8-2p-2f", 84), ("2s-8x8-2p-2f", 20)):
        env = make_env(f"lbf/{name}", pixels=True, size=size, n_stack=2)
        obs, info = env.reset(seed=0)
        assert obs.shape == (6, size, size) and obs in env.observation_space
        assert (obs[:3] == obs[3:]).all(), "a reset repeats the first picture"
        assert (obs[3:].transpose(1, 2, 0) == env.unwrapped.render()).all()
        assert info["state"].shape == env.unwrapped.observation_space.shape


def test_a_small_field_is_not_seen_as_a_whole():
    """Five cells are what short sight shows, and not the field from its corner."""
    env = make_env("lbf/2s-5x5-2p-1f", pixels=True, size=5).unwrapped
    env.reset(seed=0)
    env._env.players[0].position = (0, 0)
    assert (env.render()[:2] == 64).all() and (env.render()[:, :2] == 64).all(), "beyond the border"
    assert env.render()[2, 2, 0] > 0, "the ego in the middle"


def test_pictures_show_what_is_in_sight():
    env = make_env("lbf/2s-8x8-2p-1f", pixels=True, size=5).unwrapped
    env.reset(seed=0)
    env._env.field[:] = 0
    env._env.field[1, 2] = 4
    for player, cell in zip(env._env.players, [(0, 1), (7, 7)], strict=True):
        player.position, player.level = cell, 2
    picture = env.render()
    assert picture[2, 2].tolist() == [255, 0, 0], "the ego is in the middle"
    assert picture[3, 3].tolist() == [0, 0, 255]
    assert (picture[:2] == 64).all() and (picture[:, 0] == 64).all(), "beyond the field"
    assert picture[..., 1].max() == 64, "the partner is out of sight"
    env._env.players[1].position = (2, 0)
    assert env.render()[4, 1].tolist() == [0, 255, 0]


# ---- partners


def steps_to(world, me, target):
    """Length of the shortest way to a cell beside the target, by a plain search."""
    queue, seen = deque([(world.players[me], 0)]), {world.players[me]}
    blocked = {*world.foods, *world.players}
    while queue:
        cell, steps = queue.popleft()
        if distance(cell, target) == 1:
            return steps
        for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            new = cell[0] + dr, cell[1] + dc
            if 0 <= new[0] < world.size[0] and 0 <= new[1] < world.size[1] and new not in seen and new not in blocked:
                seen.add(new)
                queue.append((new, steps + 1))
    return None


MOVES = {NORTH: (-1, 0), SOUTH: (1, 0), WEST: (0, -1), EAST: (0, 1)}


@pytest.mark.parametrize("rows_first", [True, False])
def test_approach_takes_a_shortest_way(rows_first):
    rng = np.random.default_rng(0)
    blocked = ties = 0
    for _ in range(300):
        size = tuple(rng.integers(3, 8, size=2).tolist())
        cells = [(r, c) for r in range(size[0]) for c in range(size[1])]
        rng.shuffle(cells)
        cells = [tuple(cell) for cell in cells]
        n_foods = int(rng.integers(1, 6))
        w = world(dict.fromkeys(cells[:n_foods], 1), cells[n_foods : n_foods + 3], size=size)
        target = cells[0]
        here = w.players[1]
        before = steps_to(w, 1, target)
        action = approach(w, 1, target, rows_first, np.random.default_rng(0))
        if before == 0:
            assert action == LOAD
        elif before is None:
            blocked += 1
            assert action in (NONE, *w.moves(1))
        else:
            better = []
            for move in w.moves(1):
                cell = here[0] + MOVES[move][0], here[1] + MOVES[move][1]
                if steps_to(world(w.foods, [w.players[0], cell, w.players[2]], size=size), 1, target) == before - 1:
                    better.append(move)
            assert action in better
            kinds = {move in (NORTH, SOUTH) for move in better}
            ties += len(kinds) == 2
            if len(kinds) == 2:
                assert (action in (NORTH, SOUTH)) == rows_first
    assert blocked > 3 and ties > 30


FIELD = {(2, 2): 1, (5, 6): 2, (6, 1): 4}


@pytest.mark.parametrize(
    "pool, name, ego, me, level, want",
    [
        # me at (4, 4): (2, 2) is 4 away, (5, 6) 3, (6, 1) 5
        (FORAGERS, "nearest-by-rows", (0, 0), (4, 4), 1, SOUTH),
        (FORAGERS, "nearest-by-columns", (0, 0), (4, 4), 1, EAST),
        (FORAGERS, "farthest", (0, 0), (4, 4), 1, SOUTH),
        (FORAGERS, "farthest", (0, 0), (6, 4), 1, NORTH),
        (FORAGERS, "follows-ego", (0, 0), (4, 4), 1, NORTH),
        (FORAGERS, "follows-ego", (7, 0), (6, 4), 1, WEST),
        (FORAGERS, "selfish", (0, 0), (4, 4), 2, SOUTH),
        (FORAGERS, "selfish", (0, 0), (4, 4), 1, NORTH),
        (FORAGERS, "waits-for-ego", (0, 0), (4, 4), 1, SOUTH),
        (FORAGERS, "waits-for-ego", (0, 0), (5, 5), 1, NONE),
        (FORAGERS, "waits-for-ego", (5, 7), (5, 5), 1, LOAD),
        (FORAGERS, "nearest-by-rows", (0, 0), (5, 5), 1, LOAD),
        (FORAGERS, "idle", (0, 0), (5, 5), 1, None),
        (FORAGERS, "random", (0, 0), (5, 5), 1, None),
        (MATES, "nearest", (0, 0), (4, 4), 1, SOUTH),
        (MATES, "farthest", (0, 0), (4, 7), 1, SOUTH),
        (MATES, "farthest", (0, 0), (6, 4), 1, NORTH),
        (MATES, "north-first", (7, 7), (6, 2), 1, NORTH),
        (MATES, "east-first", (7, 7), (3, 2), 1, EAST),
        (MATES, "follows-ego", (0, 0), (4, 4), 1, NORTH),
        (MATES, "circles-nearest", (0, 0), (4, 4), 1, SOUTH),
        (MATES, "circles-nearest", (0, 0), (5, 5), 1, NORTH),
        (MATES, "circles-farthest", (0, 0), (6, 4), 1, NORTH),
        (MATES, "circles-near-ego", (0, 0), (4, 4), 1, NORTH),
        (MATES, "circles-near-ego", (0, 0), (2, 3), 1, SOUTH),
    ],
)
def test_what_each_partner_does(pool, name, ego, me, level, want):
    w = world(FIELD, [ego, me], [1, level])
    script = pool.scripts[name]()
    if want is None:
        assert isinstance(script, Drifter)
    else:
        assert script(w, Calm()) == [want]


def test_all_partners_are_tested_above():
    marks = test_what_each_partner_does.pytestmark[0].args[1]
    assert {(id(pool), name) for pool, name, *_ in marks} == {
        (id(pool), name) for pool in (FORAGERS, MATES) for name in pool.names
    }


def test_idle_and_random_partners():
    w, rng = world(FIELD, [(0, 0), (4, 4)]), np.random.default_rng(0)
    idle = [FORAGERS.scripts["idle"]()(w, rng)[0] for _ in range(2000)]
    assert 0.89 < idle.count(NONE) / 2000 < 0.95
    counts = np.bincount([FORAGERS.scripts["random"]()(w, rng)[0] for _ in range(3000)], minlength=6)
    assert counts.min() > 400 and len(counts) == 6


def test_targets_are_kept_until_they_are_gone():
    """Else the farthest food changes on the way, and the partner stands still between two."""
    script = FORAGERS.scripts["farthest"]()
    assert script(world(FIELD, [(0, 0), (4, 4)]), Calm()) == [SOUTH]
    assert script(world(FIELD, [(0, 0), (6, 4)]), Calm()) == [WEST], "a new one would go to (2, 2)"
    left = {cell: level for cell, level in FIELD.items() if cell != (6, 1)}
    assert script(world(left, [(0, 0), (6, 4)]), Calm()) == [NORTH]
    follower = FORAGERS.scripts["follows-ego"]()
    assert follower(world(FIELD, [(0, 0), (4, 4)]), Calm()) == [NORTH]
    assert follower(world(FIELD, [(5, 7), (4, 4)]), Calm()) == [SOUTH], "it looks where the ego is in each step"


def test_those_who_circle_never_load():
    """They walk clockwise around the food, and back where the way is blocked."""
    script, place, seen = MATES.scripts["circles-nearest"](), (4, 4), []
    for _ in range(8):
        (action,) = script(world({(3, 3): 2}, [(0, 0), place]), Calm())
        place = place[0] + MOVES[action][0], place[1] + MOVES[action][1]
        seen.append(place)
    assert seen == [(4, 3), (4, 2), (3, 2), (2, 2), (2, 3), (2, 4), (3, 4), (4, 4)]
    assert script(world({(3, 3): 2}, [(4, 3), (4, 4)]), Calm()) == [NORTH], "the ego is in the way"
    assert script(world({(3, 3): 2}, [(4, 3), (4, 4), (3, 4)]), Calm())[0] == NONE
    env = make_env("lbf/8x8-2p-2f-coop", partner="circles-farthest")
    loads = 0
    for seed in range(20):
        env.reset(seed=seed)
        loads += sum(int(env.step(NONE)[4]["partner_actions"][0] == LOAD) for _ in range(50))
    assert 0 < loads < 40, "now and then by chance: 5 % of actions are random"


def test_attempts_cost_what_they_are_said_to():
    for penalty in (0.0, 0.1):
        env = make_env("lbf/8x8-2p-1f-coop", partner="circles-nearest", penalty=penalty).unwrapped
        env.reset(seed=0)
        row, column = np.argwhere(env._env.field)[0]
        env._env.players[0].position = (row - 1, column)
        env._env.players[1].position = (0, 0) if row > 2 else (7, 7)
        env._env._gen_valid_moves()
        assert env.step(LOAD)[1] == pytest.approx(-penalty)


def test_nothing_left_to_do():
    assert FORAGERS.scripts["selfish"]()(world({(2, 2): 2}, [(0, 0), (4, 4)], [2, 1]), Calm()) == [NONE]
    assert Forager(near_self)(world({}, [(0, 0), (4, 4)]), Calm()) == [NONE]


def test_several_partners_have_targets_of_their_own():
    script = Forager(near_self)
    w = world(FIELD, [(0, 0), (4, 2), (5, 4)])
    assert script(w, Calm()) == [NORTH, EAST]
    assert script._targets == {1: (2, 2), 2: (5, 6)}
    env = make_env("lbf/8x8-4p-3f", partner="farthest")
    _, info = env.reset(seed=0)
    assert info["partner_actions"].shape == (3,)


def test_partners_load_what_there_is():
    """With the ego out of the way, the goal-directed ones empty a field that they can empty alone."""
    for name, pool in (("nearest-by-rows", FORAGERS), ("farthest", FORAGERS), ("selfish", FORAGERS)):
        env = LevelBasedForaging("Foraging-8x8-2p-2f-v3", pool, "all", name)
        emptied = 0
        for seed in range(20):
            env.reset(seed=seed)
            env._env.field[env._env.field > 0] = 1
            over = False
            while not over:
                _, _, terminated, truncated, _ = env.step(NONE)
                over = terminated or truncated
            emptied += terminated
        assert emptied >= 18


def test_wrappers_cost_less_than_the_game():
    """Against lbforaging alone, so that a busy machine does not matter."""

    def seconds(step, reset, n=300):
        reset()
        began = time.process_time()
        for t in range(n):
            if step(t):
                reset()
        return (time.process_time() - began) / n

    env = make_vec_env("lbf/8x8-2p-2f", seed=0)
    raw = ForagingEnv(**gym.spec("Foraging-8x8-2p-2f-v3").kwargs)
    ours = min(seconds(lambda t: env.step([t % 5]) and False, env.reset) for _ in range(3))
    theirs = min(seconds(lambda t: raw.step([t % 5, t % 4])[2], raw.reset) for _ in range(3))
    assert ours < 4 * theirs


@pytest.mark.parametrize("side, players, n_foods", [(8, 3, 3), (5, 2, 1)])
def test_limited_sight_by_true_places(side, players, n_foods):
    """``relative``: who is within two cells, each in a place of its own, whatever the border; lbforaging's differs in both."""
    env = make_env(f"lbf/2s-{side}x{side}-{players}p-{n_foods}f", pool="all", relative=True)
    inner = env.unwrapped
    rng = np.random.default_rng(0)
    seen, hidden = 0, 0
    for seed in range(8):
        obs, info = env.reset(seed=seed)
        for action in rng.integers(6, size=50):
            assert obs in env.observation_space
            for player, view in enumerate([obs, *info["partner_observations"]]):
                things, here = view.reshape(-1, 3), np.array(inner._env.players[player].position)
                order = [player, *(other for other in range(players) if other != player)]
                for place, index in enumerate(order):
                    other = inner._env.players[index]
                    away = np.array(other.position) - here
                    wanted = [*((here if index == player else away) / side), other.level / 2]
                    near = np.abs(away).max() <= 2
                    assert things[n_foods + place] == pytest.approx(wanted if near else [0, 0, 0], abs=1e-6)
                    seen, hidden = seen + (near and index != player), hidden + (not near)
                foods = {
                    tuple(np.round(side * thing[:2] + here).astype(int)): thing[2] for thing in things[:n_foods] if thing[2]
                }
                highest = inner._highest_food
                wanted_foods = {
                    (r, c): inner._env.field[r, c] / highest
                    for r, c in np.argwhere(inner._env.field)
                    if max(abs(r - here[0]), abs(c - here[1])) <= 2
                }
                assert foods == pytest.approx(wanted_foods)
            obs, _, terminated, truncated, info = env.step(int(action))
            if terminated or truncated:
                break
    assert seen > 20 and hidden > 20


@pytest.mark.parametrize("env_id", ["lbf/8x8-2p-2f", "mpe/simple_tag"])
def test_vectors_are_not_stacked(env_id):
    with pytest.raises(EnvironmentOptionError, match="n_stack=3: pictures alone"):
        make_env(env_id, n_stack=3)
