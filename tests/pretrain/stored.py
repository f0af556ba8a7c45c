"""Stored transitions of small environments."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.save_util import save_to_pkl

from crl.augment import RandomShift
from crl.envs import make_env
from crl.replay import FrameReplayBuffer

BOX = spaces.Box(-1, 1, (2,), np.float32)


SHIFT = RandomShift(2)


def toy_buffer(episodes=4, augment=SHIFT, discrete=False, length=50):
    """Random episodes of the toy."""
    env = make_env("toy/reach-discrete" if discrete else "toy/reach", seed=3)
    env.action_space.seed(3)
    buffer = FrameReplayBuffer(
        episodes * length, env.observation_space, env.action_space, device="cpu", n_stack=3, augment=augment
    )
    for _ in range(episodes):
        obs, _ = env.reset()
        for _ in range(length):
            action = env.action_space.sample()
            next_obs, reward, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            timeout = [{"TimeLimit.truncated": truncated}]
            buffer.add(obs[None], next_obs[None], np.asarray(action)[None], np.array([reward]), np.array([over]), timeout)
            obs = next_obs
    return buffer


def saved(path, **kwargs):
    """A file as ``model.save_replay_buffer`` writes it."""
    save_to_pkl(path, toy_buffer(**kwargs))
    return str(path)
