import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env as gymnasium_check
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from stable_baselines3.common.env_checker import check_env as sb3_check

from crl.encoders import PixelEncoder
from crl.envs import UnknownEnvironmentError, list_envs, make_env, make_vec_env
from crl.envs.episode_seeds import episode_seed
from crl.envs.toy import LENGTH, MAX_SPEED, ToyReach

TOYS = ["toy/reach", "toy/reach-discrete"]


@pytest.mark.parametrize("env_id", TOYS)
def test_api(env_id):
    gymnasium_check(make_env(env_id), skip_render_check=True)
    sb3_check(make_env(env_id))
    assert env_id in list_envs()


@pytest.mark.parametrize("env_id", TOYS)
def test_stack_time_limit_and_state(env_id):
    env = make_env(env_id, seed=0)
    obs, info = env.reset()
    assert obs.shape == (9, 32, 32) and obs.dtype == np.uint8
    assert (obs[:3] == obs[3:6]).all() and (obs[3:6] == obs[6:]).all(), "a reset repeats the first frame"
    assert info["state"].shape == (8,) and len(ToyReach.STATE) == 8
    for t in range(1, LENGTH + 1):
        following, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert (following[:6] == obs[3:]).all() and not terminated and 0 <= reward <= 1
        assert truncated == (t == LENGTH)
        obs = following
    assert (np.abs(info["state"][:2]) <= 1).all() and (np.abs(info["state"][2:4]) <= 1.001).all()


def test_reward_wants_the_dot_close_and_slow():
    env = ToyReach()
    env.reset(seed=0)
    env._goal = np.zeros(2)

    def reward_at(position, velocity):
        env._position, env._velocity = np.array(position), np.array(velocity)
        return env.step(np.zeros(2))[1]

    assert reward_at([0.0, 0.0], [0.0, 0.0]) == 1
    assert reward_at([0.5, 0.0], [0.0, 0.0]) == pytest.approx(0.5)
    fast = reward_at([0.0, 0.0], [MAX_SPEED, 0.0])
    assert fast < 0.5 and reward_at([-1.0, -1.0], [0.0, 0.0]) == 0


def test_frames_show_the_state():
    """The newest frame is drawn from the state: the controlled dot is where the state says, and nowhere else."""
    env = ToyReach()
    for seed in range(20):
        env.reset(seed=seed)
        obs, *_, info = env.step(np.array([0.3, -0.2]))
        x, y = info["state"][:2]
        white = obs[-3:].min(axis=0).astype(float)  # the dot alone is bright in all three colours
        rows, columns = np.nonzero(white > 200)
        assert columns.mean() == pytest.approx(3 + (x + 1) / 2 * 25, abs=0.8)
        assert rows.mean() == pytest.approx(3 + (1 - y) / 2 * 25, abs=0.8)


def test_each_episode_has_its_goal_and_background_and_a_distractor_that_moves():
    env = ToyReach()
    goals, corners = set(), set()
    for seed in range(12):
        obs, info = env.reset(seed=seed)
        goals.add(tuple(info["state"][4:6]))
        corners.add(tuple(obs[-3:, 0, 0]))
        start = info["state"]
        for _ in range(5):
            info = env.step(np.zeros(2))[-1]
        assert (info["state"][4:6] == start[4:6]).all() and np.abs(info["state"][6:] - start[6:]).max() > 0.05
    assert len(goals) == 12 and len(corners) == 2


def test_head_room():
    """
    Position and velocity are in the frames (read off by hand here), and a linear probe of a random encoder hardly finds them:
    there is something to learn, and it can be learned.
    """
    env, rng = make_env("toy/reach", seed=0), np.random.default_rng(0)
    images, states, episodes = [], [], []
    for episode in range(60):
        env.reset()
        for t in range(LENGTH):
            action = rng.uniform(-1, 1, 2) if t % 5 == 0 else action  # noqa: F821
            obs, *_, info = env.step(action)
            if t > 2:
                images.append(obs)
                states.append(info["state"][:4])
                episodes.append(episode)
    images, states, test = np.array(images), np.array(states), np.array(episodes) >= 45

    def centre(frames):
        light = np.clip(frames.min(axis=1).astype(float) - 140, 0, None)  # the dot alone is bright in all three colours
        total = light.sum(axis=(1, 2))
        x, y = light.sum(1) @ np.arange(32) / total, light.sum(2) @ np.arange(32) / total
        return np.stack([(x - 3) / 12.5 - 1, 1 - (y - 3) / 12.5], axis=1)

    now, before = centre(images[:, -3:]), centre(images[:, -6:-3])
    by_hand = np.concatenate([now, (now - before) / MAX_SPEED], axis=1)
    assert (r2_score(states[test], by_hand[test], multioutput="raw_values") > 0.9).all()
    th.manual_seed(0)
    encoder = PixelEncoder(env.observation_space, filters=8)
    with th.no_grad():
        features = encoder.forward_body(th.as_tensor(images).float() / 255).flatten(1).numpy()
    scores = []
    for penalty in (1e-3, 1e-2, 1e-1, 1.0, 10.0):  # the best of all, chosen on the test set: an upper bound
        probe = Ridge(penalty).fit(features[~test], states[~test])
        scores.append(r2_score(states[test], probe.predict(features[test])))
    assert max(scores) < 0.4


def test_seeds():
    a, b, c = (make_env("toy/reach", seed=s) for s in (3, 3, 4))
    first = [env.reset()[0] for env in (a, b, c)]
    assert (first[0] == first[1]).all() and (first[0] != first[2]).any()
    a.reset()
    for _ in range(7):
        b.step(np.ones(2))
    assert (a.reset()[0] != b.reset()[0]).any() and (b.reset()[0] == a.get_wrapper_attr("_frames")).all()
    assert len({episode_seed(r, i, j) for r in range(5) for i in range(5) for j in range(5)}) == 125


def test_snapshot_goes_on_bitwise():
    env = make_env("toy/reach", seed=1)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(17):
        env.step(rng.uniform(-1, 1, 2))
    state, actions = env.get_wrapper_attr("get_state")(), rng.uniform(-1, 1, (90, 2))

    def go_on(env):
        out = []
        for action in actions:
            obs, reward, _, over, info = env.step(action)
            out.append((obs, reward, info["state"]))
            if over:
                out.append((env.reset()[0],))
        return out

    want = go_on(env)
    other = make_env("toy/reach", seed=99)
    other.reset()
    other.get_wrapper_attr("set_state")(state)
    for x, y in zip(want, go_on(other), strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))


@pytest.mark.parametrize("subprocess", [False, True])
def test_vec_env(subprocess):
    env = make_vec_env("toy/reach", seed=5, n_envs=2, subprocess=subprocess)
    obs = env.reset()
    assert obs.shape == (2, 9, 32, 32) and (obs[0] != obs[1]).any()
    for _ in range(LENGTH):
        obs, _, dones, infos = env.step(np.zeros((2, 2)))
    assert dones.all() and infos[0]["TimeLimit.truncated"] and infos[0]["episode"]["l"] == LENGTH
    assert infos[0]["terminal_observation"].shape == (9, 32, 32)
    env.close()


def test_unknown_names():
    with pytest.raises(UnknownEnvironmentError, match="toy/reach"):
        make_env("toy/raech")
    with pytest.raises(ValueError, match="at least 1"):
        make_vec_env("toy/reach", n_envs=0)
    with pytest.raises(ValueError, match="rgb_array"):
        make_env("toy/reach", render_mode="human")


def test_render():
    env = make_env("toy/reach", render_mode="rgb_array")
    obs, _ = env.reset()
    assert (env.render() == obs[-3:].transpose(1, 2, 0)).all()


@pytest.mark.parametrize("distractors", [0, 1, 5])
def test_number_of_distractors(distractors):
    env = ToyReach(distractors=distractors)
    _, info = env.reset(seed=3)
    assert info["state"].shape == (6 + 2 * distractors,)
    plain = ToyReach()
    assert np.array_equal(plain.reset(seed=3)[1]["state"][:6], info["state"][:6]), "the task is the same"
    for number in (-1, 9):
        with pytest.raises(ValueError, match="0 to 8"):
            ToyReach(distractors=number)


def test_more_distractors_hide_more():
    few, many = (ToyReach(distractors=n).reset(seed=3)[0].astype(int) for n in (0, 8))
    assert (np.abs(few - many).max(axis=0) > 50).sum() > 30
