"""Small models on noise images, one per algorithm."""

import numpy as np
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.augment import RandomShift
from crl.encoders import PixelEncoder
from crl.policies import PixelSACPolicy, PixelTD3Policy
from crl.replay import FrameReplayBuffer

from ..fakes import FakeImages

BOX = spaces.Box(-1, 1, (2,), np.float32)
DISCRETE = spaces.Discrete(3)
SMALL = dict(features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=4, layers=2))
REPLAY = dict(replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(n_stack=2, augment=RandomShift(2)))
OFF_POLICY = dict(buffer_size=200, learning_starts=16, batch_size=8, train_freq=1, **REPLAY)


def make_model(name, n_envs=1, seed=0, env=None, env_kwargs=None, **kwargs):
    """``name``: sac, td3, ddpg (crl's policies), sac-separate (SB3's CnnPolicy), dqn, ppo, a2c."""
    actions = DISCRETE if name in ("dqn", "ppo", "a2c") else BOX
    env = env or DummyVecEnv([lambda: FakeImages(actions, **(env_kwargs or {}))] * n_envs)
    kwargs = {"seed": seed, **kwargs}
    policy_kwargs = kwargs.pop("policy_kwargs", {})
    if name == "sac":
        return SAC(PixelSACPolicy, env, policy_kwargs={"net_arch": [16], **SMALL, **policy_kwargs}, **{**OFF_POLICY, **kwargs})
    if name == "sac-separate":
        return SAC("CnnPolicy", env, policy_kwargs={"net_arch": [16], **SMALL, **policy_kwargs}, **{**OFF_POLICY, **kwargs})
    if name in ("td3", "ddpg"):
        cls = DDPG if name == "ddpg" else TD3
        return cls(PixelTD3Policy, env, policy_kwargs={"net_arch": [16], **SMALL, **policy_kwargs}, **{**OFF_POLICY, **kwargs})
    if name == "dqn":
        return DQN("CnnPolicy", env, policy_kwargs={"net_arch": [16], **SMALL, **policy_kwargs}, **{**OFF_POLICY, **kwargs})
    policy_kwargs = {"net_arch": [16], **SMALL, **policy_kwargs}
    if name == "ppo":
        return PPO("CnnPolicy", env, n_steps=16, batch_size=8, n_epochs=2, policy_kwargs=policy_kwargs, **kwargs)
    return A2C("CnnPolicy", env, **{"n_steps": 8, "policy_kwargs": policy_kwargs, **kwargs})


def on_policy(name):
    return name in ("ppo", "a2c")


def augmentation(name):
    """On-policy models have no buffer that augments."""
    return dict(augment=RandomShift(2)) if on_policy(name) else {}


def weights(model):
    return {key: value.clone() for key, value in model.policy.state_dict().items()}


def same(a, b):
    return all((a[key] == b[key]).all() for key in a)
