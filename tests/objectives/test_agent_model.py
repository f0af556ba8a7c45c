"""CLAM: its loss against a plain loop over episodes, crops, masks, gradients, the EMA."""

import copy
import math
from dataclasses import replace

import pytest
import torch as th

from crl.losses import nt_xent, supervised_contrast
from crl.objectives.agent_model import AgentModel
from crl.objectives.episode_crops import Crops, crop_episodes, mask_steps

from ..losses import slow
from ..networks.slow_history import encode, linear
from .episodes import LENGTHS, encoder, episodes


def built(seed=0, **kwargs):
    objective = AgentModel(**{"min_crop": 3, "max_crop": 9, "projector": (7, 4), **kwargs})
    online = encoder(seed)
    objective.build(online)
    return objective


def projected(objective, embeddings):
    """Linear, BatchNorm by the batch's statistics, ReLU, linear."""
    first, norm, _, last = objective.projector
    z = embeddings @ first.weight.T
    z = (z - z.mean(0)) / (((z - z.mean(0)) ** 2).mean(0) + norm.eps).sqrt() * norm.weight + norm.bias
    return linear(z.clamp(min=0), last)


def looped_loss(objective, batch, generator):
    """Episode by episode, crops by slices, in float64."""
    views = []
    for masked in (True, False):
        size = int(th.randint(3, 10, (), generator=generator))
        place = float(th.rand((), generator=generator))
        draws = th.rand(len(LENGTHS), size, generator=generator) if masked else None
        embeddings = []
        for number, length in enumerate(LENGTHS):
            n = length + 1
            obs, actions = batch.obs[number, :n].double(), batch.actions[number, :length, 0]
            last = [th.zeros(3, dtype=th.float64), *th.eye(3, dtype=th.float64)[actions]]
            rows = th.cat([obs, th.stack(last)], dim=1)
            kept = min(size, n)
            start = int(place * (n - kept + 1))
            crop = rows[start : start + kept].clone()
            if draws is not None:
                order = draws[number, :kept].argsort()
                crop[order[: math.ceil(0.3 * kept)]] = 0.0
            embeddings.append(encode(objective.encoder, crop))
        views.append(projected(objective, th.stack(embeddings)))
    first, second = ([row.tolist() for row in view] for view in views)
    return slow.nt_xent(first, second, 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_whole_loss_is_a_loop_over_episodes(seed):
    objective, batch = built(seed), episodes(seed)
    draws = th.Generator().manual_seed(seed + 10)
    loss, _ = objective.loss(replace(batch, generator=draws))
    wanted = looped_loss(copy.deepcopy(objective).double(), batch, th.Generator().manual_seed(seed + 10))
    assert loss.item() == pytest.approx(wanted, rel=2e-4)


def test_no_crop_crosses_the_end_of_an_episode():
    """Column 0 is the number of the episode, column 1 the time in it."""
    objective, batch = built(max_crop=12), episodes()
    rows, lengths = objective.rows_of(batch)
    assert lengths.tolist() == [length + 1 for length in LENGTHS]
    seen = set()
    for seed in range(60):
        crops = crop_episodes(rows, lengths, 3, 12, th.Generator().manual_seed(seed))
        for number, (crop, counts) in enumerate(zip(crops.rows, crops.mask, strict=True)):
            part = crop[counts]
            assert (part[:, 0] == number).all() and (part[:, 1].diff() == 1).all()
            assert part[0, 1] >= 0 and part[-1, 1] <= LENGTHS[number]
            assert len(part) == min(crops.rows.shape[1], LENGTHS[number] + 1) and not counts[len(part) :].any()
            seen.add((number, int(part[0, 1]), len(part)))
    of_longest = [(start, size) for number, start, size in seen if number == 2]
    assert {size for _, size in of_longest} == set(range(3, 13)), "all lengths come up"
    assert min(start for start, _ in of_longest) == 0
    assert max(start + size for start, size in of_longest) == 15, "the last observation too"


def test_masks_hide_as_many_steps_as_they_should_and_only_those_that_count():
    rows = th.rand(200, 10, 2) + 0.5
    mask = th.arange(10) < th.tensor([10, 7] * 100)[:, None]
    hidden = (mask_steps(Crops(rows, mask), 0.3, th.Generator().manual_seed(0)).rows == 0).all(2)
    assert not (hidden & ~mask).any()
    assert hidden.sum(1).tolist() == [3, 3] * 100  # 0.3 * 7 rounded up
    assert (hidden[::2].float().mean(0) - 0.3).abs().max() < 0.15, "every step may be hidden"
    assert th.equal(mask_steps(Crops(rows, mask), 0.0).rows, rows)


@pytest.mark.parametrize("masked, hidden", [("first", (True, False)), ("both", (True, True)), ("none", (False, False))])
def test_which_views_are_masked(masked, hidden):
    objective = built(masked_views=masked)
    rows, lengths = objective.rows_of(episodes())
    views = objective.views(rows + 1000.0, lengths, th.Generator().manual_seed(0))
    assert tuple(bool((view.rows == 0).all(2).any()) for view in views) == hidden


def test_loss_needs_nothing_but_the_ego_agents_own():
    objective = built()
    losses = []
    for told in ((), ("partner_id", "partner_actions", "partner_observations")):
        batch = episodes(told=told)
        batch.obs = episodes().obs
        losses.append(objective.loss(replace(batch, generator=th.Generator().manual_seed(3)))[0])
    other = replace(episodes(), partner_id=th.tensor([2, 2, 0, 1, 0, 1]), generator=th.Generator().manual_seed(3))
    losses.append(objective.loss(other)[0])
    rewarded = replace(episodes(), generator=th.Generator().manual_seed(3))
    rewarded.rewards = rewarded.rewards + 5.0
    losses.append(objective.loss(rewarded)[0])
    assert all(th.equal(loss, losses[0]) for loss in losses)


def test_gradients_reach_encoder_and_projector_through_both_views_and_not_the_target():
    objective = built()
    objective.loss(episodes())[0].backward()
    for name, parameter in objective.named_parameters():
        if name.startswith("target"):
            assert not parameter.requires_grad and parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradient_is_that_of_finite_differences():
    objective, batch = built().double(), episodes()
    batch = replace(batch, obs=batch.obs.double())

    def loss():
        # rows are made in float32; here only what follows is looked at
        rows, lengths = objective.rows_of(batch)
        views = objective.views(rows.double(), lengths, th.Generator().manual_seed(1))
        return nt_xent(*(objective.projector(objective.encoder(*view)) for view in views), 0.5)

    weight = objective.encoder.pooling.query
    loss().backward()
    with th.no_grad():
        for place in ((0, 0), (1, 2)):
            ends = []
            for step in (1e-5, -1e-5):
                weight[place] += step
                ends.append(loss().item())
                weight[place] -= step
            assert weight.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


def test_target_follows_by_ema():
    objective = built(tau=0.25)
    before = [p.clone() for p in objective.target.parameters()]
    with th.no_grad():
        for parameter in objective.encoder.parameters():
            parameter += 1.0
    objective.after_step()
    for old, new, online in zip(before, objective.target.parameters(), objective.encoder.parameters(), strict=True):
        th.testing.assert_close(new, 0.75 * old + 0.25 * online)
    assert all(not p.requires_grad for p in objective.target.parameters())


def test_training_tells_episodes_apart_and_state_survives():
    objective, batch = built(), episodes()
    optimizer = th.optim.Adam([p for p in objective.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, metrics = objective.loss(batch)
        loss.backward()
        optimizer.step()
        objective.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0] and metrics["accuracy"] > 0.8
    other = built(seed=1)
    other.load_state_dict(objective.state_dict())
    a, b = (o.loss(replace(batch, generator=th.Generator().manual_seed(0)))[0] for o in (objective, other))
    assert th.equal(a, b)


def test_labels_make_positives():
    """SupCon from its definition."""
    generator = th.Generator().manual_seed(0)
    z1, z2 = (th.randn(5, 3, generator=generator, dtype=th.float64) for _ in range(2))
    labels = th.tensor([0, 1, 0, 2, 1])
    stacked, both = [row.tolist() for row in th.cat([z1, z2])], labels.tolist() * 2
    losses = []
    for i in range(10):
        others = [k for k in range(10) if k != i]
        total = math.log(sum(math.exp(slow.cosine(stacked[i], stacked[k]) / 0.5) for k in others))
        losses.append(slow.mean(total - slow.cosine(stacked[i], stacked[p]) / 0.5 for p in others if both[p] == both[i]))
    assert supervised_contrast(z1, z2, labels).item() == pytest.approx(slow.mean(losses), rel=1e-9)
    assert supervised_contrast(z1, z2, th.arange(5)).item() == pytest.approx(nt_xent(z1, z2).item(), rel=1e-9)
    objective = AgentModel(positives="partner")
    assert objective.name == "supcon" and objective.needs == ("partner_id",)


def test_label_positive_is_told_and_says_so():
    objective = AgentModel(positives="partner")
    with pytest.raises(ValueError, match="told"):
        objective.build(encoder())


@pytest.mark.parametrize(
    "kwargs, words",
    [
        (dict(temperature=0.0), "temperature"),
        (dict(min_crop=5, max_crop=4), "shortest first"),
        (dict(mask_ratio=1.0), "share"),
        (dict(masked_views="second"), "first"),
        (dict(positives="all"), "episode"),
        (dict(tau=0.0), "EMA"),
        (dict(projector=(0,)), "widths"),
    ],
)
def test_wrong_values(kwargs, words):
    with pytest.raises(ValueError, match=words):
        AgentModel(**kwargs)


def test_short_episodes_are_not_taken_whole_where_that_is_forbidden():
    """By counting: rows hold their own index, lengths from 1 to 40."""
    lengths = th.arange(1, 41)
    rows = th.arange(40.0).repeat(40, 1)[:, :, None]
    generator, starts = th.Generator().manual_seed(0), set()
    for _ in range(60):
        crops = crop_episodes(rows, lengths, 3, 30, generator, max_share=0.75)
        sizes = crops.mask.sum(dim=1)
        allowed = th.minimum(th.clamp((0.75 * lengths).floor().long(), min=3), lengths)
        assert (sizes <= allowed).all() and (sizes == sizes.max().clamp(max=allowed)).all()
        for number, size in enumerate(sizes.tolist()):
            seen = crops.rows[number, :size, 0]
            assert (seen.diff() == 1).all() and seen[-1] < lengths[number]
        starts.add(int(crops.rows[11, 0, 0]))
    assert len(starts) > 2, "an episode of twelve is not always cropped at one and the same place"


def test_says_how_many_pairs_are_whole():
    batch = replace(episodes(), generator=th.Generator().manual_seed(0))
    whole, part = built(min_crop=30, max_crop=30), built(max_share=0.5)
    assert whole.loss(batch)[1]["whole_pairs"] == 1.0
    assert part.loss(batch)[1]["whole_pairs"] < 1.0
    with pytest.raises(ValueError, match="max_share=0"):
        AgentModel(max_share=0.0)


def test_crops_are_no_longer_than_what_the_agent_keeps():
    objective = built(min_crop=2, max_crop=9)
    objective.encoder.length = 4
    rows, lengths = th.randn(5, 12, objective.encoder.rows.dim), th.full((5,), 12)
    generator = th.Generator().manual_seed(0)
    sizes = {view.rows.shape[1] for _ in range(30) for view in objective.views(rows, lengths, generator)}
    assert sizes == {2, 3, 4}
