"""A transformer that turns what was seen of an episode so far into one vector."""

from __future__ import annotations

import math

import torch as th
from torch import nn

from crl.networks.attention import AttentionBlock, AttentionPooling
from crl.networks.history_rows import HistoryRows
from crl.networks.linear import speed_up_linear

#: histories of about the same length that are encoded together
_ALIKE = 64


class HistoryEncoder(nn.Module):
    """
    Rows of a history, or of a crop of one, to an embedding: a linear layer, sinusoidal positions counted from the first row
    that is given, self-attention, pooling by a learned query, a linear layer. Attention looks both ways within the rows;
    nothing of the future leaks because it is given none.

    Depth, heads, embedding and positions as in CLAM (Ma et al. 2024, arXiv:2401.00132). Its blocks are Set Transformer's,
    128 wide and without normalisation; these are normalised first, which trains stably at higher rates, and half as wide.

    :param rows: says what a row is
    :param embed_dim: of the embedding
    :param width: of the steps inside
    :param layers: of self-attention; 0: pooling alone
    :param heads: of all attention
    :param length: rows of a history that are looked at, the newest; None: all
    :raises ValueError: for sizes below 1, and a width that cannot be divided among the heads
    """

    def __init__(
        self,
        rows: HistoryRows,
        embed_dim: int = 20,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        length: int | None = None,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or layers < 0:
            raise ValueError(f"embed_dim={embed_dim}, layers={layers}: an embedding of at least 1, and layers of at least 0")
        if length is not None and length < 1:
            raise ValueError(f"length={length}: at least the present row, or None")
        self.rows = rows
        self.length = length
        #: width of the embedding
        self.features_dim = embed_dim
        self.width = width
        self.input = nn.Linear(rows.dim, width)
        self.blocks = nn.ModuleList([AttentionBlock(width, heads, 2 * width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.pooling = AttentionPooling(width, heads)
        self.output = nn.Linear(width, embed_dim)
        # no buffer: it grows with the longest history, and copies of the encoder need not have seen that one
        self._positions = sinusoids(64, width)
        speed_up_linear(self)

    def forward(self, x: th.Tensor, mask: th.Tensor) -> th.Tensor:
        """
        :param x: ``(batch, steps, rows.dim)``; where masked, anything
        :param mask: ``(batch, steps)`` bool, at least one True in each row; False: not there
        :return: ``(batch, embed_dim)``
        """
        batch, steps, _ = x.shape
        if steps > len(self._positions) or self._positions.device != x.device:
            self._positions = sinusoids(max(2 * steps, 64), self.width).to(x.device)
        # not even the gradient may see what is masked: zero times nan is nan
        x = x.masked_fill(~mask[:, :, None], 0.0)
        hidden = self.input(x.flatten(0, 1)).view(batch, steps, self.width) + self._positions[:steps]
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.output(self.pooling(self.norm(hidden), mask))

    def prefixes(self, x: th.Tensor, lengths: th.Tensor) -> th.Tensor:
        """
        Of each history the newest :attr:`length` rows, which is what an agent that keeps no more of them sees.

        :param x: ``(batch, steps, rows.dim)``
        :param lengths: ``(batch,)`` how many rows of each count, from the first on; at least 1
        :return: ``(batch, embed_dim)``
        """
        kept = x.shape[1] if self.length is None else min(self.length, x.shape[1])
        if kept < x.shape[1]:
            index = (lengths - kept).clamp(min=0)[:, None] + th.arange(kept, device=x.device)
            x, lengths = x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2])), lengths.clamp(max=kept)
        if not x.is_cpu:
            return self._padded(x, lengths)
        # half of a batch of moments is padding; histories of about the same length are padded little. Lengths are known here
        # without waiting for a device, on which many small calls would be slower than the padding
        order = lengths.argsort()
        parts = [self._padded(x[part, : int(lengths[part[-1]])], lengths[part]) for part in order.split(_ALIKE)]
        return th.cat(parts)[order.argsort()]

    def _padded(self, x: th.Tensor, lengths: th.Tensor) -> th.Tensor:
        return self(x, th.arange(x.shape[1], device=x.device) < lengths[:, None])

    def encode_prefixes(self, x: th.Tensor, lengths: th.Tensor) -> th.Tensor:
        """
        Unit embeddings, as an agent gets them to act on; see :meth:`prefixes`.

        :param x: ``(batch, steps, rows.dim)``
        :param lengths: ``(batch,)`` how many rows of each count, from the first on; at least 1
        :return: ``(batch, embed_dim)``, of length 1
        """
        return nn.functional.normalize(self.prefixes(x, lengths), dim=1)


def sinusoids(steps: int, width: int) -> th.Tensor:
    """
    Position codes of Vaswani et al. 2017 (arXiv:1706.03762): sines in the first half, cosines in the second.

    :param steps: number of positions
    :param width: of a code
    :return: ``(steps, width)`` float32
    """
    half = (width + 1) // 2
    rate = th.exp(-math.log(10_000.0) * th.arange(half) / half)
    angle = th.arange(steps)[:, None] * rate
    return th.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
