"""Adds histories to the observations of parallel environments."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from crl.history.spec import HistorySpec
from crl.history.window import HistoryWindow
from crl.networks.history_encoder import HistoryEncoder


class HistoryVecEnv(VecEnvWrapper):
    """
    Vector observations become observations with the history of the episode: its embedding is appended (``(n + embed_dim,)``
    float32; :meth:`bind` says by which encoder, until then zeros), or they become dictionaries of ``observation``,
    ``history`` ``(length, row)`` and ``length`` ``(1,)``. Terminal observations in infos likewise.

    :param venv: with observations ``(n,)``
    :param spec: see :class:`HistorySpec`
    :raises ValueError: for other observations
    """

    def __init__(self, venv: VecEnv, spec: HistorySpec | None = None) -> None:
        self.spec = spec or HistorySpec()
        self.window = HistoryWindow(self.spec, venv.observation_space, venv.action_space, venv.num_envs)
        self.base_space: spaces.Space = venv.observation_space
        super().__init__(venv, observation_space=self.window.observation_space)

    def bind(self, encoder: HistoryEncoder | None) -> None:
        """
        :param encoder: of the histories, from the next step on; kept, not copied. None: zeros
        """
        self.window.encoder = encoder

    def reset(self) -> VecEnvObs:
        """See SB3."""
        obs = self.venv.reset()
        self.window.begin(np.arange(self.num_envs), np.asarray(obs))
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """See SB3."""
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """See SB3."""
        obs, rewards, dones, infos = self.venv.step_wait()
        led = np.array(obs)
        over = np.flatnonzero(dones)
        for index in over:
            led[index] = infos[index]["terminal_observation"]
        self.window.step(led, self._actions)
        if len(over):
            terminal = self.window.observe(over)
            for row, index in enumerate(over):
                one = {key: part[row] for key, part in terminal.items()} if isinstance(terminal, dict) else terminal[row]
                infos[index]["terminal_observation"] = one
            self.window.begin(over, np.asarray(obs)[over])
        return self._observe(), rewards, dones, infos

    def refresh(self) -> VecEnvObs:
        """The present observations once more, by the encoder as it is now."""
        return self._observe()

    def _observe(self) -> VecEnvObs:
        # the window goes on changing its arrays
        obs = self.window.observe()
        return {key: part.copy() for key, part in obs.items()} if isinstance(obs, dict) else np.asarray(obs)
