"""Rows and encoder of histories: against slow references, and that nothing depends on what is masked."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from crl.networks.attention import AttentionBlock
from crl.networks.history_encoder import HistoryEncoder
from crl.networks.history_rows import HistoryRows

from .slow_history import encode

OBS, ACTIONS = spaces.Box(-1.0, 9.0, (7,)), spaces.Discrete(3, start=1)


def make(seed=0, **kwargs):
    th.manual_seed(seed)
    rows = HistoryRows(OBS, ACTIONS)
    return HistoryEncoder(rows, **{"embed_dim": 5, "width": 8, "heads": 2, **kwargs})


def batch(encoder, lengths=(4, 1, 6), seed=0):
    generator = th.Generator().manual_seed(seed)
    x = th.randn(len(lengths), max(lengths), encoder.rows.dim, generator=generator)
    mask = th.arange(max(lengths)) < th.tensor(lengths)[:, None]
    return x, mask


@pytest.mark.parametrize("layers", [0, 2])
def test_encoder_is_its_definition(layers):
    encoder = make(layers=layers).double()
    x, mask = batch(encoder)
    found = encoder(x.double(), mask)
    for row, history, counts in zip(found, x.double(), mask, strict=True):
        th.testing.assert_close(row, encode(encoder, history[counts]), rtol=1e-6, atol=1e-6)


def test_block_is_torchs_own_layer():
    th.manual_seed(0)
    block = AttentionBlock(8, 2, 16)
    other = th.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=True, batch_first=True)
    names = {
        "qkv.weight": "self_attn.in_proj_weight",
        "qkv.bias": "self_attn.in_proj_bias",
        "out.weight": "self_attn.out_proj.weight",
        "out.bias": "self_attn.out_proj.bias",
    }
    other.load_state_dict({names.get(key, key): value for key, value in block.state_dict().items()})
    x, mask = th.randn(3, 6, 8), th.arange(6) < th.tensor([[6], [2], [4]])
    found, wanted = block(x, mask), other(x, src_key_padding_mask=~mask)
    th.testing.assert_close(found[mask], wanted[mask], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("filling", [0.0, 1e6, float("nan"), float("inf")])
def test_nothing_depends_on_what_is_masked(filling):
    encoder = make()
    x, mask = batch(encoder)
    found = []
    for content in (-3.0, filling):
        encoder.zero_grad()
        z = encoder(x.masked_fill(~mask[:, :, None], content), mask)
        z.square().sum().backward()
        found.append([z.detach(), *(p.grad.clone() for p in encoder.parameters())])
    for a, b in zip(*found, strict=True):
        assert th.equal(a, b) and a.isfinite().all()


def test_nothing_depends_on_the_length_of_the_padding_or_on_neighbours():
    encoder = make()
    x, mask = batch(encoder)
    alone = th.cat([encoder(history[counts][None], counts[counts][None]) for history, counts in zip(x, mask, strict=True)])
    th.testing.assert_close(encoder(x, mask), alone, rtol=1e-5, atol=1e-6)
    longer = th.cat([x, th.full((3, 90, x.shape[2]), 7.0)], dim=1)
    th.testing.assert_close(encoder(longer, th.cat([mask, mask.new_zeros(3, 90)], dim=1)), alone, rtol=1e-5, atol=1e-6)


def test_order_matters_and_all_steps_do():
    encoder = make()
    x, mask = batch(encoder, (5,))
    z = encoder(x, mask)
    assert not th.allclose(z, encoder(x.flip(1), mask), atol=1e-4)
    x.requires_grad_()
    encoder(x, mask).sum().backward()
    assert (x.grad.abs().sum(2) > 0).all()
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_prefixes_are_unit_embeddings():
    encoder = make()
    x, mask = batch(encoder)
    z = encoder.encode_prefixes(x, mask.sum(1))
    th.testing.assert_close(z.norm(dim=1), th.ones(3))
    th.testing.assert_close(z, th.nn.functional.normalize(encoder(x, mask), dim=1))


def test_prefixes_of_many_lengths_are_as_in_one_pass():
    """Groups of about the same length, in whatever order they came; the gradient, too."""
    encoder = make().double()
    generator = th.Generator().manual_seed(0)
    lengths = th.randint(1, 21, (150,), generator=generator)
    x = th.randn(150, 20, encoder.rows.dim, generator=generator, dtype=th.float64)
    weights = th.randn(150, 5, generator=generator, dtype=th.float64)
    found = []
    for z in (encoder.prefixes(x, lengths), encoder(x, th.arange(20) < lengths[:, None])):
        encoder.zero_grad()
        (z * weights).sum().backward()
        found.append([z.detach(), *(p.grad for p in encoder.parameters())])
    for grouped, whole in zip(*found, strict=True):
        th.testing.assert_close(grouped, whole)


def test_rows_step_by_step_and_at_once():
    rows = HistoryRows(OBS, ACTIONS, [0, 2], 10.0, ego=(3, 4), others=(5, 6), things=(0, 1), scale=0.5)
    generator = th.Generator().manual_seed(0)
    obs, actions = th.rand(2, 5, 7, generator=generator), th.randint(1, 4, (2, 4, 1), generator=generator)
    found = rows(obs, actions)
    assert found.shape == (2, 5, rows.dim)
    for t in range(5):
        before = max(t - 1, 0)
        first = th.tensor([t == 0, t == 0])
        assert th.equal(found[:, t], rows.step(obs[:, t], obs[:, before], actions[:, before], first))


def test_rows_by_hand():
    rows = HistoryRows(OBS, ACTIONS, [2], 10.0, ego=(0, 1), others=(2, 3), things=(4, 5, 5, 6), scale=0.5)
    obs = th.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0], [1.0, 1.0, 2.5, 3.0, -1.0, -1.0, 6.0]]])
    first, second = rows(obs, th.tensor([[[3]]]))[0]
    # kept, its change; other - ego, the other's step, distances to (4, 5) and (5, 8), sorted; no action yet
    th.testing.assert_close(first, th.tensor([2.0, 0.0, *[0.5 * v for v in (2, 2, 0, 0, 4, 8)], 0.0, 0.0, 0.0]))
    # (-1, -1) is gone and as far as 2 after scaling; (-1, 6) is not gone: |2.5 + 1| + |3 - 6|
    th.testing.assert_close(second, th.tensor([2.5, 5.0, 0.75, 1.0, 0.25, 0.0, 2.0, 3.25, 0.0, 0.0, 1.0]))


def test_continuous_actions_are_scaled():
    rows = HistoryRows(OBS, spaces.Box(np.array([0.0, -2.0], np.float32), np.array([4.0, 2.0], np.float32)))
    stored = rows.stored_actions(np.array([[4.0, 0.0], [1.0, -2.0]]))
    np.testing.assert_allclose(stored, [[1.0, 0.0], [-0.5, -1.0]])
    assert rows(th.zeros(1, 3, 7), th.as_tensor(stored)[None])[0, :, 7:].tolist() == [[0, 0], [1, 0], [-0.5, -1]]


@pytest.mark.parametrize(
    "kwargs, words",
    [
        (dict(columns=[7]), "columns 0 to 6"),
        (dict(others=(1, 2)), "ego"),
        (dict(ego=(1, 2), others=(3,)), "pairs"),
        (dict(columns=[]), "nothing is left"),
    ],
)
def test_wrong_columns(kwargs, words):
    with pytest.raises(ValueError, match=words):
        HistoryRows(OBS, ACTIONS, **kwargs)


def test_wrong_spaces_and_sizes():
    with pytest.raises(ValueError, match="vector|observations"):
        HistoryRows(spaces.Box(0, 255, (3, 8, 8), np.uint8), ACTIONS)
    with pytest.raises(ValueError, match="multiple"):
        make(width=10, heads=4)
    with pytest.raises(ValueError, match="embed_dim"):
        make(embed_dim=0)


def test_prefixes_are_of_the_newest_rows_where_no_more_are_kept():
    whole, short = make(), make()
    short.length = 4
    x, lengths = th.randn(3, 9, whole.rows.dim), th.tensor([9, 4, 2])
    found = short.prefixes(x, lengths)
    for index, length in enumerate(lengths.tolist()):
        kept = x[index, max(0, length - 4) : length][None]
        wanted = whole(kept, th.ones(1, kept.shape[1], dtype=th.bool))
        th.testing.assert_close(found[index], wanted[0], rtol=1e-4, atol=1e-5)
    th.testing.assert_close(
        short.encode_prefixes(x[:, :4], lengths.clamp(max=4)), whole.encode_prefixes(x[:, :4], lengths.clamp(max=4))
    )
    with pytest.raises(ValueError, match="length=0"):
        HistoryEncoder(whole.rows, length=0)


@pytest.mark.parametrize("relative, gone", [(False, -1.0), (True, 0.0)])
def test_others_out_of_sight_have_no_place_and_no_step(relative, gone):
    """Ego, two others, a thing; what is gone is -1, or, as seen from the ego, 0."""
    rows = HistoryRows(
        spaces.Box(-9, 9, (8,)),
        spaces.Discrete(2),
        ego=(0, 1),
        others=(2, 3, 4, 5),
        things=(6, 7),
        gone=gone,
        relative=relative,
    )
    ego = th.tensor([2.0, 3.0])
    places = {"a": th.tensor([3.0, 3.0]), "b": th.tensor([5.0, 5.0]), "thing": th.tensor([2.0, 6.0])}

    def obs(**seen):
        parts = [ego]
        for name, place in places.items():
            there = seen.get(name, place)
            parts.append(th.full((2,), gone) if there is None else there - (ego if relative else 0.0))
        return th.cat(parts)[None]

    moved = th.tensor([5.0, 4.0])
    cases = {
        "both seen": (obs(), obs(b=moved), [3.0, 2.0, 0.0, 1.0]),
        "one goes": (obs(b=None), obs(), [0.0] * 4),
        "one comes": (obs(), obs(b=None), [3.0, 2.0, 0.0, 0.0]),
    }
    for name, (now, before, wanted) in cases.items():
        row = rows.step(now, before, th.zeros(1, 1, dtype=th.long), th.tensor([False]))[0]
        a, b = row[:5], row[5:10]
        assert a.tolist() == [1.0, 0.0, 0.0, 0.0, 4.0], name
        assert b[:4].tolist() == wanted, name
        assert b[4].item() == (2.0 if name == "one goes" else 4.0), name
