"""Adds histories to the observations of one environment, for evaluation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from crl.history.spec import HistorySpec
from crl.history.window import HistoryWindow
from crl.networks.history_encoder import HistoryEncoder

_ONLY = np.zeros(1, dtype=np.int64)


class HistoryEnv(gym.Wrapper[Any, Any, Any, Any]):
    """
    As :class:`crl.history.HistoryVecEnv`, for one environment.

    :param env: with observations ``(n,)``
    :param spec: see :class:`HistorySpec`
    :param encoder: of the histories; None: embeddings are zeros
    :raises ValueError: for other observations
    """

    def __init__(self, env: gym.Env[Any, Any], spec: HistorySpec, encoder: HistoryEncoder | None) -> None:
        super().__init__(env)
        self.window = HistoryWindow(spec, env.observation_space, env.action_space)
        self.window.encoder = encoder
        self.observation_space = self.window.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, info = self.env.reset(seed=seed, options=options)
        self.window.begin(_ONLY, obs[None])
        return self._observe(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.window.step(obs[None], np.asarray(action)[None])
        return self._observe(), reward, terminated, truncated, info

    def _observe(self) -> Any:
        obs = self.window.observe()
        return {key: part[0].copy() for key, part in obs.items()} if isinstance(obs, dict) else obs[0]
