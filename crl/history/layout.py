"""How an environment's observation and the history of its episode lie together in what a policy sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

#: names of parts; an image that is the whole observation gets its name here, in a dictionary it keeps its own
OBSERVATION, IMAGE, HISTORY, LENGTH, EMBEDDING = "observation", "image", "history", "length", "embedding"

#: one array ``(n, ...)`` for each part of an observation
Parts = dict[str, np.ndarray]


def kept_part(space: spaces.Space) -> tuple[str, spaces.Box]:
    """
    What histories are kept of.

    :param space: of an environment: vectors ``(n,)``; images ``(channels, height, width)`` uint8; or a dictionary of one image
        and vectors
    :return: name and space of the vector or the image
    :raises ValueError: for other observations
    """
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return OBSERVATION, space
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {IMAGE: space}
    images = [name for name, part in parts.items() if is_image(part)]
    vectors = [name for name, part in parts.items() if isinstance(part, spaces.Box) and len(part.shape) == 1]
    if len(images) != 1 or len(images) + len(vectors) != len(parts) or EMBEDDING in parts:
        raise ValueError(
            "histories are kept of observations (n,), of images (channels, height, width) uint8, or of a dictionary of one "
            f"image and vectors, none of them called {EMBEDDING!r}; this agent's are {space}"
        )
    image = parts[images[0]]
    assert isinstance(image, spaces.Box)
    return images[0], image


def is_image(space: spaces.Space) -> bool:
    """Whether these are images, as :func:`kept_part` has them."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


class Layout:
    """
    Takes observations apart and puts them together, in batches:

    - a vector and its embedding are one vector, ``(n + embed_dim,)``;
    - a vector and its history (``way="history"``) are ``observation``, ``history`` ``(length, row)`` and ``length`` ``(1,)``;
    - an image, what was beside it, and the embedding are a dictionary: ``image``, ``embedding``, and the rest by its names.

    :param way: see :class:`crl.history.HistorySpec`
    :param length: rows of a history
    :param row_dim: width of a row
    :param embed_dim: of the embedding
    :param observation_space: of the environment, see :func:`kept_part`
    :raises ValueError: for other observations
    """

    def __init__(
        self,
        way: Literal["embedding", "history"],
        length: int,
        row_dim: int,
        embed_dim: int,
        observation_space: spaces.Space,
    ) -> None:
        #: name and space of what histories are kept of
        self.name, self.kept = kept_part(observation_space)
        self.of_images = is_image(self.kept)
        inner: Mapping[str, Any] = {self.name: self.kept}
        if isinstance(observation_space, spaces.Dict):
            inner = observation_space.spaces
        #: the environment's own parts
        self.own: dict[str, spaces.Box] = {
            name: part if is_image(part) else spaces.Box(part.low, part.high, dtype=np.float32) for name, part in inner.items()
        }
        self._alone = not isinstance(observation_space, spaces.Dict)
        self._appended = way == "embedding" and not self.of_images
        # embeddings have length 1, and are zeros without an encoder
        ones = np.ones(embed_dim, dtype=np.float32)
        if self._appended:
            low, high = (np.concatenate([bound, sign * ones]) for bound, sign in ((self.kept.low, -1), (self.kept.high, 1)))
            #: of the policy
            self.space: spaces.Space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        elif way == "embedding":
            self.space = spaces.Dict({**self.own, EMBEDDING: spaces.Box(-ones, ones)})
        else:
            rows = spaces.Box(-np.inf, np.inf, (length, row_dim), np.float32)
            self.space = spaces.Dict({**self.own, HISTORY: rows, LENGTH: spaces.Box(1, length, (1,), np.float32)})

    def parts(self, obs: Any) -> Parts:
        """
        :param obs: a batch of the environment's observations
        :return: the same by :attr:`own`'s names; not copied
        """
        return {self.name: np.asarray(obs)} if self._alone else {name: np.asarray(obs[name]) for name in self.own}

    def join(self, own: Parts, more: Parts) -> Any:
        """
        :param own: of the environment
        :param more: ``embedding``, or ``history`` and ``length``
        :return: a batch in :attr:`space`
        """
        return np.concatenate([own[self.name], more[EMBEDDING]], axis=1) if self._appended else {**own, **more}

    def kept_of(self, seen: Any) -> np.ndarray:
        """
        :param seen: a batch in :attr:`space`
        :return: the vectors or images in it, ``(n, *kept.shape)``
        """
        return np.asarray(seen[:, : self.kept.shape[0]] if self._appended else seen[self.name])


def batch_of_one(obs: Any) -> Any:
    """An observation as a batch."""
    return {name: np.asarray(part)[None] for name, part in obs.items()} if isinstance(obs, Mapping) else np.asarray(obs)[None]


def one_of(batch: Any, index: int) -> Any:
    """An observation of a batch."""
    return {name: part[index] for name, part in batch.items()} if isinstance(batch, Mapping) else batch[index]
