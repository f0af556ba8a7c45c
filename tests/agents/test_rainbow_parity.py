"""Whole updates of SPR and of DrQ on Atari against ports in plain torch; resets."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.agents.rainbow import Rainbow
from crl.agents.rainbow_policy import RainbowNetwork
from crl.agents.resets import shrink_and_perturb
from crl.augment import Compose, Intensity, RandomShift
from crl.encoders import PixelEncoder
from crl.networks.noisy import NoisyLinear
from crl.objectives import SPR, CURLRainbow
from crl.replay.prioritized import PrioritizedFrameReplayBuffer

from ..fakes import FakeImages

SHAPE, ACTIONS, ATOMS, BATCH, K = (4, 24, 24), 3, 11, 8, 3
SUPPORT = th.linspace(-4.0, 4.0, ATOMS)


def make(policy=None, steps=40, augment=True, **kwargs):
    env = DummyVecEnv([lambda: FakeImages(spaces.Discrete(ACTIONS), SHAPE, channels=1, length=7)])
    encoder = dict(filters=4, layers=2, head="flatten", init="default", rescale=True)
    networks = {
        "net_arch": [12], "n_atoms": ATOMS, "v_min": -4.0, "v_max": 4.0, "features_extractor_class": PixelEncoder,
        "features_extractor_kwargs": encoder, "optimizer_kwargs": {"eps": 1.5e-4}, **(policy or {}),
    }  # fmt: skip
    replay = dict(n_stack=4, augment=Compose([RandomShift(2), Intensity(0.05)]) if augment else None)
    defaults = dict(
        buffer_size=60, learning_starts=1000, batch_size=BATCH, n_steps=2, target_update_interval=1, gamma=0.9,
        learning_rate=1e-2, replay_buffer_kwargs=replay,
    )  # fmt: skip
    model = Rainbow("RainbowPolicy", env, policy_kwargs=networks, seed=0, device="cpu", **{**defaults, **kwargs})
    model.learn(steps)
    model.set_logger(Logger(None, []))
    return model


def unit(x):
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-3)


def to_unit_range(x):
    flat = x.reshape(len(x), -1)
    low, high = flat.min(1)[0][:, None, None, None], flat.max(1)[0][:, None, None, None]
    return (x - low) / (high - low)


def conv_map(net, images):
    body = net.features_extractor.body
    x = images.double() / 255
    x = th.nn.functional.conv2d(x, body[0].weight, body[0].bias, stride=2).relu()
    return to_unit_range(th.nn.functional.conv2d(x, body[2].weight, body[2].bias).relu())


def layer(linear, x, noise):
    out = x @ linear.weight_mu.T + linear.bias_mu
    if noise:
        extra = linear.weight_sigma * th.outer(linear.noise_out, linear.noise_in)
        out = out + x @ extra.T + linear.bias_sigma * linear.noise_out
    return out


def logits_of(net, features, scale=1.0):
    features = features * scale + features.detach() * (1 - scale)
    advantage = layer(net.advantage[2], layer(net.advantage[0], features, True).relu(), True)
    value = layer(net.value[2], layer(net.value[0], features, True).relu(), True)
    advantage = advantage.reshape(-1, ACTIONS, ATOMS)
    return value[:, None] + advantage - advantage.mean(1, keepdim=True)


def c51_target(net, data):
    with th.no_grad():
        p = logits_of(net, conv_map(net, data.next_observations).flatten(1)).softmax(2)
        best = (p * SUPPORT.double()).sum(2).argmax(1)
        spread = th.zeros(BATCH, ATOMS, dtype=th.float64)
        for i in range(BATCH):
            for j, z in enumerate(SUPPORT.tolist()):
                moved = data.rewards[i].item() + (1 - data.dones[i].item()) * data.discounts[i].item() * z
                at = (min(4.0, max(-4.0, moved)) + 4.0) / 0.8
                for k in range(ATOMS):
                    spread[i, k] += max(0.0, 1 - abs(at - k)) * p[i, best[i], j]
        return spread


def roll(objective, net, feature_map, batch):
    """Sum over steps of 2 - 2 cos, where they count, over K: one number a window."""
    total = 0.0
    transition = objective.transition.layers
    for k in range(K):
        planes = th.nn.functional.one_hot(batch.actions[:, k, 0], ACTIONS).double() * batch.mask[:, k, None]
        x = th.cat([feature_map, planes[:, :, None, None].expand(-1, -1, *feature_map.shape[2:])], 1)
        x = th.nn.functional.conv2d(x, transition[0].weight, transition[0].bias, padding=1).relu()
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / (variance + 1e-5).sqrt() * transition[2].weight[:, None, None] + transition[2].bias[:, None, None]
        x = th.nn.functional.conv2d(x, transition[3].weight, transition[3].bias, padding=1).relu()
        feature_map = to_unit_range(x)
        first = th.cat([layer(s[0], feature_map.flatten(1), False) for s in (net.value, net.advantage)], 1)
        prediction = first @ objective.predictor.weight.T + objective.predictor.bias
        with th.no_grad():
            seen = conv_map(net, batch.views[k]).flatten(1)
            target = th.cat([layer(s[0], seen, False) for s in (net.value, net.advantage)], 1)
        total = total + (2 - 2 * (unit(prediction) * unit(target)).sum(1)) * batch.mask[:, k]
    return total / K


class Windows:
    """What the objective was given, with the views that it drew."""

    def __init__(self, batch):
        self.actions, self.mask, self.weights, self.obs, self.views = batch.actions, batch.mask, batch.weights, batch.obs, []
        draw = batch.augment
        batch.augment = lambda images, generator: self.views.append(draw(images, generator)) or self.views[-1]


def test_three_updates_of_spr_equal_the_port(monkeypatch):
    model = make(
        {"sigma0": 0.5, "grad_scale": 2**-0.5}, objective=SPR(k=K, average="all"), objective_weight=5.0, priority="kl",
        clip="separate", max_grad_norm=0.05,
    )  # fmt: skip
    assert isinstance(model.replay_buffer, PrioritizedFrameReplayBuffer)
    monkeypatch.setattr(RainbowNetwork, "reset_noise", lambda network: None)
    for part in model.q_net.modules():
        if isinstance(part, NoisyLinear):
            part.noise_in.normal_()
            part.noise_out.normal_()
    batches, windows = [], []
    sample, data = model.replay_buffer.sample_prioritized, model._objective_data.beginning_with
    monkeypatch.setattr(model.replay_buffer, "sample_prioritized", lambda *a: batches.append(sample(*a)) or batches[-1])

    def beginning_with(*args):
        batch = data(*args)
        windows.append(Windows(batch))
        return batch

    monkeypatch.setattr(model._objective_data, "beginning_with", beginning_with)
    net, objective = copy.deepcopy(model.q_net).double(), copy.deepcopy(model.objective).double()
    stem, dynamics = list(net.parameters()), list(objective.transition.parameters())
    adam = th.optim.Adam([*stem, *dynamics, *objective.predictor.parameters()], lr=1e-2, eps=1.5e-4)
    masked = 0
    for update in range(3):
        model.train(1, BATCH)
        batch, window = batches[update], windows[update]
        masked += int((~window.mask).sum())
        slots = th.as_tensor(model.replay_buffer.observations_at(batch.items, np.zeros(BATCH, int)))
        assert th.equal(window.obs[:, 0], slots), "windows begin with the transitions of the batch"
        assert th.equal(window.weights, batch.weights) and len(window.views) == K
        target = c51_target(net, batch.data)
        feature_map = conv_map(net, batch.data.observations)
        chosen = logits_of(net, feature_map.flatten(1), 2**-0.5)[range(BATCH), batch.data.actions.flatten().long()]
        log_p = chosen.log_softmax(1)
        rl = -(target * log_p).sum(1)
        loss = (batch.weights * rl).mean() + 5 * (batch.weights * roll(objective, net, feature_map, window)).mean()
        adam.zero_grad()
        loss.backward()
        for part in (stem, dynamics):
            th.nn.utils.clip_grad_norm_(part, 0.05)
        adam.step()
        smoothed = target.clamp(1e-6, 1)
        divergence = (smoothed * (smoothed.log() - log_p.detach())).sum(1).clamp(1e-6, 1e6)
        last = {item: i for i, item in enumerate(batch.items)}
        got = model.replay_buffer.tree.get(np.array(list(last)))
        np.testing.assert_allclose(got, divergence.sqrt().numpy()[list(last.values())], rtol=2e-3)
    assert masked, "some windows reach over the end of an episode"
    names = [name for name, _ in net.named_parameters()]
    for name, mine, theirs in zip(names, model.q_net.parameters(), net.parameters(), strict=True):
        th.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=3e-4, msg=lambda m, name=name: f"{name}: {m}")
    for mine, theirs in zip(model.objective.parameters(), objective.parameters(), strict=True):
        th.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=3e-4)


def test_three_updates_of_drq_eps_equal_the_port(monkeypatch):
    model = make(
        {
            "n_atoms": 1, "noisy": False, "shared_arch": [12], "net_arch": [],
            "features_extractor_kwargs": dict(filters=4, layers=2, head="flatten", init="xavier"),
        },
        prioritized=False, max_grad_norm=None,
    )  # fmt: skip
    batches, sample = [], model.replay_buffer.sample
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *a, **k: batches.append(sample(*a, **k)) or batches[-1])
    net = copy.deepcopy(model.q_net).double()
    with th.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter.add_(1.0)  # with a copy at every update it is never looked at

    def values(images):
        body = net.features_extractor.body
        x = th.nn.functional.conv2d(images.double() / 255, body[0].weight, body[0].bias, stride=2).relu()
        x = th.nn.functional.conv2d(x, body[2].weight, body[2].bias).relu().flatten(1)
        x = (x @ net.shared[0].weight.T + net.shared[0].bias).relu()
        advantage = x @ net.advantage[0].weight.T + net.advantage[0].bias
        return x @ net.value[0].weight.T + net.value[0].bias + advantage - advantage.mean(1, keepdim=True)

    adam = th.optim.Adam(net.parameters(), lr=1e-2, eps=1.5e-4)
    for update in range(3):
        model.train(1, BATCH)
        data = batches[update]
        assert not th.equal(data.observations, data.observations.round()), "intensity was changed"
        with th.no_grad():
            following = values(data.next_observations)
            target = data.rewards + (1 - data.dones) * data.discounts * following.max(1, keepdim=True)[0]
        error = values(data.observations).gather(1, data.actions) - target
        loss = th.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    for mine, theirs in zip(model.q_net.parameters(), net.parameters(), strict=True):
        th.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=2e-4)


def test_the_online_network_as_target_has_noise_of_its_own(monkeypatch):
    model = make()
    drawn = []
    reset = RainbowNetwork.reset_noise
    monkeypatch.setattr(RainbowNetwork, "reset_noise", lambda network: (drawn.append(network), reset(network)))
    model.train(1, BATCH)
    assert drawn == 2 * [model.q_net]


# ---- exploration


def test_epsilon_falls_after_the_random_start():
    model = make(
        {"noisy": False},
        steps=1,
        learning_starts=10,
        exploration_initial_eps=1.0,
        exploration_final_eps=0.2,
        exploration_steps=4,
    )
    seen = []
    for step in (5, 10, 12, 14, 50):
        model.num_timesteps = step
        model._on_step()
        seen.append(round(model.exploration_rate, 6))
    assert seen == [1.0, 1.0, 0.6, 0.2, 0.2]


@pytest.mark.parametrize("random_start, expected", [(True, 0), (False, 20)])
def test_whose_actions_come_first(random_start, expected, monkeypatch):
    model = make(steps=1, random_start=random_start)
    chosen, predict = [], model.predict
    monkeypatch.setattr(model, "predict", lambda *a, **k: chosen.append(1) or predict(*a, **k))
    model.learn(20)
    assert len(chosen) == expected


# ---- resets


@pytest.mark.parametrize("objective", [None, SPR(k=2), CURLRainbow(hidden=7, width=5, augment=RandomShift(2))])
def test_reset(objective):
    model = make(objective=objective, reset_every=3, reset_keep=0.75, target_update_interval=10)
    model._total_timesteps = 10_000
    model.train(2, BATCH)
    before = copy.deepcopy(model.q_net)
    transition = copy.deepcopy(getattr(model.objective, "transition", None))
    model.reset_every = 10**9
    model.train(1, BATCH)
    moments = [s["step"].item() for s in model.policy.optimizer.state.values()]
    assert moments and set(moments) == {3.0}
    trained = copy.deepcopy(model.q_net)
    model.reset_networks()
    assert not model.policy.optimizer.state
    held = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.q_net.parameters()} <= held, "the optimiser holds the same parameters"
    conv, old = model.q_net.features_extractor.body[0].weight, trained.features_extractor.body[0].weight
    fresh = (conv - 0.75 * old) / 0.25
    bound = 1 / (4 * 9) ** 0.5
    assert 0.8 * bound < fresh.abs().max() <= 1.001 * bound, "a quarter of a new initialisation"
    mu, sigma = model.q_net.advantage[0].weight_mu, model.q_net.advantage[0].weight_sigma
    assert mu.abs().max() <= 1 / mu.shape[1] ** 0.5 and th.all(sigma == sigma[0, 0]), "dense layers begin anew"
    assert not th.equal(mu, before.advantage[0].weight_mu)
    for mine, target in zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True):
        assert th.equal(mine, target)
    if transition is not None:
        moved = model.objective.transition.layers[0].weight
        assert not th.equal(moved, transition.layers[0].weight)
        assert th.corrcoef(th.stack([moved.flatten(), transition.layers[0].weight.flatten()]))[0, 1] > 0.8
    if isinstance(model.objective, CURLRainbow):
        assert th.equal(model.objective.key_encoder.extractor.body[0].weight, conv), "keys come from the encoder as it is"
        assert model.objective.weight.min() >= 0 and model.objective.weight.max() <= 1
    model.train(2, BATCH)


def test_resets_come_in_time_and_never_at_the_end(monkeypatch):
    model = make(steps=1, augment=False, learning_starts=10, reset_every=10)
    at = []
    monkeypatch.setattr(model, "reset_networks", lambda: at.append(model._n_updates))
    model.learn(60)
    # 50 updates, of which the last one is no time for a reset
    assert at == [10, 20, 30, 40]


def test_shrink_and_perturb_refuses():
    a, b = th.nn.Linear(3, 2), th.nn.Linear(3, 4)
    with pytest.raises(ValueError, match="no fresh Linear"):
        shrink_and_perturb(a, b, 0.5)
    with pytest.raises(ValueError, match="keep=2"):
        shrink_and_perturb(a, a, 2)
