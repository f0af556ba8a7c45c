"""Worlds shared with scripted partners: what they promise, and that nothing but behaviour tells who the partner is."""

import pickle
import subprocess
import sys
from itertools import combinations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from scipy.stats import binomtest
from stable_baselines3.common.env_checker import check_env as check_for_sb3
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.envs import EnvironmentOptionError, UnknownEnvironmentError, check_env_id, list_envs, make_env, make_vec_env
from crl.envs.agent_pool import Pool
from crl.envs.episode_seeds import episode_seed
from crl.envs.foraging import LevelBasedForaging
from crl.envs.foraging_partners import Drifter
from crl.envs.make import _maker
from crl.envs.particle_teams import Team, stay
from crl.envs.particles import ParticleWorld

#: the last is simple_tag with its other role
IDS = ["lbf/8x8-2p-2f", "lbf/12x12-2p-4f-coop", "mpe/simple_tag", "mpe/simple_spread", "mpe/simple_tag predator"]


def split(env_id):
    env_id, _, role = env_id.partition(" ")
    return env_id, dict(role=role) if role else {}


def bare(env_id, **options):
    """Without EpisodeSeeds, so that reset's own seed is the episode's."""
    env_id, own = split(env_id)
    return make_env(env_id, **own, **options)


def play(env, actions, seed):
    obs, info = env.reset(seed=seed)
    steps = [(obs, 0.0, False, False, info)]
    for action in actions:
        steps.append(env.step(int(action)))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def seen(steps):
    return [(obs.tobytes(), reward, terminated, truncated) for obs, reward, terminated, truncated, _ in steps]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("options", [{}, dict(oracle=True), dict(pixels=True), dict(pixels=True, oracle=True, n_stack=2)])
@pytest.mark.filterwarnings("ignore:.*Box observation space.*")  # particles have no bounds: mpe2's own space
def test_checkers_have_nothing_to_say(env_id, options):
    check_env(bare(env_id, **options), skip_render_check=True)
    check_for_sb3(bare(env_id, **options))


@pytest.mark.parametrize("env_id", IDS)
def test_pools(env_id):
    env = bare(env_id)
    whole, train = bare(env_id, pool="all").unwrapped, env.unwrapped
    test = bare(env_id, pool="test").unwrapped
    assert train.pool_names == whole.pool_names == test.pool_names
    assert train.pool_size == len(set(train.pool_names)) >= 8
    assert len(train.partner_ids) >= 6 and len(test.partner_ids) >= 2
    assert sorted(train.partner_ids + test.partner_ids) == list(whole.partner_ids) == list(range(whole.pool_size))
    for one in (train, test):
        drawn = [one.reset(seed=seed)[1]["partner_id"] for seed in range(300)]
        counts = np.bincount(drawn, minlength=one.pool_size)[list(one.partner_ids)]
        assert counts.sum() == 300
        # 5 standard deviations of a uniform draw
        share = 1 / len(one.partner_ids)
        assert np.abs(counts - 300 * share).max() < 5 * np.sqrt(300 * share * (1 - share))


@pytest.mark.parametrize("env_id", IDS)
def test_fixed_partners_by_id_and_name(env_id):
    name = bare(env_id).unwrapped.pool_names[-1]
    for partner in (name, len(bare(env_id).unwrapped.pool_names) - 1):
        env = bare(env_id, partner=partner)
        assert {env.reset(seed=seed)[1]["partner_id"] for seed in range(5)} == {env.unwrapped.pool_size - 1}
        assert env.unwrapped.partner_ids == (env.unwrapped.pool_size - 1,)


@pytest.mark.parametrize(
    "options, text",
    [
        (dict(pool="trian"), "pool='trian': 'train', 'test', 'all'"),
        (dict(partner="nobody"), "partner='nobody': None .*one of 0 "),
        (dict(partner=99), "partner=99"),
        (dict(partner=True), "partner=True"),
        (dict(oracle=1), "oracle=1: True or False"),
        (dict(pixels="yes"), "pixels='yes'"),
        (dict(size=0), "size=0"),
        (dict(n_stack=0), "n_stack=0"),
        (dict(parnter=1), "no option parnter; it has pool, partner, oracle"),
    ],
)
@pytest.mark.parametrize("env_id", ["lbf/8x8-2p-2f", "mpe/simple_tag"])
def test_wrong_options(env_id, options, text):
    for function in (check_env_id, make_env):
        with pytest.raises(EnvironmentOptionError, match=text):
            function(env_id, options) if function is check_env_id else function(env_id, **options)


@pytest.mark.parametrize(
    "env_id, near",
    [
        ("mpe/simple_tga", "mpe/simple_tag"),
        ("mpe/simple_adversary", "mpe/simple_spread"),
        ("lbf/8x8-2p-5f", "lbf/Foraging-8x8-2p-[1-4]f"),
        ("lbf/Foraging-8x9-2p-2f-v3", "lbf/Foraging-8x8-2p-2f-v3"),
        ("lfb/8x8-2p-2f", "lbf/8x8-2p-2f"),
    ],
)
def test_unknown_ids_name_the_nearest(env_id, near):
    for function in (check_env_id, make_env, make_vec_env):
        with pytest.raises(UnknownEnvironmentError, match=f"Nearest: .*{near}"):
            function(env_id)


def test_names_are_checked_without_the_packages():
    code = """
import sys
from crl.envs import check_env_id, list_envs
for env_id in list_envs():
    if env_id.startswith(("lbf/", "mpe/")) and "<" not in env_id:
        check_env_id(env_id)
check_env_id("lbf/Foraging-2s-15x15-3p-4f-coop-v3", {"partner": 0})
print([name for name in ("lbforaging", "mpe2", "pygame", "torch") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert sum(name.startswith(("lbf/", "mpe/")) for name in list_envs()) >= 4


@pytest.mark.parametrize("env_id, modules", [(IDS[0], ["lbforaging"]), (IDS[2], ["mpe2", "mpe2.simple_tag_v3"])])
def test_a_missing_extra_is_named(env_id, modules, monkeypatch):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'crl\[multiagent\]'"):
        make_env(env_id)


@pytest.mark.parametrize("env_id", IDS)
def test_seeds_repeat_episodes(env_id):
    rng = np.random.default_rng(0)
    actions = rng.integers(5, size=60)
    env, other = bare(env_id), bare(env_id)
    first = play(env, actions, seed=3)
    play(env, actions, seed=4)  # whatever happens in between
    assert seen(first) == seen(play(env, actions, seed=3)) == seen(play(other, actions, seed=3))
    assert seen(first) != seen(play(other, actions, seed=5))
    # through make_env: a hash of the run's seed and the episode's number
    counted = bare(env_id, seed=7)
    counted.reset()
    assert (counted.reset()[0] == other.reset(seed=episode_seed(7, 0, 1))[0]).all()


@pytest.mark.parametrize("env_id", IDS)
def test_infos(env_id):
    env = bare(env_id, pool="all")
    for seed in range(3):
        steps = play(env, np.random.default_rng(seed).integers(5, size=60), seed)
        assert len({info["partner_id"] for *_, info in steps}) == 1
        for obs, *_, info in steps:
            assert isinstance(info["partner_id"], int) and obs.dtype == np.float32
            assert info["partner_actions"].dtype == np.int64 and info["partner_actions"].shape == (env.unwrapped.n_partners,)
            views = info["partner_observations"]
            assert views.dtype == np.float32
            assert views.shape == (env.unwrapped.n_partners, env.unwrapped.partner_observation_size)
        actions = np.array([info["partner_actions"] for *_, info in steps])
        assert (actions[0] == -1).all()
        assert (actions[1:] >= 0).all() and (actions[1:] < env.unwrapped.n_partner_actions).all()
    assert len(env.unwrapped.columns) == len(set(env.unwrapped.columns)) == env.observation_space.shape[0]
    kept = steps[0][0].copy()
    env.step(1)
    assert (steps[0][0] == kept).all(), "observations are not overwritten by later steps"


# ---- who the partner is shows in behaviour alone


@pytest.mark.parametrize("env_id", IDS)
def test_the_first_observation_is_the_same_whoever_the_partner_is(env_id):
    envs = [bare(env_id, partner=index) for index in range(bare(env_id).unwrapped.pool_size)]
    for seed in range(20):
        views = [(env.reset(seed=seed)[0].tobytes(), env.unwrapped._partner_observations().tobytes()) for env in envs]
        assert len(set(views)) == 1
        assert bare(env_id).reset(seed=seed)[0].tobytes() == views[0][0]
    pictures = {bare(env_id, partner=index, pixels=True).reset(seed=0)[0].tobytes() for index in range(len(envs))}
    assert len(pictures) == 1


def accuracy(train, test, n_classes):
    """Of a linear classifier of numbers and their squares, fitted by ridge regression to one-hots."""
    (x, y), (x_new, y_new) = train, test
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6

    def features(values):
        scaled = (values - mean) / std
        return np.concatenate([scaled, scaled**2, np.ones((len(values), 1))], axis=1)

    a = features(x)
    weights = np.linalg.solve(a.T @ a + np.eye(a.shape[1]), a.T @ np.eye(n_classes)[y])
    return ((features(x_new) @ weights).argmax(axis=1) == y_new).sum()


@pytest.mark.parametrize("env_id", IDS)
def test_no_classifier_tells_the_partner_from_the_first_observation(env_id):
    """A binomial test against chance, alpha 0.001, on 1200 episodes that were not fitted."""

    def first(oracle):
        env = bare(env_id, seed=0, oracle=oracle)
        resets = [env.reset() for _ in range(2400)]
        x, y = np.stack([obs for obs, _ in resets]), np.array([info["partner_id"] for _, info in resets])
        names = np.array(env.unwrapped.partner_ids)
        return x, np.searchsorted(names, y), len(names)

    x, y, n_classes = first(oracle=False)
    right = accuracy((x[:1200], y[:1200]), (x[1200:], y[1200:]), n_classes)
    share = np.bincount(y[1200:]).max() / 1200  # what guessing the most frequent one would give
    assert binomtest(int(right), 1200, max(1 / n_classes, share), alternative="greater").pvalue > 0.001
    # and the classifier can do it where there is something to see
    x, y, _ = first(oracle=True)
    assert accuracy((x[:1200], y[:1200]), (x[1200:], y[1200:]), n_classes) == 1200


@pytest.mark.parametrize(
    "make",
    [
        lambda scripts, partner: LevelBasedForaging("Foraging-8x8-2p-2f-v3", scripts, "all", partner),
        lambda scripts, partner: ParticleWorld("mpe/simple_tag", "all", partner, scripts=scripts),
    ],
)
def test_ids_are_not_in_what_is_observed(make):
    """Two ids with one and the same script: every number of the episode is the same, but for the id."""
    script = (lambda: Drifter(0.0)) if isinstance(make(None, None), LevelBasedForaging) else (lambda: Team(stay))
    scripts = Pool({"one": script, "other": script}, test=("other",))
    actions = np.random.default_rng(0).integers(5, size=50)
    one, other = (play(make(scripts, partner), actions, seed=0) for partner in ("one", "other"))
    assert seen(one) == seen(other)
    assert [info["partner_observations"].tobytes() for *_, info in one] == [
        info["partner_observations"].tobytes() for *_, info in other
    ]
    assert {info["partner_id"] for *_, info in one} == {0} and {info["partner_id"] for *_, info in other} == {1}


@pytest.mark.parametrize("env_id", IDS)
def test_the_oracle_alone_is_told(env_id):
    plain, told = bare(env_id, pool="all"), bare(env_id, pool="all", oracle=True)
    size, n = told.unwrapped.pool_size, plain.observation_space.shape[0]
    assert told.observation_space.shape == (n + size,)
    actions = np.random.default_rng(1).integers(5, size=50)
    for seed in range(4):
        for (obs, *_), (longer, *_, info) in zip(play(plain, actions, seed), play(told, actions, seed), strict=True):
            assert (longer[:n] == obs).all()
            assert longer[n:].tolist() == [float(index == info["partner_id"]) for index in range(size)]
    # beside pixels
    told, plain = (bare(env_id, pixels=True, oracle=oracle) for oracle in (True, False))
    assert isinstance(told.observation_space, spaces.Dict)
    for seed in range(3):
        obs, info = told.reset(seed=seed)
        assert (obs["image"] == plain.reset(seed=seed)[0]).all()
        assert obs["partner"].argmax() == info["partner_id"] and obs["partner"].sum() == 1
        assert info["state"].shape == (n,), "the vector beside the pixels tells no more than the vector alone"


@pytest.mark.parametrize("env_id", IDS)
def test_every_partner_behaves_differently(env_id):
    """From the same worlds with the same actions of the ego, partners go different ways."""
    size = bare(env_id).unwrapped.pool_size
    paths = []
    for partner in range(size):
        env = bare(env_id, partner=partner)
        path = []
        for seed in range(8):
            steps = play(env, np.random.default_rng(seed).integers(5, size=50), seed)
            path.append(np.array([info["partner_actions"] for *_, info in steps]).tobytes())
        paths.append(path)
    for one, other in combinations(paths, 2):
        assert sum(a != b for a, b in zip(one, other, strict=True)) >= 4


# ---- vector environments, resuming, speed


@pytest.mark.parametrize("env_id", IDS)
def test_vector_environments_go_on_where_they_were(env_id):
    name, own = split(env_id)
    make = dict(env_id=name, n_envs=2, pool="all", **own)
    env, other = make_vec_env(**make, seed=0), make_vec_env(**make, seed=9)
    obs = env.reset()
    other.reset()
    assert isinstance(env, DummyVecEnv) and obs.shape == (2, *bare(env_id).observation_space.shape), "no frames are stacked"
    assert env.env_method("saves_state") == [True, True]
    assert env.get_attr("pool_size") == [bare(env_id).unwrapped.pool_size] * 2

    def go_on(env, seed, steps=70):
        rng = np.random.default_rng(seed)
        out = []
        for _ in range(steps):
            obs, rewards, dones, infos = env.step(rng.integers(5, size=2))
            partners = [(info["partner_id"], info["partner_actions"].tolist()) for info in infos]
            out.append((obs.tobytes(), rewards.tobytes(), dones.tolist(), partners))
        return out, infos

    go_on(env, 0, 61)
    states = pickle.loads(pickle.dumps(env.env_method("get_state")))
    want, _ = go_on(env, 1)
    assert any(any(dones) for *_, dones, _ in want)
    for index, state in enumerate(states):
        other.env_method("set_state", state, indices=index)
    got, _ = go_on(other, 1)
    assert got == want


def test_monitors_see_returns_and_lengths():
    env = make_vec_env("mpe/simple_tag", seed=0)
    env.reset()
    total = 0.0
    for _ in range(50):
        _, rewards, dones, infos = env.step([1])
        total += rewards[0]
    assert dones[0] and infos[0]["TimeLimit.truncated"]
    assert infos[0]["episode"]["l"] == 50 and infos[0]["episode"]["r"] == pytest.approx(total, abs=1e-3)
    assert infos[0]["terminal_observation"].shape == (14,)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("options", [{}, dict(pixels=True, oracle=True)])
def test_what_makes_them_goes_to_other_processes(env_id, options):
    """As SubprocVecEnv sends it, but to this one."""
    name, own = split(env_id)
    made = _maker(name, {**own, **options})
    make, copy = made, pickle.loads(pickle.dumps(made))
    one, other = make().reset(seed=0)[0], copy().reset(seed=0)[0]
    assert str(one) == str(other)


@pytest.mark.parametrize("env_id", [IDS[0], IDS[2]])
def test_a_replay_that_goes_wrong_is_noticed(env_id):
    env = bare(env_id)
    play(env, [1, 2, 3, 4], seed=0)
    state = env.get_state()
    bare(env_id).set_state(state)
    for wrong in (dict(actions=[1, 2, 3, 3]), dict(actions=[1, 2, 3])):
        with pytest.raises(ValueError, match="does not come to the same observation"):
            bare(env_id).set_state({**state, **wrong})
    with pytest.raises(ValueError, match="whose partner_ids are"):
        bare(env_id, partner=0).set_state(state)
    fresh = bare(env_id)
    with pytest.raises(ValueError, match="whose drawn_from are"):
        fresh.set_state(bare(env_id, pool="test").get_state())
    fresh.set_state(bare(env_id).get_state())  # before its first episode


def test_gymnasium_wrappers_around():
    """Saved through wrappers that gymnasium has, too."""
    from crl.envs.env_state import get_state, set_state

    env, fresh = (gym.wrappers.TimeLimit(bare("lbf/8x8-2p-2f"), 20) for _ in range(2))
    env.reset(seed=1)
    env.step(1)
    set_state(fresh, get_state(env))
    assert (fresh.step(2)[0] == env.step(2)[0]).all()
