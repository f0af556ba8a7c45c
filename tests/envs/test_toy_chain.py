import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from crl.envs import EnvironmentOptionError, list_envs, make_env, make_vec_env
from crl.envs.subgoals import HasSubgoals, subgoal_names_of, subgoals_of
from crl.envs.toy_chain import _COLOURS, CELL, COLUMNS, MIDDLE, ROWS, ToyChain


def walk(env, item):
    """Actions that bring the player onto an item without leaving the floor on one side; read off the inner state."""
    (x, y), (goal_x, goal_y) = env.unwrapped._player, env.unwrapped._places[item]
    return [3 if goal_x > x else 2] * abs(goal_x - x) + [1 if goal_y > y else 0] * abs(goal_y - y)


def play(env, actions):
    return [env.step(action) for action in actions]


def field(obs, x, y):
    return obs[:, y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]


def seen(chain, x, y):
    """Where the field is in the picture."""
    return tuple(
        (at - own + middle) % side
        for at, own, middle, side in zip((x, y), chain._player, MIDDLE, (COLUMNS, ROWS), strict=True)
    )


def test_api():
    gymnasium_check(make_env("toy/chain", render_mode="rgb_array"), skip_render_check=False)
    sb3_check(make_env("toy/chain"))
    assert "toy/chain" in list_envs() and isinstance(ToyChain(), HasSubgoals)
    assert len(make_env("crl.envs:crl/toy-chain-v0").unwrapped.subgoal_names) == 8


def test_the_whole_chain():
    env = make_env("toy/chain", seed=3, items=4)
    env.reset()
    total = 0.0
    for item in range(4):
        *way, last = walk(env, item)
        for _, reward, terminated, truncated, info in play(env, way):
            assert reward == 0 and not info["subgoals"].any() and not terminated and not truncated
            assert info["labels"]["next_item"] == item
        _, reward, terminated, truncated, info = env.step(last)
        assert reward == 1 and info["subgoals"].tolist() == [k == item for k in range(4)]
        assert terminated == (item == 3) and not truncated
        total += reward
    assert total == 4
    assert info["state"].tolist() == [4, 0, 0]


def test_items_out_of_turn_stay_where_they_are():
    env = make_env("toy/chain", seed=0)
    env.reset()
    before = env.unwrapped._places[5]
    steps = play(env, walk(env, 5))
    assert env.unwrapped._player == before == env.unwrapped._places[5]
    assert all(
        reward == 0 and not info["subgoals"].any() and info["labels"]["next_item"] == 0 for *_, reward, _, _, info in steps
    )


def test_stepping_there_again_unlocks_nothing():
    env = make_env("toy/chain", seed=0)
    env.reset()
    *_, last = play(env, walk(env, 0))
    assert last[1] == 1 and [step[1] for step in play(env, [3, 2])] == [0, 0]


def test_length_cuts_off():
    env = make_env("toy/chain", seed=0, length=12)
    env.reset()
    ends = [(step[2], step[3]) for step in play(env, [0] * 12)]
    assert ends == [(False, False)] * 11 + [(False, True)]


@pytest.mark.parametrize(
    ("action", "axis", "by", "fields"), [(0, 1, 1, ROWS), (1, 1, -1, ROWS), (2, 2, 1, COLUMNS), (3, 2, -1, COLUMNS)]
)
def test_the_floor_moves_under_the_player_and_has_no_edges(action, axis, by, fields):
    env = make_env("toy/chain", seed=2)
    first, _ = env.reset()
    without_player = np.ones((3, ROWS * CELL, COLUMNS * CELL), dtype=bool)
    field(without_player, *MIDDLE)[:] = False
    before, known = first[:, : ROWS * CELL], without_player
    for _ in range(fields):
        obs, reward, *_ = env.step(action)
        assert reward == 0, "this seed's way is free"
        before, known = (np.roll(picture, by * CELL, axis=axis) for picture in (before, known))
        there = known & without_player
        assert there.sum() >= 54 * 3 * CELL**2 and (obs[:, : ROWS * CELL][there] == before[there]).all()
    assert (obs == first).all()


def test_the_state_tells_the_way_as_it_is_seen():
    env = make_env("toy/chain", seed=4)
    obs, info = env.reset()
    for action in np.random.default_rng(0).integers(4, size=60):
        collected, right, below = info["state"].astype(int)
        assert tuple(field(obs, MIDDLE[0] + right, MIDDLE[1] + below)[:, 1, 1]) == tuple(_COLOURS[collected])
        obs, _, _, _, info = env.step(int(action))


def test_the_picture_shows_items_inventory_and_player():
    env = make_env("toy/chain", seed=7)
    obs, _ = env.reset()
    chain = env.unwrapped
    colours = []
    for x, y in chain._places:
        patch = field(obs, *seen(chain, x, y))
        colours.append(tuple(patch[:, 1, 1]))
    assert len(set(colours)) == 8, "items can be told apart"
    assert (obs[:, ROWS * CELL :] == 0).all(), "nothing is collected yet"
    ring = field(obs, *MIDDLE)
    assert (ring[:, 0] == 255).all() and not (ring[:, 1:3, 1:3] == 255).all()
    place = chain._places[0]
    *_, (obs, *_) = play(env, walk(env, 0))
    assert tuple(field(obs, 0, ROWS)[:, 1, 1]) == colours[0], "it lies below now"
    assert tuple(field(obs, *seen(chain, *place))[:, 1, 1]) != colours[0], "and no longer on the floor"


def test_what_comes_next_is_read_off_the_last_row_alone():
    """The picture is all the memory there is: each number of collected items has a row of its own, whatever the world."""
    rows = {}
    for seed in range(3):
        env = make_env("toy/chain", seed=seed, length=1000)
        obs, _ = env.reset()
        for item in range(8):
            assert rows.setdefault(item, obs[:, ROWS * CELL :].tobytes()) == obs[:, ROWS * CELL :].tobytes()
            *_, (obs, *_) = play(env, walk(env, item))
    assert len(set(rows.values())) == 8


def test_seeds_decide_everything_and_worlds_differ():
    one, two, other = (make_env("toy/chain", seed=seed) for seed in (1, 1, 2))
    first = [env.reset()[0] for env in (one, two, other)]
    assert (first[0] == first[1]).all() and (first[0] != first[2]).any()
    assert (one.reset()[0] != first[0]).any(), "the next episode is another one"
    chain = one.unwrapped
    fields = [chain._player, *chain._places]
    assert len(set(fields)) == 9 and all(0 <= x < COLUMNS and 0 <= y < ROWS for x, y in fields)


def test_goes_on_exactly_where_it_was():
    env, other = make_env("toy/chain", seed=5), make_env("toy/chain", seed=6)
    env.reset()
    other.reset()
    play(env, [*walk(env, 0), 1, 3])
    other.set_state(env.get_state())
    actions = [*walk(env, 1), 0, 0]
    for mine, theirs in zip(play(env, actions), play(other, actions), strict=True):
        assert (mine[0] == theirs[0]).all() and mine[1:4] == theirs[1:4]
    assert (env.reset()[0] == other.reset()[0]).all()
    with pytest.raises(ValueError, match="8 items"):
        other.unwrapped.set_state({**env.unwrapped.get_state(), "_places": [(0, 0)]})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"items": 0}, "at least 1"), ({"items": 9}, "1 to 8"), ({"length": 0}, "at least 1"), ({"distractors": 1}, "no option")],
)
def test_wrong_options(options, message):
    with pytest.raises(EnvironmentOptionError, match=message):
        make_env("toy/chain", **options)


def test_random_agents_reach_the_first_items_and_none_the_last():
    vec = make_vec_env("toy/chain", seed=0, n_envs=8)
    names = subgoal_names_of(vec)
    assert names == tuple(f"item_{k}" for k in range(8))
    vec.reset()
    rng = np.random.default_rng(0)
    counts, episodes = np.zeros(8), 0
    for _ in range(1000):
        _, _, dones, infos = vec.step(rng.integers(4, size=8))
        counts += subgoals_of(infos, 8).sum(axis=0)
        episodes += dones.sum()
    rates = counts / episodes
    assert 0.3 < rates[0] < 0.8 and rates[1] < 0.6 * rates[0] and rates[5:].sum() == 0
    assert (np.diff(rates) <= 0).all(), "later ones need the earlier ones"
