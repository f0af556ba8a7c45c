"""ST-DIM against its definition."""

import pytest
import torch as th

from crl.objectives import OBJECTIVES, STDIM

from .small import assert_same_loss_and_gradients, build, pick, windows


def slow_loss(stdim, batch, near=lambda i, j: False):
    """Location by location, row by row."""

    def score(query, key):
        return query @ key if stdim.pair is None else query @ key / query.norm() / key.norm() / 0.2

    n = len(batch)
    first, second = (stdim.encoder.feature_map(batch.obs[:, t]) for t in (0, stdim.k))
    seen = stdim.encoder.forward_head(second)
    reaches = batch.mask[:, stdim.k - 1].tolist()
    losses = []
    for y in range(4):
        for x in range(4):
            for query in (stdim.global_map(seen), stdim.local_map(second[:, :, y, x])):
                for i in range(n):
                    if reaches[i]:
                        others = [j for j in range(n) if j != i and reaches[j] and not near(i, j)]
                        losses.append(pick([score(query[i], first[j, :, y, x]) for j in [i, *others]], 0))
    return 2 * sum(losses) / len(losses)  # the mean of GL plus the mean of LL


@pytest.mark.parametrize("k, ends", [(1, None), (3, {0: 1, 2: 2})])
def test_loss_and_gradients_against_the_definition(k, ends):
    stdim = build(STDIM(k=k))
    batch = windows(steps=k, ends=ends)
    assert_same_loss_and_gradients(stdim, stdim.loss(batch)[0], slow_loss(stdim, batch))


def test_another_loss_at_each_place():
    stdim = build(STDIM(k=2, loss="info_nce", loss_kwargs=dict(temperature=0.2)))
    with th.no_grad():
        stdim.encoder.conv.bias.add_(0.5)  # no place is silent in all filters: zero rows have no direction
    batch = windows(steps=2, ends={0: 1, 2: 2})
    assert_same_loss_and_gradients(stdim, stdim.loss(batch)[0], slow_loss(stdim, batch))


def test_near_windows_of_an_episode_are_no_negatives():
    stdim = build(STDIM(negative_window=2))
    episode, time = th.tensor([0, 0, 0, 1, 1, 1]), th.tensor([1, 2, 3, 2, 3, 9])
    batch = windows(steps=1, episode=episode, time=time)
    want = slow_loss(stdim, batch, lambda i, j: bool(episode[i] == episode[j]) and abs(int(time[i] - time[j])) < 2)
    assert_same_loss_and_gradients(stdim, stdim.loss(batch)[0], want)


def test_metrics():
    stdim = build(STDIM())
    batch = windows(steps=1)
    metrics = stdim.loss(batch)[1]
    first, second = (stdim.encoder.feature_map(batch.obs[:, t]).flatten(2).permute(2, 0, 1) for t in (0, 1))
    queries = stdim.global_map(stdim.encoder(batch.obs[:, 1])).expand(16, -1, -1), stdim.local_map(second)
    accuracies, positives, negatives = [], [], []
    for query in queries:
        logits = query @ first.transpose(1, 2)
        own = logits.diagonal(dim1=1, dim2=2)
        accuracies.append((logits.argmax(2) == th.arange(6)).double().mean().item())
        positives.append(own.mean().item())
        negatives.append((logits.sum() - own.sum()).item() / (16 * 30))
    assert metrics["global_accuracy"].item() == pytest.approx(accuracies[0])
    assert metrics["local_accuracy"].item() == pytest.approx(accuracies[1])
    assert metrics["accuracy"].item() == pytest.approx(sum(accuracies) / 2)
    assert metrics["positive_similarity"].item() == pytest.approx(sum(positives) / 2)
    assert metrics["negative_similarity"].item() == pytest.approx(sum(negatives) / 2)


def test_drawn_locations_estimate_the_same_loss():
    stdim = build(STDIM(locations=4))
    generator = th.Generator().manual_seed(0)
    batch = windows(steps=1, generator=generator)
    losses = th.stack([stdim.loss(batch)[0].detach() for _ in range(400)])
    assert losses.std() > 0
    full = slow_loss(stdim, batch).detach()
    assert (losses.mean() - full).abs() < 4 * losses.std() / 400**0.5
    state = generator.get_state()
    stdim.locations = 16
    stdim.loss(batch)
    assert th.equal(state, generator.get_state()), "nothing is drawn where all locations fit"


def test_both_observations_get_gradient_in_one_pass():
    stdim = build(STDIM())
    stdim.encoder.passes.clear()
    outputs = []
    stdim.encoder.conv.register_forward_hook(lambda module, args, out: outputs.append(out))
    loss = stdim.loss(windows(steps=1))[0]
    assert stdim.encoder.passes == [12]
    gradient = th.autograd.grad(loss, outputs[0])[0]
    assert gradient[:6].any() and gradient[6:].any()


def test_no_window_reaches_the_second_observation():
    stdim = build(STDIM(k=2))
    loss, _ = stdim.loss(windows(steps=2, ends=dict.fromkeys(range(6), 1)))
    assert loss.item() == 0.0 and not th.autograd.grad(loss, stdim.encoder.conv.weight)[0].any()


@pytest.mark.parametrize(
    "kwargs, message",
    [(dict(k=0), "k=0"), (dict(locations=0), "locations=0"), (dict(negative_window=-1), "negative_window=-1")],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        STDIM(**kwargs)


def test_registry():
    assert OBJECTIVES["stdim"] is STDIM
