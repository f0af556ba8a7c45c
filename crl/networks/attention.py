"""Self-attention over sequences of different lengths, and pooling by a learned query."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from torch import nn


def check_heads(width: int, heads: int) -> None:
    """:raises ValueError: when the width cannot be divided among the heads"""
    if width < 1 or heads < 1 or width % heads:
        raise ValueError(f"width={width}, heads={heads}: the width must be a positive multiple of the number of heads")


class AttentionBlock(nn.Module):
    """
    A transformer encoder layer with the normalisation before each part (Xiong et al. 2020, arXiv:2002.04745), as
    ``torch.nn.TransformerEncoderLayer(norm_first=True, dropout=0)``. Linear layers see all steps as one matrix.

    :param width: of the steps
    :param heads: of the attention
    :param hidden: width between the two layers after it
    :raises ValueError: when the width cannot be divided among the heads
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: th.Tensor, mask: th.Tensor) -> th.Tensor:
        """
        :param x: ``(batch, steps, width)``, finite also where masked
        :param mask: ``(batch, steps)`` bool, at least one True in each row; other steps are looked at by none
        :return: ``(batch, steps, width)``; masked steps hold numbers that mean nothing
        """
        batch, steps, width = x.shape
        flat = x.reshape(batch * steps, width)
        parts = self.qkv(self.norm1(flat)).view(batch, steps, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, steps, width / heads)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        flat = flat + self.out(seen.transpose(1, 2).reshape(batch * steps, width))
        flat = flat + self.linear2(F.relu(self.linear1(self.norm2(flat))))
        return flat.view(batch, steps, width)


class AttentionPooling(nn.Module):
    """
    A weighted mean of the steps, the weights by attention from one learned query (PMA of Lee et al. 2019, arXiv:1810.00825).

    :param width: of the steps
    :param heads: of the attention
    :raises ValueError: when the width cannot be divided among the heads
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Parameter(th.randn(heads, width // heads))
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: th.Tensor, mask: th.Tensor) -> th.Tensor:
        """
        :param x: ``(batch, steps, width)``, finite also where masked
        :param mask: ``(batch, steps)`` bool, at least one True in each row
        :return: ``(batch, width)``
        """
        batch, steps, width = x.shape
        both = self.key_value(x.reshape(batch * steps, width)).view(batch, steps, 2, self.heads, width // self.heads)
        key, value = both.permute(2, 0, 3, 1, 4)
        query = self.query[None, :, None].expand(batch, -1, -1, -1)
        pooled = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return self.out(pooled.reshape(batch, width))
