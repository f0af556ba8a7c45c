"""What is kept of a history and how it reaches the policy, in plain values that are saved with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gymnasium import spaces

from crl.networks.history_encoder import HistoryEncoder
from crl.networks.history_rows import HistoryRows


@dataclass(frozen=True)
class HistorySpec:
    """
    :param way: ``"embedding"``: the wrapper encodes the history at each step and appends the embedding to the observation, so
        that an agent learns from what it acted on at no cost; ``"history"``: observations are dictionaries with the history,
        which the policy's feature extractor encodes, also for each minibatch
    :param length: rows that are kept, the newest; an episode's observations at best
    :param columns: see :class:`crl.networks.history_rows.HistoryRows`
    :param differences: see there
    :param ego: see there
    :param others: see there
    :param things: see there
    :param gone: see there
    :param scale: see there
    :param embed_dim: see :class:`crl.networks.history_encoder.HistoryEncoder`
    :param width: see there
    :param layers: see there
    :param heads: see there
    :raises ValueError: for another way, or a length below 1
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
    embed_dim: int = 20
    width: int = 64
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        if self.way not in ("embedding", "history"):
            raise ValueError(f"way={self.way!r}: choose 'embedding' or 'history'")
        if self.length < 1:
            raise ValueError(f"length={self.length}: at least the present row")

    def rows(self, observation_space: spaces.Space, action_space: spaces.Space) -> HistoryRows:
        """
        :param observation_space: of the environment, ``(n,)``
        :param action_space: of the environment
        :raises ValueError: for other spaces, and for columns that there are not
        """
        return HistoryRows(
            observation_space,  # type: ignore[arg-type]  # checked there
            action_space,
            self.columns,
            self.differences,
            self.ego,
            self.others,
            self.things,
            self.gone,
            self.scale,
        )

    def encoder(self, rows: HistoryRows) -> HistoryEncoder:
        """
        A new one, drawn from torch's global generator.

        :param rows: that it takes
        """
        return HistoryEncoder(rows, self.embed_dim, self.width, self.layers, self.heads)
