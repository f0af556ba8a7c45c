"""Tiny environments for tests: noise images, short episodes."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class FakeImages(gym.Env):
    """
    Noise images that move one frame a step: ``(n_stack * channels, h, w)`` uint8, oldest frame first.

    :param action_space: any
    :param shape: of the observation
    :param channels: of one frame
    :param flat: every frame has one random colour instead of noise
    :param length: steps until the episode ends (terminated) or, if ``truncate``, is cut off
    """

    def __init__(self, action_space, shape=(6, 20, 20), channels=3, length=9, truncate=False, as_dict=False, flat=False):
        self.action_space = action_space
        self.shape, self.channels, self.length, self.truncate, self.as_dict = shape, channels, length, truncate, as_dict
        self.flat = flat
        image = spaces.Box(0, 255, shape, np.uint8)
        vector = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = spaces.Dict(dict(image=image, vector=vector)) if as_dict else image

    def _frame(self):
        size = (self.channels, 1, 1) if self.flat else (self.channels, *self.shape[1:])
        frame = self.np_random.integers(0, 256, size, dtype=np.uint8)
        return np.broadcast_to(frame, (self.channels, *self.shape[1:])).copy()

    def _observe(self):
        image = np.concatenate(self.frames)
        return dict(image=image, vector=np.full(3, self.t / 10, np.float32)) if self.as_dict else image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.frames = [self._frame()] * (self.shape[0] // self.channels)
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        self.frames = [*self.frames[1:], self._frame()]
        over = self.t >= self.length
        reward = float(np.sum(action)) if isinstance(self.action_space, spaces.Box) else float(action)
        return self._observe(), reward, over and not self.truncate, over and self.truncate, {}
