"""The last rows of each environment's episode, and what a policy sees of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from crl.history.layout import EMBEDDING, HISTORY, LENGTH, Parts
from crl.history.spec import HistorySpec
from crl.networks.history_encoder import HistoryEncoder

#: images ``(n, channels, height, width)`` uint8 to features ``(n, image_features)``
See = Callable[[th.Tensor], th.Tensor]


class HistoryWindow:
    """
    Grows by a row a step and forgets at each reset: rows of two episodes never lie together.

    Rows of images are features of a CNN that learns. The images are kept beside their rows, which are made once, as images
    come, and all anew by :meth:`refresh`: called whenever the CNN has moved, which it does between rollouts alone, all rows of
    a history are of the CNN as it is.

    :param spec: what is kept, and how it is seen
    :param observation_space: of the environment
    :param action_space: of the environment
    :param n_envs: parallel environments
    :raises ValueError: for other spaces
    """

    def __init__(
        self, spec: HistorySpec, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int = 1
    ) -> None:
        self.spec = spec
        self.rows = spec.rows(observation_space, action_space)
        self.layout = spec.layout(observation_space, self.rows)
        self.x = np.zeros((n_envs, spec.length, self.rows.dim), dtype=np.float32)
        self.lengths = np.zeros(n_envs, dtype=np.int64)
        #: the newest observation of each environment, in parts
        self.last: Parts = {name: np.zeros((n_envs, *part.shape), dtype=part.dtype) for name, part in self.layout.own.items()}
        shape = (n_envs, spec.length, *self.layout.kept.shape)
        #: of the rows, where they are made of images
        self.images = np.zeros(shape, dtype=np.uint8) if self.layout.of_images else None
        #: embeds histories (``way="embedding"``); None: embeddings are zeros
        self.encoder: HistoryEncoder | None = None
        self._see: See | None = None
        self.observation_space = self.layout.space

    def bind(self, encoder: HistoryEncoder | None, see: See | None = None) -> None:
        """
        :param encoder: of the histories; None: embeddings are zeros, and images are not looked at
        :param see: features of images; needed where there are any
        :raises ValueError: for an encoder without the features that it takes
        """
        if encoder is not None and self.images is not None and see is None:
            raise ValueError("bind(encoder) of histories of images: say with see= what makes features of them")
        self.encoder, self._see = encoder, see

    def begin(self, indices: np.ndarray, obs: Parts) -> None:
        """
        Episodes begin.

        :param indices: ``(n,)`` of their environments
        :param obs: ``(n, ...)`` each, of the resets
        :raises ValueError: for a stack that is not its first frame repeated: episodes are stored frame by frame
        """
        self.x[indices] = 0.0
        self.lengths[indices] = 0
        if self.spec.n_stack > 1:
            stacks = obs[self.layout.name]
            frames = stacks.reshape(len(stacks), self.spec.n_stack, -1)
            if (frames != frames[:, :1]).any():
                raise ValueError(
                    f"n_stack={self.spec.n_stack}: the first observation of an episode must be its first frame so many times, "
                    "as env.kwargs.n_stack of crl.envs makes it"
                )
        actions = np.repeat(self.rows.no_action, len(indices), axis=0)
        self._append(indices, obs, actions, np.ones(len(indices), dtype=bool))

    def step(self, obs: Parts, actions: np.ndarray) -> None:
        """
        A step of all environments.

        :param obs: ``(n_envs, ...)`` each that it led to, at the end of an episode the true last one
        :param actions: ``(n_envs, ...)`` as the environments got them
        """
        indices = np.arange(len(self.x))
        self._append(indices, obs, self.rows.stored_actions(actions), np.zeros(len(indices), dtype=bool))

    def _append(self, indices: np.ndarray, obs: Parts, actions: np.ndarray, first: np.ndarray) -> None:
        obs = {name: np.asarray(part, dtype=self.last[name].dtype) for name, part in obs.items()}
        kept = obs[self.layout.name]
        if self.images is None:
            seen, before = kept, self.last[self.layout.name][indices]
        else:
            seen = before = self._features(kept)  # rows of features hold nothing of the step before
        parts = (seen, before, actions, first)
        rows = self.rows.step(*(th.as_tensor(part) for part in parts)).numpy()
        full = indices[self.lengths[indices] == self.spec.length]
        self.x[full, :-1] = self.x[full, 1:]
        self.lengths[full] -= 1
        self.x[indices, self.lengths[indices]] = rows
        if self.images is not None:
            self.images[full, :-1] = self.images[full, 1:]
            self.images[indices, self.lengths[indices]] = kept
        self.lengths[indices] += 1
        for name, part in obs.items():
            self.last[name][indices] = part

    def _features(self, images: np.ndarray) -> np.ndarray:
        if self.encoder is None or self._see is None:
            return np.zeros((len(images), self.rows.observation_dim), dtype=np.float32)
        return np.asarray(self._see(th.as_tensor(images)).cpu().numpy())

    def refresh(self) -> None:
        """Make rows of images anew, by the CNN as it is now; rows of vectors depend on nothing that learns."""
        if self.images is None or not self.lengths.any():
            return
        there = np.arange(self.spec.length) < self.lengths[:, None]
        # a row is the features and, behind them, the action, which stays
        self.x[there, : self.rows.observation_dim] = self._features(self.images[there])

    def observe(self, indices: np.ndarray | None = None) -> Any:
        """
        :param indices: of environments; None: all
        :return: what a policy sees of their present states, a batch in :attr:`observation_space`; copies
        """
        at = np.arange(len(self.x)) if indices is None else indices
        own = {name: part[at] for name, part in self.last.items()}
        if self.spec.way == "history":
            return self.layout.join(own, {HISTORY: self.x[at], LENGTH: self.lengths[at, None].astype(np.float32)})
        return self.layout.join(own, {EMBEDDING: self._embeddings(at)})

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
        :return: the environment's own vectors or images in it, ``(n, ...)``
        """
        return self.layout.kept_of(obs)

    def stored(self, obs: Any) -> np.ndarray:
        """
        :param obs: a batch in :attr:`observation_space`
        :return: what is to be stored of an episode: the vectors, or of each stack of frames the newest, ``(n, ...)``
        """
        raw = self.raw(obs)
        return raw[:, -(raw.shape[1] // self.spec.n_stack) :]

    def _arrays(self) -> Parts:
        beside = {f"last_{name}": part for name, part in self.last.items() if name != self.layout.name}
        images = {} if self.images is None else {"images": self.images}
        return {"x": self.x, "lengths": self.lengths, "last_obs": self.last[self.layout.name], **images, **beside}

    def state_dict(self) -> dict[str, Any]:
        """All rows; the encoder and the CNN are somebody else's."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`state_dict` of a window of the same size
        """
        for name, array in self._arrays().items():
            array[...] = state[name]
