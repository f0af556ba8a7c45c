import os
import pickle
import sys

import numpy as np
import pytest

from crl.envs import EnvironmentOptionError, UnknownEnvironmentError, check_env_id, make_env, make_vec_env
from crl.envs.dmc import TASKS, default_action_repeat, split_id, task_ids

os.environ.setdefault("MUJOCO_GL", "egl")


@pytest.fixture(scope="module")
def suite():
    """dm_control with a renderer that works, or a skip that says why not."""
    module = pytest.importorskip("dm_control.suite", reason="the extra 'dmc' is not installed")
    try:
        module.load("cartpole", "swingup").physics.render(8, 8)
    except Exception as error:  # whatever the GL library raises
        pytest.skip(f"no OpenGL here: {error}")
    return module


def episode(env, actions, seed=None):
    frames, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        frames.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.array(frames), np.array(rewards)


def test_names_without_a_simulator():
    assert split_id("dmc/cartpole-swingup") == ("cartpole", "swingup")
    assert split_id("dmc/ball_in_cup-catch") == split_id("dmc/ball-in-cup-catch") == ("ball_in_cup", "catch")
    check_env_id("dmc/humanoid_CMU-run")
    with pytest.raises(UnknownEnvironmentError, match="dmc/cartpole-swingup"):
        check_env_id("dmc/cartpol-swingup")
    with pytest.raises(UnknownEnvironmentError, match="Nearest"):
        make_vec_env("dmc/cartpole-fly")


@pytest.mark.gl
def test_table_of_tasks_is_the_suites(suite):
    assert {(d, t) for d, tasks in TASKS.items() for t in tasks} == set(suite.ALL_TASKS)


@pytest.mark.gl
def test_shapes_defaults_and_time_limit(suite):
    env = make_env("dmc/cartpole-swingup", seed=0, size=32)
    obs, info = env.reset()
    assert obs.shape == (9, 32, 32) and obs.dtype == np.uint8 and env.observation_space.contains(obs)
    assert info["state"].shape == (5,) and info["physics"].shape == (4,)
    steps, over = 0, False
    env.unwrapped.render = lambda: np.zeros((32, 32, 3), np.uint8)  # physics alone: the episode's end is what counts
    while not over:
        _, reward, terminated, over, _ = env.step(np.zeros(1, np.float32))
        assert not terminated and 0 <= reward <= 8
        steps += 1
    assert steps == 125, "1000 simulator steps, repeated 8 times"
    assert make_env("dmc/quadruped-walk", size=8).unwrapped.camera == 2
    repeats = dict(cartpole=8, finger=2, walker=2, reacher=4, cheetah=4, ball_in_cup=4, hopper=2)
    assert {domain: default_action_repeat(domain) for domain in repeats} == repeats
    assert make_env("dmc/cheetah-run", size=8).get_wrapper_attr("repeat") == 4
    visual = env.unwrapped._env.physics.model.vis.global_
    assert (visual.offwidth, visual.offheight) == (32, 32)


@pytest.mark.gl
def test_pixels_rewards_and_stack_against_the_plain_suite(suite):
    """Frames equal what the suite renders with its own, larger buffer; rewards are sums over the repeated steps."""
    env = make_env("dmc/finger-spin", size=48, action_repeat=3)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (6, 2)).astype(np.float32)
    frames, rewards = episode(env, actions, seed=11)
    plain = suite.load("finger", "spin", task_kwargs=dict(random=np.random.RandomState(11)))
    plain.reset()

    def frame():
        return plain.physics.render(48, 48, camera_id=0).transpose(2, 0, 1)

    stack = [frame()] * 3
    assert (frames[0] == np.concatenate(stack)).all()
    for action, reward, image in zip(actions, rewards, frames[1:], strict=True):
        total = sum(plain.step(action.astype(np.float64)).reward for _ in range(3))
        stack = [*stack[1:], frame()]
        assert reward == pytest.approx(total, abs=1e-12)
        assert (image == np.concatenate(stack)).all()


@pytest.mark.gl
def test_seeds_reproduce_an_episode(suite):
    env = make_env("dmc/reacher-easy", size=24)
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    one, two, other = (episode(env, actions, seed=s)[0] for s in (5, 5, 6))
    assert (one == two).all() and (one != other).any()
    seeded = [episode(make_env("dmc/reacher-easy", seed=3, size=24), actions)[0] for _ in range(2)]
    assert (seeded[0] == seeded[1]).all()


def go_on(env, actions):
    """Everything that can be seen of the steps, and of the first observation after each reset."""
    out = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        out.append((obs, reward, info["physics"], info["state"]))
        if terminated or truncated:
            out.append((env.reset()[0],))
    return out


def restored_equals_original(env_id, size=24):
    """A state taken in mid-episode, restored in another environment with a past of its own, into the next episode."""
    # a small shadow map renders in a fifth of the time
    env, other = (make_env(env_id, seed=seed, size=size, time_limit=0.6, shadow_size=64) for seed in (1, 99))
    env.reset()
    rng = np.random.default_rng(0)
    dim = env.action_space.shape[0]
    for _ in range(4):
        env.step(rng.uniform(-1, 1, dim))
    actions = rng.uniform(-1, 1, (12, dim))
    state = pickle.loads(pickle.dumps(env.get_wrapper_attr("get_state")()))
    want = go_on(env, actions)
    other.reset()
    other.step(np.zeros(dim))
    other.get_wrapper_attr("set_state")(state)
    for x, y in zip(want, go_on(other, actions), strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))
    env.close()
    other.close()
    return want


# targets, lights and gears that are drawn by changing the model; contacts
@pytest.mark.gl
@pytest.mark.parametrize("name", ["reacher-easy", "cheetah-run", "ball_in_cup-catch", "swimmer-swimmer6", "point_mass-hard"])
def test_snapshot_goes_on_bitwise(suite, name):
    restored_equals_original(f"dmc/{name}")


@pytest.mark.gl
def test_snapshot_carries_into_the_next_episode(suite):
    want = restored_equals_original("dmc/cartpole-swingup", size=16)
    assert any(len(item) == 1 for item in want), "the episode must end within the test"


@pytest.mark.gl
@pytest.mark.slow
@pytest.mark.parametrize("name", [env_id.removeprefix("dmc/") for env_id in task_ids() if "lqr" not in env_id])
def test_snapshot_of_every_task(suite, name):
    restored_equals_original(f"dmc/{name}")


@pytest.mark.gl
def test_snapshot_into_an_environment_never_reset_and_of_another_task(suite):
    env, fresh, other = (make_env(f"dmc/{name}", seed=0, size=8) for name in ("reacher-easy", "reacher-easy", "cheetah-run"))
    env.reset()
    state = env.get_wrapper_attr("get_state")()
    fresh.get_wrapper_attr("set_state")(state)
    (obs, reward, *_), (same_obs, same_reward, *_) = env.step(np.ones(2)), fresh.step(np.ones(2))
    assert reward == same_reward and (obs == same_obs).all()
    with pytest.raises(ValueError, match="this is cheetah-run, the state is of reacher-easy"):
        other.get_wrapper_attr("set_state")(state)


@pytest.mark.gl
def test_options(suite):
    with pytest.raises(EnvironmentOptionError, match="has no option sise; it has size, n_stack"):
        make_env("dmc/cartpole-swingup", sise=64)
    with pytest.raises(EnvironmentOptionError, match="cameras 0 to"):
        make_env("dmc/cartpole-swingup", camera=9)
    small = make_env("dmc/walker-walk", size=32, shadow_size=256)
    large = make_env("dmc/walker-walk", size=32)
    a, b = (env.reset(seed=0)[0].astype(float) for env in (small, large))
    assert np.abs(a - b).mean() < 0.5


@pytest.mark.gl
def test_vec_env_says_truncated(suite):
    env = make_vec_env("dmc/cartpole-balance", seed=0, size=8, time_limit=0.24)
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.zeros((1, 1)))
    assert dones[0] and infos[0]["TimeLimit.truncated"] and infos[0]["terminal_observation"].shape == (9, 8, 8)
    env.close()


@pytest.mark.gl
def test_terminated_only_where_the_discount_is_zero(suite):
    """The linear-quadratic regulator is the suite's one task that truly ends."""
    env = make_env("dmc/lqr-lqr_2_1", size=8)
    env.reset(seed=0)
    env.unwrapped._env.physics.data.qpos[:] = 0
    env.unwrapped._env.physics.data.qvel[:] = 0
    env.unwrapped._env.physics.forward()
    *_, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
    assert terminated and not truncated and info["discount"] == 0


@pytest.mark.gl
def test_close_twice(suite):
    env = make_env("dmc/cartpole-swingup", size=8)
    env.reset()
    env.close()
    env.close()


def test_without_dm_control(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ImportError, match=r"pip install 'crl\[dmc\]'"):
        make_env("dmc/cartpole-swingup")
