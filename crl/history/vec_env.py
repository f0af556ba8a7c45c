"""Adds histories to the observations of parallel environments."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from crl.history.layout import batch_of_one, one_of
from crl.history.spec import HistorySpec
from crl.history.window import HistoryWindow, See
from crl.networks.history_encoder import HistoryEncoder


class HistoryVecEnv(VecEnvWrapper):
    """
    Observations become observations with the history of the episode. Vectors: its embedding is appended
    (``(n + embed_dim,)`` float32; :meth:`bind` says by which encoder, until then zeros), or they become dictionaries of
    ``observation``, ``history`` ``(length, row)`` and ``length`` ``(1,)``. Images become dictionaries of ``image`` and
    ``embedding``; what was beside them in a dictionary stays. Terminal observations in infos likewise.

    :param venv: with observations ``(n,)``, images ``(channels, height, width)`` uint8, or dictionaries of both
    :param spec: see :class:`HistorySpec`
    :raises ValueError: for other observations
    """

    def __init__(self, venv: VecEnv, spec: HistorySpec | None = None) -> None:
        self.spec = spec or HistorySpec()
        self.window = HistoryWindow(self.spec, venv.observation_space, venv.action_space, venv.num_envs)
        self.base_space: spaces.Space = venv.observation_space
        super().__init__(venv, observation_space=self.window.observation_space)

    def bind(self, encoder: HistoryEncoder | None, see: See | None = None) -> None:
        """
        :param encoder: of the histories, from the next step on; kept, not copied. None: zeros
        :param see: features of images, from the next step on, see :meth:`crl.history.window.HistoryWindow.bind`
        """
        self.window.bind(encoder, see)

    def reset(self) -> VecEnvObs:
        """See SB3."""
        obs = self.venv.reset()
        self.window.begin(np.arange(self.num_envs), self.window.layout.parts(obs))
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """See SB3."""
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """See SB3."""
        obs, rewards, dones, infos = self.venv.step_wait()
        parts = self.window.layout.parts(obs)
        led = {name: part.copy() for name, part in parts.items()}
        over = np.flatnonzero(dones)
        for index in over:
            last = self.window.layout.parts(batch_of_one(infos[index]["terminal_observation"]))
            for name, part in last.items():
                led[name][index] = part[0]
        self.window.step(led, self._actions)
        if len(over):
            terminal = self.window.observe(over)
            for row, index in enumerate(over):
                infos[index]["terminal_observation"] = one_of(terminal, row)
            self.window.begin(over, {name: part[over] for name, part in parts.items()})
        return self._observe(), rewards, dones, infos

    def refresh(self) -> VecEnvObs:
        """The present observations once more, by the encoder, and of images the CNN, as they are now."""
        self.window.refresh()
        return self._observe()

    def _observe(self) -> VecEnvObs:
        seen: VecEnvObs = self.window.observe()
        return seen
