import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env

from crl.envs import make_env
from crl.envs.wrappers import ActionRepeat, PixelStack


class Counter(gym.Env):
    """Renders a grey level that counts the steps; ends after seven."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Dict(a=spaces.Box(0, 9, (1,)), b=spaces.Box(0, 9, (2,)))
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode="rgb_array", height=20, width=30):
        self.render_mode, self.shape = render_mode, (height, width, 3)

    def _obs(self):
        return dict(a=np.array([self.t], np.float32), b=np.zeros(2, np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), float(self.t), self.t == 7, False, {}

    def render(self):
        return np.full(self.shape, 10 * self.t, np.uint8)


@pytest.fixture(autouse=True)
def registered():
    gym.register("crl-test/Counter-v0", entry_point=Counter, max_episode_steps=50)
    yield
    del gym.registry["crl-test/Counter-v0"]


def test_any_environment_that_renders():
    env = make_env("gym/crl-test/Counter-v0", size=16, n_stack=2, action_repeat=3, height=20)
    check_env(env)
    obs, info = env.reset()
    assert obs.shape == (6, 16, 16) and (obs == 0).all() and info["state"].tolist() == [0, 0, 0]
    obs, reward, terminated, _, info = env.step(0)
    assert reward == 1 + 2 + 3 and (obs[:3] == 0).all() and (obs[3:] == 30).all() and info["state"][0] == 3
    env.step(0)
    obs, reward, terminated, _, _ = env.step(0)
    assert reward == 7 and terminated, "a repeat stops at the end of the episode"
    assert (obs[:3] == 60).all() and (obs[3:] == 70).all()


def test_sizes():
    assert PixelStack(Counter(), 1).observation_space.shape == (3, 20, 30), "as it renders"
    assert PixelStack(Counter(), 3, 8).reset()[0].shape == (9, 8, 8)


def test_bad_input():
    with pytest.raises(ValueError, match="render_mode='rgb_array'"):
        PixelStack(Counter(render_mode=None))
    with pytest.raises(ValueError, match="n_stack=0"):
        PixelStack(Counter(), 0)
    with pytest.raises(ValueError, match="action_repeat=0"):
        ActionRepeat(Counter(), 0)


def test_repeated_actions_lose_no_sub_goals():
    class Reaching(Counter):
        subgoal_names = ("a", "b")

        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            self.steps = getattr(self, "steps", 0) + 1
            return obs, reward, terminated, truncated, {**info, "subgoals": np.array([self.steps == 1, self.steps == 4])}

    env = ActionRepeat(Reaching(), 3)
    env.reset()
    assert [list(env.step(env.action_space.sample())[4]["subgoals"]) for _ in range(2)] == [[True, False], [False, True]]
