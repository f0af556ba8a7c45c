"""One pass, one backward: against autograd of the summed loss, and against SB3's own update."""

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from torch.optim.optimizer import register_optimizer_step_pre_hook

from crl.agents.rescaled_policy import RescaledSACPolicy
from crl.augment import RandomCrop
from crl.contract import DataRequest, Objective
from crl.objectives import CURL
from crl.replay import FrameReplayBuffer

from .agents import (
    ACTIONS,
    BATCH,
    CROP,
    KnownBatches,
    KnownCrops,
    crop_at,
    make_agent,
    make_env,
    random_transitions,
    same,
    state,
)

WEIGHT = 0.7


def known_agent(n=1, policy_kwargs=None, **kwargs):
    """An agent that is fed with known batches and crops; the batches; the crops."""
    defaults = dict(objective=CURL(keys="target"), objective_weight=WEIGHT, replay_buffer_class=KnownBatches)
    model = make_agent(policy_kwargs=policy_kwargs, **{**defaults, **kwargs})
    rng = np.random.default_rng(2)
    crops = [rng.integers(0, 24 - CROP + 1, (BATCH, 2)) for _ in range(3 * n)]
    batches = random_transitions(n, seed=1)
    model.replay_buffer.augment = KnownCrops(crops if model.objective else [c for i, c in enumerate(crops) if i % 3 != 2])
    if model.objective is not None:
        model._objective_data.augment = model.replay_buffer.augment
    model.replay_buffer.batches = list(batches)
    model.set_logger(Logger(None, []))
    return model, batches, crops


def summed_loss(model, data, crops, weight, contrast_moves_critic=True):
    """Losses of the critic and of the contrast, from the networks' plain forward passes."""
    obs, next_obs, positive = (
        crop_at(images, offsets).float() / 255
        for images, offsets in zip((data.observations, data.next_observations, data.observations), crops, strict=True)
    )
    critic, target = model.critic, model.critic_target
    with th.no_grad():
        features = model.actor.features_extractor(model.encoder.forward_body(next_obs))
        latent = model.actor.latent_pi(features)
        mean, log_std = model.actor.mu(latent), -10 + 6 * (th.tanh(model.actor.log_std(latent)) + 1)
        noise = th.randn(BATCH, ACTIONS)
        u = mean + log_std.exp() * noise
        log_prob = (th.distributions.Normal(mean, log_std.exp()).log_prob(u) - th.log(1 - th.tanh(u) ** 2 + 1e-6)).sum(1, True)
        z = target.features_extractor(next_obs)
        q = th.min(*(q_net(th.cat([z, th.tanh(u)], 1)) for q_net in target.q_networks))
        y = data.rewards + (1 - data.dones) * 0.99 * (q - 0.1 * log_prob)
    z = critic.features_extractor(obs)
    rl = sum(F.mse_loss(q_net(th.cat([z, data.actions], 1)), y) for q_net in critic.q_networks)
    logits = z @ model.objective.weight @ target.features_extractor(positive).detach().T
    return rl, weight * F.cross_entropy(logits, th.arange(BATCH))


@pytest.fixture
def gradients_seen():
    """Gradients at each optimiser's step, by optimiser."""
    seen = []

    def spy(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append((optimizer, {id(p): None if p.grad is None else p.grad.clone() for p in parameters}))

    handle = register_optimizer_step_pre_hook(spy)
    yield seen
    handle.remove()


def test_gradients_are_those_of_the_summed_loss(gradients_seen):
    model, (data,), crops = known_agent()
    th.manual_seed(3)
    rl, contrast = summed_loss(model, data, crops, WEIGHT)
    parameters = [*model.critic.parameters(), model.objective.weight]
    expected = th.autograd.grad(rl + contrast, parameters)
    th.manual_seed(3)
    model.train(1, BATCH)
    (critic_step,) = (seen for optimizer, seen in gradients_seen if optimizer is model.critic.optimizer)
    (head_step,) = (seen for optimizer, seen in gradients_seen if optimizer is model.objective_optimizer)
    for parameter, gradient in zip(parameters, expected, strict=True):
        found = {**critic_step, **head_step}[id(parameter)]
        th.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-4)
    encoder = {id(p) for p in model.encoder.parameters()}
    others = [seen for optimizer, seen in gradients_seen if optimizer is not model.critic.optimizer]
    assert not any(encoder & seen.keys() for seen in others), "one Adam on the encoder"


def test_critic_route_reaches_the_body_from_both_losses(gradients_seen):
    model, (data,), crops = known_agent()
    th.manual_seed(3)
    rl, contrast = summed_loss(model, data, crops, WEIGHT)
    body = list(model.encoder.body.parameters())
    for loss in (rl, contrast):
        assert all(g.abs().max() > 0 for g in th.autograd.grad(loss, body, retain_graph=True))


def test_objective_route_gives_the_body_the_contrast_alone(gradients_seen):
    model, (data,), crops = known_agent(policy_kwargs=dict(encoder_gradient="objective"))
    th.manual_seed(3)
    rl, contrast = summed_loss(model, data, crops, WEIGHT)
    body, head = list(model.encoder.body.parameters()), list(model.encoder._head.parameters())
    expected = [*th.autograd.grad(contrast, body, retain_graph=True), *th.autograd.grad(rl + contrast, head)]
    th.manual_seed(3)
    model.train(1, BATCH)
    seen = next(seen for optimizer, seen in gradients_seen if optimizer is model.critic.optimizer)
    for parameter, gradient in zip([*body, *head], expected, strict=True):
        th.testing.assert_close(seen[id(parameter)], gradient, atol=1e-5, rtol=1e-4)


def test_actor_route_moves_the_body_at_actor_steps_only(gradients_seen):
    model, _, _ = known_agent(2, policy_kwargs=dict(encoder_gradient="actor"), objective=None)
    body = [id(p) for p in model.encoder.body.parameters()]
    before = state(model.encoder.body)
    model.train(1, BATCH)
    actor_steps = [seen for optimizer, seen in gradients_seen if optimizer is model.actor.optimizer]
    assert len(actor_steps) == 1 and all(actor_steps[0][i].abs().max() > 0 for i in body)
    critic_steps = [seen for optimizer, seen in gradients_seen if optimizer is model.critic.optimizer]
    assert not any(i in critic_steps[0] for i in body)
    after = state(model.encoder.body)
    assert not same(before, after)
    model.train(1, BATCH)
    assert same(after, state(model.encoder.body)), "the second update has no actor step"


def test_actor_leaves_no_gradient_behind():
    model, _, _ = known_agent()
    model.train(1, BATCH)
    before = [p.grad.clone() for p in model.critic.parameters()]
    sample = model.actor.sample(th.rand(BATCH, *model.encoder.map_shape))
    model._actor_step(sample, th.rand(BATCH, *model.encoder.map_shape), model._alpha())
    assert all(th.equal(a, p.grad) for a, p in zip(before, model.critic.parameters(), strict=True))
    assert all(p.grad is None for p in model.actor.parameters())


def test_frozen_body_stands_still_and_is_run_without_graph_and_once(monkeypatch):
    model, _, _ = known_agent(2, policy_kwargs=dict(encoder_gradient="objective"), objective=None)
    calls = []
    forward = type(model.encoder).forward_body

    def spy(self, images):
        feature_map = forward(self, images)
        calls.append((self is model.encoder, feature_map.requires_grad))
        return feature_map

    monkeypatch.setattr(type(model.encoder), "forward_body", spy)
    before, target = state(model.encoder.body), state(model.target_encoder.body)
    head = state(model.encoder._head)
    model.train(2, BATCH)
    assert same(before, state(model.encoder.body)) and same(target, state(model.target_encoder.body))
    assert not same(head, state(model.encoder._head)), "the critic's head learns"
    assert calls == [(True, False)] * 4, "obs and next_obs, by the online body alone"


def test_target_of_a_frozen_body_is_used_when_other_weights_were_loaded():
    model, _, _ = known_agent(policy_kwargs=dict(encoder_gradient="objective"), objective=None)
    assert model._target_body_is_online
    with th.no_grad():
        next(model.encoder.body.parameters()).add_(1.0)
    assert not model._target_body_is_online


def centre_cropped(data):
    obs, next_obs = (images[:, :, 2:-2, 2:-2] for images in (data.observations, data.next_observations))
    return data._replace(observations=obs, next_observations=next_obs)


def test_sb3_settings_give_sb3s_update():
    """SB3's own train() on the same policy: order, losses, targets and temperature."""
    policy_kwargs = dict(net_arch=[32, 32], features_extractor_kwargs=dict(filters=8, crop=CROP, features_dim=10))
    common = dict(buffer_size=200, batch_size=BATCH, tau=0.02, learning_rate=1e-3, ent_coef="auto_0.1", seed=0)
    theirs = SAC(RescaledSACPolicy, make_env(), replay_buffer_class=KnownBatches, replay_buffer_kwargs=dict(n_stack=3),
                 policy_kwargs=policy_kwargs, **common)  # fmt: skip
    mine = make_agent(
        **{**common, "policy_kwargs": policy_kwargs},
        replay_buffer_class=KnownBatches,
        replay_buffer_kwargs=dict(n_stack=3),
        encoder_tau=0.02,
        actor_period=1,
        target_period=1,
        ent_coef_learning_rate=None,
        ent_coef_beta1=0.9,
        ent_coef_loss="log_alpha",
        critic_before_actor=False,
        critic_loss_factor=0.5,
    )
    mine.policy.load_state_dict(theirs.policy.state_dict())
    batches = random_transitions(3, seed=1)
    for model in (theirs, mine):
        model.replay_buffer.batches = [centre_cropped(data) for data in batches]
        model.set_logger(Logger(None, []))
        th.manual_seed(3)
        model.train(3, BATCH)
    th.testing.assert_close(mine.log_ent_coef, theirs.log_ent_coef, atol=1e-6, rtol=1e-5)
    found, expected = mine.policy.state_dict(), theirs.policy.state_dict()
    for name, value in expected.items():
        th.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_reused_features_change_nothing_where_the_body_stands_still():
    states = []
    for reuse in (False, True):
        model, _, _ = known_agent(2, policy_kwargs=dict(encoder_gradient="objective"), objective=None, reuse_features=reuse)
        th.manual_seed(3)
        model.train(2, BATCH)
        states.append(state(model.policy))
    assert same(*states)


def test_reused_features_are_those_before_the_critics_step(monkeypatch):
    counts = []
    for reuse in (False, True):
        model, _, _ = known_agent(reuse_features=reuse)
        forward, calls = type(model.encoder).forward_body, []
        monkeypatch.setattr(type(model.encoder), "forward_body", lambda s, x, f=forward, c=calls: (c.append(s), f(s, x))[1])
        model.train(1, BATCH)
        monkeypatch.undo()
        counts.append(len(calls))
    assert counts == [5, 4], "joint: obs, next_obs, target's next_obs, target's positive; and the actor's own pass"


def test_draws_are_those_of_the_buffers_sample():
    samples = []
    for _ in range(2):
        model = make_agent(replay_buffer_kwargs=dict(n_stack=3, augment=RandomCrop(CROP)), learning_starts=100)
        model.learn(40)
        samples.append(model)
    from crl.agents.batches import draw_batch

    a, b = samples
    np.random.seed(1)
    mine = draw_batch(a.replay_buffer, BATCH, 0.99)
    assert isinstance(a.replay_buffer.augment, RandomCrop), "handed back"
    np.random.seed(1)
    theirs = b.replay_buffer.sample(BATCH)
    assert th.equal(mine.obs, theirs.observations) and th.equal(mine.next_obs, theirs.next_observations)
    assert th.equal(mine.actions, theirs.actions) and mine.raw.shape == (BATCH, 9, 24, 24)


class SlowFeatures(Objective):
    """On sequences: what the encoder says should change little in a step."""

    request = DataRequest("sequence", steps=2)

    def build(self, encoder, spaces):
        self.encoder = encoder

    def loss(self, batch, features=None):
        assert features is None, "the critic's view is not this batch's"
        z = [self.encoder(batch.view(t)) for t in range(batch.steps + 1)]
        loss = (z[0] - z[1]).square().mean() + (z[1] - z[2]).square().mean()
        return loss, {"loss": loss.detach()}


@pytest.mark.parametrize("joint", [True, False])
def test_objectives_on_sequences_without_heads(joint):
    model = make_agent(objective=SlowFeatures(), joint=joint)
    model.learn(24)
    assert isinstance(model.replay_buffer, FrameReplayBuffer) and model._n_updates == 4
    assert model.objective_optimizer is None or not joint


def test_balance_makes_the_gradients_ratio():
    model, _, _ = known_agent(1, balance=0.5)
    model.train(1, BATCH)
    rl, objective = model.gradient_norms
    assert float(model._objective_scale() * objective / rl) == pytest.approx(WEIGHT * 0.5, rel=1e-5)


def test_looking_at_gradients_changes_nothing():
    states = []
    for interval in (1, 1000):
        model, _, _ = known_agent(3, metrics_interval=interval)
        model.train(1, BATCH)  # update 0 is always looked at
        th.manual_seed(3)
        model.train(2, BATCH)
        states.append(state(model.policy))
    assert same(*states)
