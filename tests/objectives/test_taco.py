"""TACO against its definition."""

import pytest
import torch as th
import torch.nn.functional as F

from crl.objectives import OBJECTIVES, TACO

from .small import BOX, DISCRETE, assert_same_loss_and_gradients, build, pick, windows


def slow_loss(taco, batch, actions, near=lambda i, j: False):
    n, k = len(batch), taco.k
    reaches = batch.mask[:, k - 1].tolist()
    taken = batch.actions.double() if actions is BOX else F.one_hot(batch.actions[..., 0], 3).double()

    def state(i, t):
        x = taco.encoder(batch.obs[i : i + 1, t])[0] @ taco.state_head[0].weight.T + taco.state_head[0].bias
        norm = taco.state_head[1]
        return th.tanh((x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias)

    def joined(i):
        tokens = []
        for t in range(k):
            hidden = th.tanh(taken[i, t] @ taco.tokenizer[0].weight.T + taco.tokenizer[0].bias)
            tokens.append(hidden @ taco.tokenizer[2].weight.T + taco.tokenizer[2].bias)
        return th.cat([state(i, 0), taco.sequence_head(th.cat(tokens)[None])[0]])

    def mlp(layers, x):
        hidden = (x @ layers[0].weight.T + layers[0].bias).clamp(min=0)
        return hidden @ layers[2].weight.T + layers[2].bias

    def score(query, key):
        return query @ taco.weight @ key if taco.pair is None else query @ key / query.norm() / key.norm() / 0.2

    contrast, curl, reward = [], [], []
    for i in range(n):
        anchor = state(i, 0)
        others = [j for j in range(n) if j != i and not near(i, j)]
        curl.append(pick([score(anchor, state(j, 0).detach()) for j in [i, *others]], 0))
        if not reaches[i]:
            continue
        query = mlp(taco.projection, joined(i))
        scores = [score(query, state(j, k).detach()) for j in [i, *(j for j in others if reaches[j])]]
        scores += [
            score(query, state(i, k + h).detach()) for h in range(1, taco.hard_negatives + 1) if batch.mask[i, k + h - 1]
        ]
        contrast.append(pick(scores, 0))
        if taco.reward_weight:
            told = sum(taco.gamma**t * batch.rewards[i, t].double() for t in range(k))
            reward.append((mlp(taco.reward_head, joined(i))[0] - told) ** 2)
    loss = sum(contrast) / len(contrast) + taco.curl_weight * sum(curl) / n
    return loss + taco.reward_weight * sum(reward) / len(reward) if reward else loss


@pytest.mark.parametrize("actions", [BOX, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(k=1, curl_weight=0.0, reward_weight=0.0),
        dict(curl_weight=0.3, reward_weight=0.2, gamma=0.5, token_dim=2),
        dict(k=1, hard_negatives=2),
        dict(loss="info_nce", loss_kwargs=dict(temperature=0.2)),
    ],
    ids=str,
)
def test_loss_and_gradients_against_the_definition(kwargs, actions):
    taco = build(TACO(**{"k": 2, "latent_dim": 4, "hidden_dim": 6, **kwargs}), actions)
    steps = taco.request.steps
    batch = windows(steps=steps, ends={0: 1, 4: min(2, steps)}, actions=actions)
    loss, metrics = taco.loss(batch)
    assert_same_loss_and_gradients(taco, loss, slow_loss(taco, batch, actions))
    parts = metrics["action_loss"] + taco.curl_weight * metrics.get("curl_loss", 0.0)
    parts = parts + taco.reward_weight * metrics.get("reward_loss", 0.0)
    th.testing.assert_close(parts, loss.detach())
    assert not any(value.requires_grad for value in metrics.values())


def test_near_windows_of_an_episode_are_no_negatives():
    taco = build(TACO(k=1, latent_dim=4, hidden_dim=6, negative_window=2))
    episode, time = th.tensor([0, 0, 0, 1, 1, 1]), th.tensor([1, 2, 3, 2, 3, 9])
    batch = windows(steps=1, episode=episode, time=time)

    def near(i, j):
        return bool(episode[i] == episode[j]) and abs(int(time[i] - time[j])) < 2

    assert_same_loss_and_gradients(taco, taco.loss(batch)[0], slow_loss(taco, batch, BOX, near))


def test_widths_are_the_published_ones():
    taco = build(TACO())
    assert taco.tokenizer[2].out_features == 3, "floor(1.25 * 2) + 1"
    assert taco.sequence_head[0].in_features == taco.sequence_head[0].out_features == 9
    assert taco.projection[0].in_features == 59 and taco.projection[0].out_features == 1024
    assert taco.weight.shape == (50, 50) and taco.weight.min() >= 0 and taco.weight.max() < 1
    assert build(TACO(), DISCRETE).tokenizer[0].in_features == 3
    assert not any("reward" in name for name, _ in build(TACO(reward_weight=0.0)).named_parameters())


def test_keys_have_no_gradient():
    taco = build(TACO(k=1))
    seen = []
    taco.encoder.conv.register_forward_hook(lambda module, args, out: seen.append((len(out), out.requires_grad)))
    taco.loss(windows(steps=1))
    assert sorted(seen) == [(6, True), (12, False)], "the anchors; the second view and the later step in one pass"


def test_actions_matter():
    taco = build(TACO(k=2, curl_weight=0.0, reward_weight=0.0))
    batch = windows(steps=2)
    first = taco.loss(batch)[0]
    for step in (0, 1):
        batch.actions[:, step] = -batch.actions[:, step]
        second = taco.loss(batch)[0]
        assert not th.isclose(first, second)
        first = second


def test_given_features_are_used():
    taco = build(TACO(k=1))
    batch = windows(steps=1)
    features = taco.encoder(batch.obs[:, 0]).detach().requires_grad_()
    loss = taco.loss(batch, features)[0]
    th.testing.assert_close(loss, taco.loss(batch)[0])
    assert th.autograd.grad(loss, features)[0].any()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(k=0), "k=0"),
        (dict(token_dim=0), "token_dim=0"),
        (dict(latent_dim=0), "latent_dim=0"),
        (dict(curl_weight=-1.0), r"curl_weight=-1.0"),
        (dict(gamma=1.5), r"gamma=1.5"),
        (dict(hard_negatives=1, negative_window=1), "choose one"),
        (dict(hard_negatives=1, loss="info_nce"), "loss='bilinear' alone"),
        (dict(loss="negative_cosine"), "pass curl_weight=0"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TACO(**kwargs)


def test_registry():
    assert OBJECTIVES["taco"] is TACO
