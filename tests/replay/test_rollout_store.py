"""What on-policy objectives draw from: true next observations, dones and rewards."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from crl.encoders import PixelEncoder
from crl.replay import RolloutStore

from ..fakes import FakeImages


class Spy(BaseCallback):
    def __init__(self, store):
        super().__init__()
        self.store, self.seen = store, []

    def _on_step(self):
        self.store.add_step(self.model, self.locals)
        step = self.locals
        self.seen.append((np.array(self.model._last_obs), np.array(step["new_obs"]), np.array(step["rewards"]), step["infos"]))
        return True


@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.Box(-2, 6, (2,), np.float32)])
@pytest.mark.parametrize("normalize", [False, True])
def test_store_against_what_the_environment_did(actions, normalize):
    env = DummyVecEnv([lambda: FakeImages(actions, length=5, truncate=True)] * 2)
    if normalize:
        env = VecNormalize(env, norm_obs=False)
    policy_kwargs = dict(features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=2, layers=1))
    model = PPO("CnnPolicy", env, n_steps=16, batch_size=8, n_epochs=1, gamma=0.9, seed=0, policy_kwargs=policy_kwargs)
    store = RolloutStore(32, env.observation_space, actions, 2)
    spy = Spy(store)
    model.learn(32, callback=spy)
    buffer = store.buffer
    assert buffer.full
    for t, (obs, new_obs, _, infos) in enumerate(spy.seen):
        assert (buffer.observations[t] == obs).all()
        for e in range(2):
            terminal = infos[e].get("terminal_observation")
            expected = new_obs[e] if terminal is None else terminal
            assert (buffer.next_observations[t, e] == expected).all()
            assert buffer.timeouts[t, e] == (terminal is not None) == bool(buffer.dones[t, e])
    seen = np.array([rewards for _, _, rewards, _ in spy.seen])
    if normalize:
        assert not np.allclose(buffer.rewards, seen), "what SB3 sees is normalised"
        assert np.allclose(buffer.rewards[-1], env.get_original_reward())
    else:
        assert np.allclose(buffer.rewards, seen), "no bootstrap value added"
        assert not np.allclose(buffer.rewards, model.rollout_buffer.rewards), "SB3 has added one"
    if isinstance(actions, spaces.Box):
        assert buffer.actions.min() >= -1 and buffer.actions.max() <= 1 and buffer.actions.min() < 0


class Remembering(FakeImages):
    """Keeps the actions that it gets."""

    def __init__(self, actions):
        super().__init__(actions)
        self.got = []

    def step(self, action):
        self.got.append(np.array(action))
        return super().step(action)


@pytest.mark.parametrize("squash", [False, True])
def test_actions_are_what_the_environment_got(squash):
    low, high = np.array([-2.0, 0.0], np.float32), np.array([6.0, 0.5], np.float32)
    env = Remembering(spaces.Box(low, high))
    small = dict(features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=2, layers=1))
    policy_kwargs = dict(squash_output=squash, **small)
    model = PPO("CnnPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, use_sde=squash, policy_kwargs=policy_kwargs)
    spy = Spy(RolloutStore(16, env.observation_space, env.action_space, 1))
    model.learn(16, callback=spy)
    stored = spy.store.buffer.actions[:, 0]
    np.testing.assert_allclose(low + (stored + 1) / 2 * (high - low), np.array(env.got), atol=1e-5)
