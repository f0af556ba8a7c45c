"""What is kept of a history and how it reaches the policy, in plain values that are saved with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium import spaces

from crl.history.layout import Layout, is_image, kept_part
from crl.networks.history_encoder import HistoryEncoder
from crl.networks.history_rows import HistoryRows


@dataclass(frozen=True)
class HistorySpec:
    """
    Rows hold parts of vector observations; or, where these are images, what the policy's CNN makes of them
    (``image_features``), and then ``columns`` and all that follows up to ``relative`` stays as it is.

    :param way: ``"embedding"``: the wrapper encodes the history at each step and adds the embedding to the observation, so
        that an agent learns from what it acted on at no cost; ``"history"``: observations are dictionaries with the history,
        which the policy's feature extractor encodes, also for each minibatch. Of vectors alone: rows of images are no
        constants, they move with the CNN.
    :param length: rows that are kept, the newest; an episode's observations at best
    :param columns: see :class:`crl.networks.history_rows.HistoryRows`
    :param differences: see there
    :param ego: see there
    :param others: see there
    :param things: see there
    :param gone: see there
    :param scale: see there
    :param relative: see there
    :param embed_dim: see :class:`crl.networks.history_encoder.HistoryEncoder`
    :param width: see there
    :param layers: see there
    :param heads: see there
    :param image_features: width of the CNN's output; 0: observations are vectors
    :param n_stack: frames in an image, along the channels, oldest first; a reset shows the first one so often
    :raises ValueError: for another way, a length or a stack below 1
    """

    way: Literal["embedding", "history"] = "embedding"
    length: int = 50
    columns: tuple[int, ...] | None = None
    differences: float = 0.0
    ego: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    things: tuple[int, ...] = ()
    gone: float = -1.0
    scale: float = 1.0
    relative: bool = False
    embed_dim: int = 20
    width: int = 64
    layers: int = 2
    heads: int = 4
    image_features: int = 0
    n_stack: int = 1

    def __post_init__(self) -> None:
        if self.way not in ("embedding", "history"):
            raise ValueError(f"way={self.way!r}: choose 'embedding' or 'history'")
        if self.length < 1:
            raise ValueError(f"length={self.length}: at least the present row")
        if self.n_stack < 1 or self.image_features < 0:
            raise ValueError(
                f"n_stack={self.n_stack}, image_features={self.image_features}: at least one frame, and 0 features or more"
            )

    def rows(self, observation_space: spaces.Space, action_space: spaces.Space) -> HistoryRows:
        """
        :param observation_space: of the environment, see :func:`crl.history.layout.kept_part`
        :param action_space: of the environment
        :return: rows of vectors: of the observation itself, or of an image's features
        :raises ValueError: for other spaces, and for columns that there are not
        """
        _, kept = kept_part(observation_space)
        if is_image(kept):
            self._check_images(kept)
            features = spaces.Box(-np.inf, np.inf, (self.image_features,), np.float32)
            return HistoryRows(features, action_space)
        if self.image_features or self.n_stack != 1:
            raise ValueError(
                f"image_features={self.image_features}, n_stack={self.n_stack}: these are vectors {kept}, leave both out"
            )
        return HistoryRows(
            kept,
            action_space,
            self.columns,
            self.differences,
            self.ego,
            self.others,
            self.things,
            self.gone,
            self.scale,
            self.relative,
        )

    def _check_images(self, space: spaces.Box) -> None:
        if self.way != "embedding":
            raise ValueError(
                "way='history' of images: rows inside observations would be of a CNN that has moved on; choose way='embedding'"
            )
        if self.columns or self.differences or self.ego or self.others or self.things:
            raise ValueError(f"{self}: images have no columns; leave columns, differences, ego, others and things out")
        if not self.image_features:
            raise ValueError("image_features=0: say how wide the features of the policy's CNN are")
        if space.shape[0] % self.n_stack:
            raise ValueError(f"n_stack={self.n_stack}: images of {space.shape[0]} channels are no stack of so many frames")

    def layout(self, observation_space: spaces.Space, rows: HistoryRows) -> Layout:
        """
        :param observation_space: of the environment
        :param rows: of the same
        :return: how histories and observations lie together
        """
        return Layout(self.way, self.length, rows.dim, self.embed_dim, observation_space)

    def encoder(self, rows: HistoryRows) -> HistoryEncoder:
        """
        A new one, drawn from torch's global generator.

        :param rows: that it takes
        """
        return HistoryEncoder(rows, self.embed_dim, self.width, self.layers, self.heads, self.length)
