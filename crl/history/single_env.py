"""Adds histories to the observations of one environment, for evaluation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from crl.history.layout import batch_of_one, one_of
from crl.history.spec import HistorySpec
from crl.history.window import HistoryWindow, See
from crl.networks.history_encoder import HistoryEncoder

_ONLY = np.zeros(1, dtype=np.int64)


class HistoryEnv(gym.Wrapper[Any, Any, Any, Any]):
    """
    As :class:`crl.history.HistoryVecEnv`, for one environment.

    :param env: with observations ``(n,)``, or images
    :param spec: see :class:`HistorySpec`
    :param encoder: of the histories; None: embeddings are zeros
    :param see: features of images, see :meth:`crl.history.window.HistoryWindow.bind`
    :raises ValueError: for other observations
    """

    def __init__(
        self, env: gym.Env[Any, Any], spec: HistorySpec, encoder: HistoryEncoder | None, see: See | None = None
    ) -> None:
        super().__init__(env)
        self.window = HistoryWindow(spec, env.observation_space, env.action_space)
        self.window.bind(encoder, see)
        self.observation_space = self.window.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, info = self.env.reset(seed=seed, options=options)
        self.window.begin(_ONLY, self.window.layout.parts(batch_of_one(obs)))
        return one_of(self.window.observe(), 0), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.window.step(self.window.layout.parts(batch_of_one(obs)), np.asarray(action)[None])
        return one_of(self.window.observe(), 0), reward, terminated, truncated, info
