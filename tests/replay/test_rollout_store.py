"""What on-policy objectives draw from: true next observations, dones and rewards."""

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.contract import DataRequest
from crl.encoders import PixelEncoder
from crl.objectives import CURL
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


class Masked(FakeImages):
    def action_masks(self):
        return np.ones(3, dtype=bool)


ON_POLICY = {
    "ppo": (PPO, "CnnPolicy", dict(batch_size=8, n_epochs=1)),
    "a2c": (A2C, "CnnPolicy", {}),
    "trpo": (TRPO, "CnnPolicy", dict(batch_size=8, n_critic_updates=1)),
    "recurrent ppo": (RecurrentPPO, "CnnLstmPolicy", dict(batch_size=8, n_epochs=1)),
    "maskable ppo": (MaskablePPO, "CnnPolicy", dict(batch_size=8, n_epochs=1)),
}


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("name", ON_POLICY)
def test_sequences_of_every_on_policy_algorithm(name, truncate):
    """While the rollout buffer of the algorithm is emptied and its rewards are changed, windows stay what happened."""
    cls, policy, kwargs = ON_POLICY[name]
    env = DummyVecEnv([lambda: Masked(spaces.Discrete(3), length=5, truncate=truncate)] * 2)
    policy_kwargs = dict(features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=2, layers=1))
    model = cls(policy, env, n_steps=16, gamma=0.9, seed=0, policy_kwargs=policy_kwargs, **kwargs)
    spy = Spy(RolloutStore(64, env.observation_space, env.action_space, 2))  # two rollouts
    model.learn(64, callback=spy)
    first = {obs[e].tobytes(): (t, e) for t, (obs, *_) in enumerate(spy.seen) for e in range(2)}
    assert len(first) == 64, "observations must differ, or this test shows nothing"
    raw = spy.store.draw(DataRequest("sequence", steps=4), 100, np.random.default_rng(0))
    lengths = set()
    for row in range(100):
        t, e = first[raw.obs[row, 0].tobytes()]
        n = min(4, 5 - t % 5, 32 - t)
        lengths.add(n)
        assert raw.mask[row].tolist() == [True] * n + [False] * (4 - n)
        for i in range(n):
            _, new_obs, rewards, infos = spy.seen[t + i]
            end = (t + i) % 5 == 4
            led_to = infos[e]["terminal_observation"] if end else new_obs[e]
            assert (raw.obs[row, i + 1] == led_to).all()
            assert raw.rewards[row, i] == rewards[e] == raw.actions[row, i, 0], "the reward of this environment is the action"
            assert (raw.terminated[row, i], raw.truncated[row, i]) == (end and not truncate, end and truncate)
    assert lengths == {1, 2, 3, 4}
    episodes = spy.store._whole_episodes()[0]
    assert len(episodes) == 2 * (32 // 5 - 1), "but for the running one and the one that began before the ring was full"
    if truncate:
        stored = spy.store.buffer.rewards[16:]
        assert not np.allclose(stored, model.rollout_buffer.rewards), "the algorithm has added its bootstrap value"


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_callback_owns_such_a_store(name):
    cls, policy, kwargs = ON_POLICY[name]
    env = DummyVecEnv([lambda: Masked(spaces.Discrete(3), length=5)] * 2)
    policy_kwargs = dict(features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=2, layers=1))
    model = cls(policy, env, n_steps=16, seed=0, policy_kwargs=policy_kwargs, **kwargs)
    callback = AuxiliaryLossCallback(CURL(augment=RandomShift(2)))
    model.learn(64, callback=callback)
    buffer = callback._store.buffer
    assert buffer.full and buffer.buffer_size == 16
    assert np.allclose(buffer.rewards, buffer.actions[..., 0]) and buffer.dones.sum() == 6


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
