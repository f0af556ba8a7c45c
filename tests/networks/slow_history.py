"""The encoder of histories once more, one history at a time, from its definition: no batches, no masks, no torch.nn."""

import math

import torch as th


def layer_norm(x, layer):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def attend(query, key, value, heads):
    """``(q, width)``, ``(k, width)``, ``(k, width)``; one head after the other."""
    width = query.shape[1] // heads
    parts = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / math.sqrt(width)
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        parts.append(weights @ value[:, part])
    return th.cat(parts, dim=1)


def positions(steps, width):
    half = width // 2
    table = th.zeros(steps, width, dtype=th.float64)
    for t in range(steps):
        for i in range(half):
            angle = t * math.exp(-math.log(10_000) * i / half)
            table[t, i], table[t, half + i] = math.sin(angle), math.cos(angle)
    return table


def encode(encoder, rows):
    """
    :param encoder: in float64
    :param rows: ``(steps, dim)`` of one history
    """
    hidden = linear(rows, encoder.input) + positions(len(rows), encoder.width)
    for block in encoder.blocks:
        query, key, value = linear(layer_norm(hidden, block.norm1), block.qkv).chunk(3, dim=1)
        hidden = hidden + linear(attend(query, key, value, block.heads), block.out)
        hidden = hidden + linear(linear(layer_norm(hidden, block.norm2), block.linear1).clamp(min=0), block.linear2)
    hidden = layer_norm(hidden, encoder.norm)
    pooling = encoder.pooling
    key, value = linear(hidden, pooling.key_value).chunk(2, dim=1)
    pooled = attend(pooling.query.reshape(1, -1), key, value, pooling.heads)
    return linear(linear(pooled, pooling.out), encoder.output)[0]
