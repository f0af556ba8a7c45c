"""Rainbow's update against an independent port in plain torch, and what its switches do."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.agents.rainbow import Rainbow
from crl.agents.rainbow_policy import RainbowNetwork
from crl.augment import RandomShift
from crl.networks.noisy import NoisyLinear
from crl.objectives.curl_rainbow import CURLRainbow
from crl.replay import FrameReplayBuffer
from crl.replay.prioritized import PrioritizedFrameReplayBuffer

from ..fakes import FakeImages

SHAPE, ACTIONS, ATOMS = (4, 40, 40), 3, 11


def make(policy=None, **kwargs):
    env = DummyVecEnv([lambda: FakeImages(spaces.Discrete(ACTIONS), SHAPE, channels=1, length=17)])
    policy = {"net_arch": [12], "n_atoms": ATOMS, "v_min": -4.0, "v_max": 4.0, **(policy or {})}
    defaults = dict(buffer_size=60, learning_starts=25, batch_size=8, n_steps=3, target_update_interval=10, gamma=0.9)
    replay = dict(n_stack=4)
    return Rainbow(
        "RainbowPolicy", env, policy_kwargs=policy, seed=0, device="cpu",
        **{**defaults, "replay_buffer_kwargs": replay, **kwargs},
    )  # fmt: skip


def trained(steps=24, **kwargs):
    """Its buffer holds something, and nothing was learned."""
    model = make(**kwargs)
    model.learn(steps)
    model.set_logger(Logger(None, []))
    return model


# ---- the port: one update, written out


def noisy(layer, x):
    weight = layer.weight_mu + layer.weight_sigma * th.outer(layer.noise_out, layer.noise_in)
    return x @ weight.T + layer.bias_mu + layer.bias_sigma * layer.noise_out


def port_logits(net, obs):
    x = net.features_extractor(obs.float() / 255)
    advantage = noisy(net.advantage[2], noisy(net.advantage[0], x).relu()).reshape(-1, ACTIONS, ATOMS)
    value = noisy(net.value[2], noisy(net.value[0], x).relu()).reshape(-1, 1, ATOMS)
    return value + advantage - advantage.mean(1, keepdim=True)


def port_losses(online, target, data, objective, views):
    z = [-4.0 + 0.8 * i for i in range(ATOMS)]
    support = th.tensor(z)
    with th.no_grad():
        best = (port_logits(online, data.next_observations).softmax(2) * support).sum(2).argmax(1)
        next_p = port_logits(target, data.next_observations).softmax(2)[range(8), best]
        m = th.zeros(8, ATOMS)
        for i in range(8):
            for j in range(ATOMS):
                tz = data.rewards[i].item() + (1 - data.dones[i].item()) * data.discounts[i].item() * z[j]
                b = (min(4.0, max(-4.0, tz)) + 4.0) / 0.8
                low = math.floor(b)
                up = min(low + 1, ATOMS - 1)
                m[i, low] += next_p[i, j] * (1 - (b - low))
                m[i, up] += next_p[i, j] * (b - low)
    logits = port_logits(online, data.observations)[range(8), data.actions.flatten().long()]
    losses = -(m * logits.log_softmax(1)).sum(1)
    if objective is not None:
        losses = losses + 0.7 * port_contrast(online, objective, *views)
    return losses


def port_contrast(online, objective, anchor, positive):
    def project(linears, x):
        x = linears[0](x)
        x = th.nn.functional.layer_norm(x, x.shape[-1:]).relu()
        x = linears[1](x)
        return th.nn.functional.layer_norm(x, x.shape[-1:])

    query = project([objective.projection[0], objective.projection[3]], online.features_extractor(anchor.float() / 255))
    with th.no_grad():
        key = project([objective.key_projection[0], objective.key_projection[3]], objective.key_encoder(positive))
    logits = query @ objective.weight @ key.T
    logits = (logits - logits.max(1, keepdim=True).values) * 0.1
    return th.nn.functional.cross_entropy(logits, th.arange(8))


class Recorded:
    """Keeps what an agent drew: batches, and the views of its objective."""

    def __init__(self, model):
        self.batches, self.views = [], []
        sample = model.replay_buffer.sample_prioritized
        model.replay_buffer.sample_prioritized = lambda *args: self.batches.append(sample(*args)) or self.batches[-1]
        if model.objective is not None:
            data = model._objective_data
            model._objective_data = lambda *args: self.views.append(data(*args)) or self.views[-1]


@pytest.mark.parametrize("contrast", [False, True])
def test_three_updates_equal_the_port(contrast, monkeypatch):
    objective = CURLRainbow(hidden=7, width=5, augment=RandomShift(2)) if contrast else None
    model = trained(objective=objective, objective_weight=0.7, learning_rate=1e-2)
    seen = Recorded(model)
    drawn = []
    monkeypatch.setattr(RainbowNetwork, "reset_noise", lambda network: drawn.append(network))
    for layer in (*model.q_net.modules(), *model.q_net_target.modules()):
        if isinstance(layer, NoisyLinear):
            layer.noise_in.normal_()
            layer.noise_out.normal_()
    online, target = copy.deepcopy((model.q_net, model.q_net_target))
    assert all(layer.weight_sigma.requires_grad for layer in target.modules() if isinstance(layer, NoisyLinear))
    with th.no_grad():
        for parameter in target.parameters():
            parameter.add_(0.01)
        for parameter in model.q_net_target.parameters():
            parameter.add_(0.01)
    other = copy.deepcopy(model.objective)
    if contrast:
        other.encoder = type(model.objective.encoder)(online.features_extractor, model.observation_space, True)
    heads = [p for p in other.parameters() if p.requires_grad] if contrast else []
    parameters = [*online.parameters(), *heads]
    adam = th.optim.Adam(parameters, lr=1e-2)
    for update in range(3):
        model.train(1, 8)
        batch = seen.batches[update]
        views = seen.views[update].views if contrast else None
        assert not contrast or not th.equal(views[0], batch.data.observations), "the contrast has two views of its own"
        losses = port_losses(online, target, batch.data, other, views)
        adam.zero_grad()
        (batch.weights * losses).mean().backward()
        th.nn.utils.clip_grad_norm_(parameters, 10.0)
        adam.step()
        if contrast:
            for copied, moving in ((other.key_encoder, online.features_extractor), (other.key_projection, other.projection)):
                for a, b in zip(copied.parameters(), moving.parameters(), strict=True):
                    a.data.mul_(0.999).add_(0.001 * b.data)
        last = {item: i for i, item in enumerate(batch.items)}
        want = losses.detach().sqrt().double().numpy()
        got = model.replay_buffer.tree.get(np.array(list(last)))
        assert np.allclose(got, want[list(last.values())], rtol=1e-4), "priorities hold all of the loss"
    names = [name for name, _ in online.named_parameters()]
    for name, mine, theirs in zip(names, model.q_net.parameters(), online.parameters(), strict=True):
        th.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}")
    if contrast:
        for mine, theirs in zip(model.objective.parameters(), other.parameters(), strict=True):
            th.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-4)
    assert drawn == 3 * [model.q_net, model.q_net_target], "each network has noise of its own at every update"


# ---- switches


@pytest.mark.parametrize("atoms", [ATOMS, 1])
@pytest.mark.parametrize("dueling, noisy_layers, double, prioritized, n_steps", [
    (True, True, True, True, 3), (False, False, False, False, 1), (True, False, True, False, 3), (False, True, False, True, 1),
])  # fmt: skip
def test_every_switch_learns(atoms, dueling, noisy_layers, double, prioritized, n_steps):
    policy = dict(n_atoms=atoms, dueling=dueling, noisy=noisy_layers)
    model = make(
        policy, double=double, prioritized=prioritized, n_steps=n_steps, exploration_initial_eps=0.1, learning_rate=1e-2
    )
    assert type(model.replay_buffer) is (PrioritizedFrameReplayBuffer if prioritized else FrameReplayBuffer)
    before = [p.detach().clone() for p in model.q_net.parameters()]
    model.learn(40)
    assert all(not th.equal(a, b) for a, b in zip(before, model.q_net.parameters(), strict=True))
    assert any(isinstance(layer, NoisyLinear) for layer in model.q_net.modules()) == noisy_layers


def test_plain_switches_are_sb3s_double_free_dqn():
    """One atom, one stream, no noise, uniform draws, one step: SB3's DQN loss on the same batch."""
    model = trained(policy=dict(n_atoms=1, dueling=False, noisy=False), double=False, prioritized=False, n_steps=1)
    data = model.replay_buffer.sample(8)
    logits = model.q_net.logits(model.q_net.extract_features(data.observations, model.q_net.features_extractor))
    losses = model._rl_losses(logits[range(8), data.actions.flatten()], model._targets(data))
    with th.no_grad():
        target = data.rewards + (1 - data.dones) * 0.9 * model.q_net_target(data.next_observations).max(1, keepdim=True)[0]
    want = th.nn.functional.smooth_l1_loss(model.q_net(data.observations).gather(1, data.actions), target)
    th.testing.assert_close(losses.mean(), want)


def test_acts_by_noise_and_evaluates_without():
    model = trained(evaluation_eps=0.0)
    obs = model.env.reset()
    greedy = [model.predict(obs, deterministic=True)[0].item() for _ in range(30)]
    assert len(set(greedy)) == 1
    with th.no_grad():
        for layer in model.q_net.modules():
            if isinstance(layer, NoisyLinear):
                layer.weight_sigma.fill_(2.0)
    explored = {model._sample_action(0)[0].item() for _ in range(60)}
    assert len(explored) > 1, "each step has a noise of its own"
    assert len({model.predict(obs, deterministic=True)[0].item() for _ in range(30)}) == 1
    model.evaluation_eps = 1.0
    state = np.random.get_state()[1].copy()
    assert len({model.predict(obs, deterministic=True)[0].item() for _ in range(60)}) == ACTIONS
    assert np.array_equal(state, np.random.get_state()[1]), "evaluations leave the training's random stream alone"


def test_beta_rises_to_one_and_target_is_copied(monkeypatch):
    model = make(beta_start=0.4)
    betas, sample = [], model.replay_buffer.sample_prioritized
    monkeypatch.setattr(
        model.replay_buffer, "sample_prioritized", lambda n, beta, env: betas.append(beta) or sample(n, beta, env)
    )
    model.learn(60)
    assert betas == pytest.approx([0.4 + 0.6 * i / 35 for i in range(1, 36)])
    model._n_calls = 9
    model._on_step()
    for a, b in zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True):
        assert th.equal(a, b)


def test_saves_and_loads_with_the_objective(tmp_path):
    model = make(objective=CURLRainbow(hidden=7, width=5, augment=RandomShift(2)))
    model.learn(35)
    model.save(tmp_path / "model.zip")
    again = Rainbow.load(tmp_path / "model.zip", env=model.env)
    for a, b in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
        assert th.equal(a, b)
    for (name, a), b in zip(model.objective.state_dict().items(), again.objective.state_dict().values(), strict=True):
        assert not isinstance(a, th.Tensor) or th.equal(a, b), name
    obs = model.env.reset()
    model.evaluation_eps = again.evaluation_eps = 0.0
    assert np.array_equal(model.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    assert len(again.policy.optimizer.param_groups) == 2
    again.learn(30, reset_num_timesteps=False)


@pytest.mark.parametrize("kwargs, words", [
    (dict(n_steps=0), "n_steps=0"),
    (dict(beta_start=2.0), "all lie in"),
    (dict(beta_start=0.6, beta_end=0.5), "not below beta_start"),
    (dict(priority="td"), "choose 'loss' or 'kl'"),
    (dict(clip="none"), "'joint' or 'separate'"),
    (dict(exploration_steps=0), "exploration_steps=0"),
    (dict(reset_every=0), "reset_every=0"),
    (dict(reset_keep=1.5), "reset_keep=1.5"),
    (dict(policy=dict(grad_scale=2.0)), "grad_scale=2.0"),
    (dict(policy=dict(head_init="he")), "init='he'"),
    (dict(objective="curl"), "a new instance"),
    (dict(objective_weight=-1.0), "must not be negative"),
    (dict(replay_buffer_class=FrameReplayBuffer), "prioritized=True needs"),
    (dict(replay_buffer_kwargs=dict(n_stack=4, n_steps=2)), "give them to Rainbow alone"),
    (dict(policy=dict(v_min=4.0)), "v_min below v_max"),
    (dict(objective=CURLRainbow()), "nothing augments"),
])  # fmt: skip
def test_bad_input(kwargs, words):
    with pytest.raises(ValueError, match=words):
        make(**kwargs)
