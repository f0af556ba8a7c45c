"""PixelSAC against a port of CURL's published update, against autograd, and in use."""

import copy
import math

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from crl.agents import PixelSAC
from gymnasium import spaces
from stable_baselines3 import SAC
from torch import nn

from crl.augment import RandomCrop
from crl.objectives import CURL
from crl.policies import PixelSACPolicy
from crl.replay import FrameReplayBuffer

from ..fakes import FakeImages

BOX = spaces.Box(-1, 1, (2,), np.float32)


def make(n_stack=3, size=24, crop=20, seed=0, **kwargs):
    env = FakeImages(BOX, shape=(9, size, size))
    policy_kwargs = dict(
        net_arch=[32, 32],
        log_std_bounds=(-10, 2),
        mlp_init="orthogonal",
        features_extractor_kwargs=dict(crop=crop, features_dim=12, filters=8),
    )
    policy_kwargs |= kwargs.pop("policy_kwargs", {})
    settings = dict(
        objective=CURL(keys="target"),
        learning_rate=1e-3,
        buffer_size=200,
        learning_starts=16,
        batch_size=16,
        seed=seed,
        replay_buffer_class=FrameReplayBuffer,
        replay_buffer_kwargs=dict(n_stack=n_stack, augment=RandomCrop(crop)),
    )
    return PixelSAC(PixelSACPolicy, env, policy_kwargs=policy_kwargs, **{**settings, **kwargs})


class PublishedCURL:
    """
    CURL's update from its paper and code, in plain torch: three networks, no SB3. Weights are copied from a model at the
    start, then it goes its own way.
    """

    def __init__(self, model):
        critic, actor = model.policy.critic, model.policy.actor
        layers = lambda m, kind: [copy.deepcopy(x) for x in m.modules() if isinstance(x, kind)]  # noqa: E731
        self.convs = layers(critic.features_extractor, nn.Conv2d)
        (self.fc,), (self.ln,) = layers(critic.features_extractor, nn.Linear), layers(critic.features_extractor, nn.LayerNorm)
        self.q = [layers(q, nn.Linear) for q in critic.q_networks]
        self.actor_fc, self.actor_ln = layers(actor.features_extractor, nn.Linear)[0], layers(actor, nn.LayerNorm)[0]
        self.pi = [*layers(actor.latent_pi, nn.Linear), copy.deepcopy(actor.mu), copy.deepcopy(actor.log_std)]
        self.target = copy.deepcopy((self.convs, self.fc, self.ln, self.q))
        self.W = nn.Parameter(model.objective.weight.detach().clone())
        self.log_alpha = nn.Parameter(th.tensor(math.log(0.1)))
        encoder = [p for m in (*self.convs, self.fc, self.ln) for p in m.parameters()]
        q_parameters = [p for q in self.q for m in q for p in m.parameters()]
        actor_parameters = [p for m in (self.actor_fc, self.actor_ln, *self.pi) for p in m.parameters()]
        self.critic_adam = th.optim.Adam([*encoder, *q_parameters], lr=1e-3)
        self.actor_adam = th.optim.Adam(actor_parameters, lr=1e-3)
        self.alpha_adam = th.optim.Adam([self.log_alpha], lr=1e-4, betas=(0.5, 0.999))
        self.encoder_adam = th.optim.Adam(encoder, lr=1e-3)
        self.cpc_adam = th.optim.Adam([*encoder, self.W], lr=1e-3)

    @staticmethod
    def conv(convs, x):
        x = x.float() / 255
        for layer in convs:
            x = F.relu(layer(x))
        return x.flatten(1)

    @staticmethod
    def mlp(layers, x):
        for layer in layers[:-1]:
            x = F.relu(layer(x))
        return layers[-1](x)

    def policy(self, x, grad):
        flat = self.conv(self.convs, x).detach()
        z = self.actor_ln(self.actor_fc(flat))
        *hidden, mu, log_std = self.pi
        for layer in hidden:
            z = F.relu(layer(z))
        mu, log_std = mu(z), -10 + 6 * (th.tanh(log_std(z)) + 1)
        noise = th.distributions.Normal(th.zeros_like(mu), th.ones_like(mu)).rsample()
        u = mu + log_std.exp() * noise
        a = th.tanh(u)
        log_p = (-0.5 * noise**2 - log_std).sum(1) - 0.5 * a.shape[1] * math.log(2 * math.pi)
        return a, log_p - th.log(F.relu(1 - a**2) + 1e-6).sum(1)

    def update(self, step, obs, next_obs, positive, action, reward, not_done):
        with th.no_grad():
            a, log_p = self.policy(next_obs, False)
            convs, fc, ln, q = self.target
            z = ln(fc(self.conv(convs, next_obs)))
            v = th.min(*(self.mlp(layers, th.cat([z, a], 1)) for layers in q))[:, 0] - self.log_alpha.exp() * log_p
            y = reward + not_done * 0.99 * v
        z = self.ln(self.fc(self.conv(self.convs, obs)))
        loss = sum(F.mse_loss(self.mlp(layers, th.cat([z, action], 1))[:, 0], y) for layers in self.q)
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        if step % 2 == 0:
            a, log_p = self.policy(obs, True)
            z = self.ln(self.fc(self.conv(self.convs, obs).detach()))
            q_min = th.min(*(self.mlp(layers, th.cat([z, a], 1)) for layers in self.q))[:, 0]
            self.actor_adam.zero_grad()
            (self.log_alpha.exp().detach() * log_p - q_min).mean().backward()
            self.actor_adam.step()
            self.alpha_adam.zero_grad()
            (self.log_alpha.exp() * (-log_p + a.shape[1]).detach()).mean().backward()
            self.alpha_adam.step()
            with th.no_grad():
                convs, fc, ln, q = self.target
                for t, o in zip([*convs, fc, ln], [*self.convs, self.fc, self.ln], strict=True):
                    for x, y_ in zip(t.parameters(), o.parameters(), strict=True):
                        x.copy_(0.05 * y_ + 0.95 * x)
                for t, o in zip(q, self.q, strict=True):
                    for m, n in zip(t, o, strict=True):
                        for x, y_ in zip(m.parameters(), n.parameters(), strict=True):
                            x.copy_(0.01 * y_ + 0.99 * x)
        anchor = self.ln(self.fc(self.conv(self.convs, obs)))
        with th.no_grad():
            convs, fc, ln, _ = self.target
            key = ln(fc(self.conv(convs, positive)))
        logits = anchor @ (self.W @ key.T)
        logits = logits - logits.max(1, keepdim=True)[0]
        self.encoder_adam.zero_grad()
        self.cpc_adam.zero_grad()
        F.cross_entropy(logits, th.arange(len(logits))).backward()
        self.encoder_adam.step()
        self.cpc_adam.step()


def collected(**kwargs):
    model = make(**kwargs)
    model.learn(16)  # random actions only: no update yet
    return model


def test_three_updates_equal_the_published_algorithm():
    model = collected(joint=False)
    port = PublishedCURL(model)
    draw = model._draw
    drawn = []

    def drawing(batch_size):
        drawn.append(draw(batch_size))
        return drawn[-1]

    model._draw = drawing
    for step in (1, 2, 3):
        th.manual_seed(step)
        model.train(gradient_steps=1, batch_size=16)
        data, (positive,) = drawn[-1]
        th.manual_seed(step)
        port.update(
            step, data.observations, data.next_observations, positive, data.actions, data.rewards[:, 0], 1 - data.dones[:, 0]
        )
    pairs = {}
    critic, target, actor = model.policy.critic, model.policy.critic_target, model.policy.actor
    for name, (convs, fc, ln, q), module in (
        ("critic", (port.convs, port.fc, port.ln, port.q), critic),
        ("target", port.target, target),
    ):
        mine = [*convs, fc, ln, *(m for layers in q for m in layers)]
        pairs[name] = ([p for m in mine for p in m.parameters()], list(module.parameters()))
    own = [port.actor_fc, port.actor_ln, *port.pi]
    pairs["actor"] = ([p for m in own for p in m.parameters()], list(actor.parameters()))
    pairs["W"] = ([port.W], [model.objective.weight])
    pairs["alpha"] = ([port.log_alpha], [model.log_ent_coef.reshape(())])
    start = make(joint=False)
    for name, (want, got) in pairs.items():
        assert len(want) == len(got)
        for w, g in zip(want, got, strict=True):
            th.testing.assert_close(g, w, rtol=1e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
    for before, after in zip(start.policy.critic.parameters(), critic.parameters(), strict=True):
        assert not th.equal(before, after), "everything must have moved, or this test shows nothing"


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_joint_gradient_is_that_of_the_summed_loss(weight):
    model = collected(objective_weight=weight)
    data, views = model._draw(16)
    model._draw = lambda n: (data, views)
    critic, target, curl = copy.deepcopy((model.critic, model.critic_target, model.objective))
    record = []
    parameters = [*model.critic.parameters(), model.objective.weight]
    model.critic.optimizer.register_step_pre_hook(lambda *_: record.extend(p.grad.clone() for p in parameters))
    th.manual_seed(0)
    model.train(gradient_steps=1, batch_size=16)
    th.manual_seed(0)
    again = make(objective_weight=weight)
    with th.no_grad():
        next_actions, next_log_prob = again.actor.action_log_prob(data.next_observations)
        next_q = th.cat(target(data.next_observations, next_actions), 1).min(1, keepdim=True)[0]
        y = data.rewards + (1 - data.dones) * 0.99 * (next_q - 0.1 * next_log_prob.reshape(-1, 1))
        key = target.features_extractor(views[0].float() / 255)
    features = critic.features_extractor(data.observations.float() / 255)
    rl = sum(F.mse_loss(q(th.cat([features, data.actions], 1)), y) for q in critic.q_networks)
    contrast = F.cross_entropy(features @ curl.weight @ key.T, th.arange(16))
    expected = th.autograd.grad(rl + weight * contrast, [*critic.parameters(), curl.weight])
    assert len(record) == len(expected)
    for got, want in zip(record, expected, strict=True):
        th.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def moved(before, module):
    return any(not th.equal(b, p) for b, p in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(
    "route, objective, body_moves",
    [
        ("critic", True, True),
        ("critic", False, True),
        ("actor", False, True),
        ("objective", True, True),
        ("objective", False, False),
    ],
)
def test_who_moves_the_body(joint, route, objective, body_moves):
    settings = dict(joint=joint, policy_kwargs=dict(encoder_gradient=route))
    model = collected(**settings, objective=CURL(keys="target") if objective else None)
    before = {
        name: [p.detach().clone() for p in m.parameters()]
        for name, m in (("body", model.encoder.body), ("head", model.encoder._head), ("actor", model.actor))
    }
    model.train(gradient_steps=2, batch_size=16)
    assert moved(before["body"], model.encoder.body) == body_moves
    assert moved(before["head"], model.encoder._head) and moved(before["actor"], model.actor)


def test_rl_gradient_does_not_reach_the_body_when_the_objective_moves_it():
    """At weight 1 and 1e-9 of the objective the body's gradient scales with the weight: nothing of RL is in it."""
    norms = []
    for weight in (1.0, 1e-3):
        model = collected(objective_weight=weight, policy_kwargs=dict(encoder_gradient="objective"))
        grads = []
        body = list(model.encoder.body.parameters())
        model.critic.optimizer.register_step_pre_hook(lambda *_, g=grads, b=body: g.extend(p.grad.norm() for p in b))
        model.train(gradient_steps=1, batch_size=16)
        norms.append(th.stack(grads))
    th.testing.assert_close(norms[1], 1e-3 * norms[0], rtol=1e-3, atol=1e-9)


def test_weight_zero_is_no_objective():
    results = []
    for settings in (dict(objective_weight=0.0), dict(objective=None)):
        model = make(**settings)
        model.learn(24)
        results.append(model.policy.state_dict())
    assert all(th.equal(results[0][k], results[1][k]) for k in results[0])
    assert model.objective is None


def test_periods_count_updates_over_calls():
    model = collected(actor_period=3, target_period=5)
    actor, target = [], []
    model._actor_update = lambda *_: actor.append(model._n_updates)
    model._target_update = lambda: target.append(model._n_updates)
    for steps in (1, 1, 4, 1, 8):
        model.train(gradient_steps=steps, batch_size=16)
    assert actor == [3, 6, 9, 12, 15] and target == [5, 10, 15]


def test_policy_golden_values():
    """Mean .3, raw log-std .1, noise .5, one action."""
    env = FakeImages(spaces.Box(-1, 1, (1,), np.float32), shape=(9, 24, 24))
    kwargs = dict(log_std_bounds=(-10, 2), features_extractor_kwargs=dict(filters=2))
    model = PixelSAC(PixelSACPolicy, env, buffer_size=10, policy_kwargs=kwargs)
    actor = model.actor
    actor.latent_pi, actor.mu, actor.log_std = nn.Identity(), lambda _: th.tensor([[0.3]]), lambda _: th.tensor([[0.1]])
    mean, log_std = actor.gaussian(th.zeros(1, 1))
    assert log_std.item() == pytest.approx(-3.4019920323, abs=1e-6)
    u = mean + log_std.exp() * 0.5
    distribution = actor.action_dist.proba_distribution(mean, log_std)
    action = th.tanh(u)
    assert action.item() == pytest.approx(0.3064778061, abs=1e-6)
    assert distribution.log_prob(action, u).item() == pytest.approx(2.4566896138, abs=1e-5)


@pytest.mark.parametrize("joint", [True, False])
def test_save_load_goes_on_identically(joint, tmp_path):
    model = make(joint=joint)
    model.learn(28)
    model.save(tmp_path / "m")
    model.save_replay_buffer(tmp_path / "r")
    loaded = PixelSAC.load(tmp_path / "m", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "r")
    obs = np.random.default_rng(0).integers(0, 256, (3, 9, 24, 24), dtype=np.uint8)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    for m in (model, loaded):
        m.set_logger(model.logger)
        th.manual_seed(3)
        np.random.seed(3)
        m.train(gradient_steps=3, batch_size=16)
    for key, value in model.policy.state_dict().items():
        assert th.equal(value, loaded.policy.state_dict()[key]), key
    assert th.equal(model.objective.weight, loaded.objective.weight)
    assert PixelSAC.load(tmp_path / "m").predict(obs)[0].shape == (3, 2)


def test_metrics(tmp_path):
    model = make(log_interval_updates=4)
    model.learn(40)
    seen = model.logger.name_to_value
    for name in (
        "train/critic_loss",
        "train/actor_loss",
        "train/ent_coef",
        "train/q_mean",
        "train/entropy",
        "repr/curl_loss",
        "repr/curl_accuracy",
        "repr/rl_grad_norm",
        "repr/grad_norm",
        "repr/grad_cosine",
        "repr/effective_rank",
        "repr/dormant_units",
        "train/replay_ratio",
    ):
        assert np.isfinite(seen[name]), name
    assert -1 <= seen["repr/grad_cosine"] <= 1


def test_nan_is_reported():
    model = collected(log_interval_updates=2)
    with th.no_grad():
        model.objective.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        model.train(gradient_steps=2, batch_size=16)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(actor_period=0), "at least 1 update"),
        (dict(ent_coef_loss="beta"), "choose 'alpha'"),
        (dict(objective_weight=-1.0), "must be >= 0"),
        (dict(replay_buffer_class=None, replay_buffer_kwargs=None), "FrameReplayBuffer"),
        (dict(replay_buffer_kwargs=dict(n_stack=3)), "contrasts augmented views"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_other_policies_are_refused():
    with pytest.raises(ValueError, match="needs PixelSACPolicy"):
        PixelSAC("CnnPolicy", FakeImages(BOX, shape=(9, 40, 40)), buffer_size=10)
    assert issubclass(PixelSAC, SAC)
