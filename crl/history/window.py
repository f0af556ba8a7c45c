"""The last rows of each environment's episode, and what a policy sees of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from crl.history.spec import HistorySpec
from crl.networks.history_encoder import HistoryEncoder


class HistoryWindow:
    """
    Grows by a row a step and forgets at each reset: rows of two episodes never lie together.

    :param spec: what is kept, and how it is seen
    :param observation_space: of the environment, ``(n,)``
    :param action_space: of the environment
    :param n_envs: parallel environments
    :raises ValueError: for other spaces
    """

    def __init__(
        self, spec: HistorySpec, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int = 1
    ) -> None:
        self.spec = spec
        self.rows = spec.rows(observation_space, action_space)
        assert isinstance(observation_space, spaces.Box)
        self.x = np.zeros((n_envs, spec.length, self.rows.dim), dtype=np.float32)
        self.lengths = np.zeros(n_envs, dtype=np.int64)
        self.last_obs = np.zeros((n_envs, self.rows.observation_dim), dtype=np.float32)
        #: embeds histories (``way="embedding"``); None: embeddings are zeros
        self.encoder: HistoryEncoder | None = None
        self.observation_space = _space(spec, observation_space, self.rows.dim)

    def begin(self, indices: np.ndarray, obs: np.ndarray) -> None:
        """
        Episodes begin.

        :param indices: ``(n,)`` of their environments
        :param obs: ``(n, observation_dim)``, of the resets
        """
        self.x[indices] = 0.0
        self.lengths[indices] = 0
        actions = np.repeat(self.rows.no_action, len(indices), axis=0)
        self._append(indices, obs, actions, np.ones(len(indices), dtype=bool))

    def step(self, obs: np.ndarray, actions: np.ndarray) -> None:
        """
        A step of all environments.

        :param obs: ``(n_envs, observation_dim)`` that it led to, at the end of an episode the true last one
        :param actions: ``(n_envs, ...)`` as the environments got them
        """
        indices = np.arange(len(self.x))
        self._append(indices, obs, self.rows.stored_actions(actions), np.zeros(len(indices), dtype=bool))

    def _append(self, indices: np.ndarray, obs: np.ndarray, actions: np.ndarray, first: np.ndarray) -> None:
        obs = np.asarray(obs, dtype=np.float32)
        parts = (obs, self.last_obs[indices], actions, first)
        rows = self.rows.step(*(th.as_tensor(part) for part in parts)).numpy()
        full = indices[self.lengths[indices] == self.spec.length]
        if len(full):
            self.x[full, :-1] = self.x[full, 1:]
            self.lengths[full] -= 1
        self.x[indices, self.lengths[indices]] = rows
        self.lengths[indices] += 1
        self.last_obs[indices] = obs

    def observe(self, indices: np.ndarray | None = None) -> Any:
        """
        :param indices: of environments; None: all
        :return: what a policy sees of their present states, a batch in :attr:`observation_space`
        """
        at = np.arange(len(self.x)) if indices is None else indices
        if self.spec.way == "history":
            lengths = self.lengths[at, None].astype(np.float32)
            return {"observation": self.last_obs[at], "history": self.x[at], "length": lengths}
        return np.concatenate([self.last_obs[at], self._embeddings(at)], axis=1)

    @th.no_grad()
    def _embeddings(self, at: np.ndarray) -> np.ndarray:
        if self.encoder is None:
            return np.zeros((len(at), self.spec.embed_dim), dtype=np.float32)
        device = self.encoder.output.weight.device
        lengths = self.lengths[at]
        x = th.as_tensor(self.x[at, : lengths.max()], device=device)
        return np.asarray(self.encoder.encode_prefixes(x, th.as_tensor(lengths, device=device)).cpu().numpy())

    def raw(self, obs: Any) -> np.ndarray:
        """
        :param obs: a batch in :attr:`observation_space`
        :return: the environment's own part of it, ``(n, observation_dim)``
        """
        return np.asarray(obs["observation"] if self.spec.way == "history" else obs[:, : self.rows.observation_dim])

    def state_dict(self) -> dict[str, Any]:
        """All rows; the encoder is somebody else's."""
        return {"x": self.x.copy(), "lengths": self.lengths.copy(), "last_obs": self.last_obs.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`state_dict` of a window of the same size
        """
        for name, value in state.items():
            getattr(self, name)[...] = value


def _space(spec: HistorySpec, space: spaces.Box, row_dim: int) -> spaces.Space:
    if spec.way == "history":
        return spaces.Dict(
            observation=spaces.Box(space.low, space.high, dtype=np.float32),
            history=spaces.Box(-np.inf, np.inf, (spec.length, row_dim), np.float32),
            length=spaces.Box(1, spec.length, (1,), np.float32),
        )
    # embeddings have length 1, and are zeros without an encoder
    ones = np.ones(spec.embed_dim, dtype=np.float32)
    return spaces.Box(
        np.concatenate([space.low, -ones]).astype(np.float32), np.concatenate([space.high, ones]).astype(np.float32)
    )
