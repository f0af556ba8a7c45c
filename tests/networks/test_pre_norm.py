"""Layers of the pre-normalised residual encoder, and the running statistics of returns."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from crl.encoders import PreNormImpalaEncoder
from crl.networks import ValueNormalizer, pre_norm_impala_body, scale_rows_


def space(size=64):
    return spaces.Box(0, 255, (3, size, size), np.uint8)


def test_widths_and_weights_of_the_published_encoder():
    encoder = PreNormImpalaEncoder(space())
    assert sum(p.numel() for p in encoder.parameters()) == 3_929_856
    assert encoder.map_shape == (128, 8, 8) and encoder.features_dim == 1024
    assert [type(layer).__name__ for layer in encoder.head] == ["Flatten", *["LayerNorm", "Linear", "ReLU"] * 2]


def test_lengths_of_filters_at_the_start():
    convs = [m for m in pre_norm_impala_body(3).modules() if isinstance(m, nn.Conv2d)]
    block = math.sqrt(1 / math.sqrt(3) / math.sqrt(2))
    assert block == pytest.approx(0.6389, abs=1e-4)
    for index, conv in enumerate(convs):  # a first one and four in blocks, three times
        lengths = conv.weight.flatten(1).norm(dim=1)
        assert th.allclose(lengths, th.full_like(lengths, 1.0 if index % 5 == 0 else block), atol=1e-5)
        assert (conv.bias is not None) == (index == 0)
    linears = [m for m in PreNormImpalaEncoder(space(), 7, filters=[2, 3]).head if isinstance(m, nn.Linear)]
    for linear, length in zip(linears, (1.4, 1.0), strict=True):
        assert linear.weight.norm(dim=1).tolist() == pytest.approx([length] * len(linear.weight), abs=1e-5)
        assert linear.bias is None


def test_the_head_of_its_own_is_new_and_of_the_same_kind():
    encoder = PreNormImpalaEncoder(space(32), 5, filters=[2, 3], hidden_dim=4)
    head = encoder.make_head()
    images = th.rand(2, 3, 32, 32)
    feature_map = encoder.forward_body(images)
    assert head(feature_map).shape == (2, 5) and encoder(images).min() >= 0
    assert not th.allclose(head(feature_map), encoder.forward_head(feature_map))


@pytest.mark.parametrize(
    "kwargs", [{"head": "tanh"}, {"init": "orthogonal"}, {"hidden_dim": 0}, {"filters": []}, {"filters": [0]}]
)
def test_bad_input(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        PreNormImpalaEncoder(space(32), 5, **{"filters": [2], **kwargs})


def test_scaled_rows_keep_their_directions():
    weight = th.randn(4, 3, 2, 2)
    before = weight.clone()
    assert scale_rows_(weight, 0.5) is weight
    cosine = th.nn.functional.cosine_similarity(weight.flatten(1), before.flatten(1))
    assert th.allclose(weight.flatten(1).norm(dim=1), th.full((4,), 0.5)) and th.allclose(cosine, th.ones(4))
    with pytest.raises(ValueError, match="positive"):
        scale_rows_(weight, 0)


def test_running_statistics_are_the_debiased_averages():
    stats = ValueNormalizer(beta=0.9)
    assert [float(x) for x in stats.mean_and_std()] == pytest.approx([0, 0.1])
    batches = [th.randn(8, 2) * 3 + 5 for _ in range(6)]
    for batch in batches:
        stats.update(batch)
    shares = np.array([0.1 * 0.9 ** (5 - i) for i in range(6)])
    mean = (shares * [float(b.mean()) for b in batches]).sum() / shares.sum()
    second = (shares * [float((b**2).mean()) for b in batches]).sum() / shares.sum()
    assert [float(x) for x in stats.mean_and_std()] == pytest.approx([mean, math.sqrt(second - mean**2)], rel=1e-5)
    returns = th.tensor([[1.0], [9.0]])
    assert th.allclose(stats.normalize(returns), (returns - mean) / math.sqrt(second - mean**2), rtol=1e-4)
    assert th.allclose(stats.denormalize(stats.normalize(returns)), returns, rtol=1e-5)


def test_statistics_of_equal_returns_and_in_evaluation_mode():
    stats = ValueNormalizer()
    stats.update(th.full((5,), 2.0))
    assert [float(x) for x in stats.mean_and_std()] == pytest.approx([2, 0.1]), "the smallest variance is 0.01"
    saved = {name: value.clone() for name, value in stats.state_dict().items()}
    assert set(saved) == {"sum", "sum_of_squares", "weight"}
    stats.eval()
    stats.update(th.zeros(5))
    assert all((saved[name] == value).all() for name, value in stats.state_dict().items())
    for wrong in ({"beta": 1.0}, {"beta": -0.1}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ValueNormalizer(**wrong)
