"""A repeated matching game with hidden partners, small enough for tests: what lbf/ and mpe/ promise, in milliseconds."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

N_ACTIONS = 3


class Matching(gym.Env):
    """
    Guess what the partner does next. Partner k repeats action k, but for a share of random ones. Observations: the partner's
    last action (one-hot, zeros at first), and two numbers that are constant in an episode and mean nothing.

    :param n_partners: in the pool, at most three
    :param lengths: of episodes, drawn from this range
    :param truncate: episodes are cut off at their length, else they terminate
    """

    def __init__(self, n_partners=3, lengths=(9, 14), truncate=True, noise=0.1):
        self.observation_space = spaces.Box(-1.0, 1.0, (N_ACTIONS + 2,), np.float32)
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.pool_names = tuple(f"always{k}" for k in range(n_partners))
        self.pool_size = n_partners
        self.n_partners, self.n_partner_actions, self.partner_observation_size = 1, N_ACTIONS, 2
        self.columns = ("did_0", "did_1", "did_2", "ego_x", "ego_y")
        self.lengths, self.truncate, self.noise = lengths, truncate, noise

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        rng = self.np_random
        self.partner = int(rng.integers(self.pool_size))
        self.fingerprint = rng.uniform(-1, 1, 2).astype(np.float32)
        self.length, self.t, self.last = int(rng.integers(*self.lengths)), 0, np.zeros(N_ACTIONS, np.float32)
        return self._observe(), self._info(-1)

    def _observe(self):
        return np.concatenate([self.last, self.fingerprint])

    def _info(self, action):
        return {
            "partner_id": self.partner,
            "partner_actions": np.array([action], dtype=np.int64),
            "partner_observations": np.array([[self.t / 10, self.partner]], dtype=np.float32),
        }

    def step(self, action):
        rng = self.np_random
        did = int(rng.integers(N_ACTIONS)) if rng.random() < self.noise else self.partner
        self.t += 1
        self.last = np.eye(N_ACTIONS, dtype=np.float32)[did]
        over = self.t >= self.length
        return self._observe(), float(action == did), over and not self.truncate, over and self.truncate, self._info(did)


class Drawn(Matching):
    """The same as a picture, 12x12: a number a column, two pixels wide."""

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def render(self):
        picture = np.zeros((12, 12, 3), dtype=np.uint8)
        for column, value in enumerate(self._observe()):
            picture[:, 2 * column : 2 * column + 2, column % 3] = round(127.5 * (value + 1))
        return picture


class NoInfo(gym.Wrapper):
    """Strips infos."""

    def reset(self, **kwargs):
        obs, _ = self.env.reset(**kwargs)
        return obs, {}

    def step(self, action):
        return (*self.env.step(action)[:4], {})
