"""What the two modes promise, checked against plain autograd."""

import copy

import pytest
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.callbacks import BaseCallback

from crl.callbacks import AuxiliaryLossCallback
from crl.contract import Objective
from crl.objectives import CURL

from .models import augmentation, make_model


class Recorder(CURL):
    """CURL that keeps the batches it was given."""

    def loss(self, batch, features=None):
        self.batches = [*getattr(self, "batches", []), batch]
        return super().loss(batch, features)


def gradients_at_step(optimizer, parameters, record):
    """Note the gradients that the optimiser is about to step, after crl's own hook has run."""
    return optimizer.register_step_pre_hook(
        lambda *_: record.append([None if p.grad is None else p.grad.detach().clone() for p in parameters])
    )


def attach(model, callback):
    """What learn() does before the first step."""
    model._setup_learn(1, callback)
    return callback


def filled(name, **kwargs):
    model = make_model(name, **kwargs)
    model.learn(20)
    return model


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_sac_add_gradient_is_autograd_of_the_summed_loss(weight, monkeypatch):
    # one library for both sides: their roundings differ by more than the bound
    monkeypatch.setattr("crl.networks.linear.onednn_linear", lambda: False)
    monkeypatch.setattr("crl.networks.conv_stack.onednn_convolution", lambda: False)
    monkeypatch.setattr("crl.policies.faster", lambda optimizer_class, kwargs: optimizer_class)
    model = filled("sac")
    callback = attach(model, AuxiliaryLossCallback(Recorder(), "add_gradient", weight=weight))
    parameters = list(model.policy.encoder.parameters())
    record = []
    gradients_at_step(model.critic.optimizer, parameters, record)
    critic, actor, alpha = copy.deepcopy((model.critic, model.actor, model.log_ent_coef))
    target = copy.deepcopy(model.critic_target)
    curl = copy.deepcopy(callback.objective)
    batches, actions = [], []
    sample = model.replay_buffer.sample

    def sampled(*args, **kwargs):
        batches.append(sample(*args, **kwargs))
        return batches[-1]

    model.replay_buffer.sample = sampled
    act = model.actor.action_log_prob

    def acted(obs):
        actions.append(act(obs))
        return actions[-1]

    model.actor.action_log_prob = acted
    model.train(gradient_steps=1, batch_size=8)
    del model.actor.action_log_prob

    data, (next_actions, next_log_prob) = batches[0], actions[1]
    ent_coef = alpha.exp().detach()
    with th.no_grad():
        next_q = th.cat(target(data.next_observations, next_actions), 1).min(1, keepdim=True)[0]
        y = data.rewards + (1 - data.dones) * model.gamma * (next_q - ent_coef * next_log_prob.reshape(-1, 1))
    features = critic.features_extractor(data.observations.float() / 255)
    rl = 0.5 * sum(F.mse_loss(q(th.cat([features, data.actions], 1)), y) for q in critic.q_networks)
    anchor, positive = callback.objective.batches[0].views
    query = critic.features_extractor(anchor.float() / 255)
    with th.no_grad():
        key = curl.key_encoder(positive)
    contrast = F.cross_entropy(query @ curl.weight @ key.T, th.arange(8))
    expected = th.autograd.grad(rl + weight * contrast, list(critic.features_extractor.parameters()))
    assert len(record) == 1
    for got, want in zip(record[0], expected, strict=True):
        th.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_ppo_add_gradient_is_clip_rl_plus_clip_objective():
    model = filled("ppo", max_grad_norm=0.01)
    callback = AuxiliaryLossCallback(Recorder(**augmentation("ppo")), "add_gradient", weight=2.0)
    rl, total = [], []
    parameters = list(model.policy.features_extractor.parameters())
    checks = []
    own_step = callback._before_rl_update

    def before(item):
        rl.append([p.grad.detach().clone() for p in parameters])
        own_step(item)
        total.append([p.grad.detach().clone() for p in parameters])
        objective = item.objective
        # the objective's gradient by itself, at the same weights, heads as they were when it was taken
        checks.append(objective.batches[-1])

    callback._before_rl_update = before
    old_w = []
    original = Recorder.loss

    def loss(self, batch, features=None):
        old_w.append((self.weight.detach().clone(), copy.deepcopy(self.key_encoder), copy.deepcopy(self.encoder.extractor)))
        return original(self, batch, features)

    Recorder.loss = loss
    try:
        model.learn(16, callback=callback)
    finally:
        Recorder.loss = original
    assert len(rl) == 4
    clipped = 0
    for before_, after, batch, (w, key_encoder, extractor) in zip(rl, total, checks, old_w, strict=True):
        norm_all = 0.01
        query = extractor(batch.views[0].float() / 255)
        with th.no_grad():
            key = key_encoder(batch.views[1])
        grads = th.autograd.grad(F.cross_entropy(query @ w @ key.T, th.arange(8)), list(extractor.parameters()))
        norm = th.sqrt(sum(g.square().sum() for g in grads))
        clipped += int(norm > norm_all)
        scale = min(1.0, norm_all / (norm + 1e-6))
        for b, a, g in zip(before_, after, grads, strict=True):
            th.testing.assert_close(a, b + 2.0 * scale * g, rtol=1e-4, atol=1e-7)
    assert clipped == 4, "the clip must bite, or this test shows nothing"


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
def test_ppo_learns_with_the_weights_that_collected(mode):
    """
    Nothing moves between a rollout and the update that learns from it: the first ratio is exactly 1. Log-probs are taken
    anew in batches of the same make-up, since a convolution over 1 and over 8 images may differ in the last bit.
    """
    model = make_model("ppo")
    callback = AuxiliaryLossCallback(CURL(**augmentation("ppo")), mode)
    collected, ratios, firsts, train = [], [], [], model.train
    evaluate = type(model.policy).evaluate_actions

    class CopyThatActs(BaseCallback):
        def _on_step(self):
            if self.n_calls % 16 == 1:
                collected.append(copy.deepcopy(model.policy))
            return True

    def evaluated(obs, actions):
        values, log_prob, entropy = evaluate(model.policy, obs, actions)
        ratios.append(th.exp(log_prob - evaluate(collected[-1], obs, actions)[1]).detach())
        return values, log_prob, entropy

    def training():
        firsts.append(len(ratios))
        model.policy.evaluate_actions = evaluated
        train()
        del model.policy.evaluate_actions

    model.train = training
    model.learn(16 * 4, callback=[callback, CopyThatActs()])
    assert len(firsts) == 4 and callback.attachments["shared"].n_updates >= 12
    for first in firsts:
        assert (ratios[first] == 1).all()
        assert (ratios[first + 3] != 1).any(), "later minibatches must differ, or this test shows nothing"


def test_the_ratio_test_notices_a_moved_encoder():
    """The objective's step at the end of the rollout, where it must not be, shows in the first ratio."""
    model = make_model("ppo")
    callback = AuxiliaryLossCallback(CURL(**augmentation("ppo")))
    obs = th.as_tensor(model.env.reset())
    model.learn(16, callback=callback)
    actions = th.zeros(1, dtype=th.long)
    before = model.policy.evaluate_actions(obs, actions)[1]
    item = callback.attachments["shared"]
    item.pending = 1
    callback._catch_up(item)
    assert (model.policy.evaluate_actions(obs, actions)[1] != before).all()


@pytest.mark.parametrize("name, per_update", [("sac", 1), ("td3", 1), ("dqn", 1), ("ppo", 1), ("a2c", 1)])
@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
@pytest.mark.parametrize("interval", [1, 3])
def test_one_objective_step_per_rl_update(name, per_update, mode, interval):
    model = make_model(name)
    counted = []
    callback = AuxiliaryLossCallback(CURL(**augmentation(name)), mode, interval=interval, batch_size=6)
    optimizer = getattr(getattr(model, "critic", model.policy), "optimizer")  # noqa: B009
    optimizer.register_step_post_hook(lambda *_: counted.append(1))
    model.learn(40, callback=callback)
    item = next(iter(callback.attachments.values()))
    assert item.n_rl_updates == len(counted) > 4
    assert item.n_updates == len(counted) // interval


def test_own_optimizer_moves_the_encoder_by_adam_on_the_loss():
    """One step of own_optimizer equals a hand-made Adam step on encoder and W."""
    model = filled("sac")
    callback = attach(model, AuxiliaryLossCallback(Recorder(), "own_optimizer", weight=0.5, learning_rate=1e-2))
    item = callback.attachments["critic"]
    extractor, curl = copy.deepcopy((item.found.encoder.extractor, callback.objective))
    groups = [dict(params=[curl.weight], lr=1e-2), dict(params=list(extractor.parameters()), lr=5e-3)]
    adam = th.optim.Adam(groups)
    item.pending = 1
    callback._catch_up(item)
    anchor, positive = callback.objective.batches[0].views
    with th.no_grad():
        key = curl.key_encoder(positive)
    F.cross_entropy(extractor(anchor.float() / 255) @ curl.weight @ key.T, th.arange(8)).backward()
    adam.step()
    th.testing.assert_close(callback.objective.weight, curl.weight)
    for got, want in zip(item.found.encoder.extractor.parameters(), extractor.parameters(), strict=True):
        th.testing.assert_close(got, want)


def test_objective_alone_moves_the_encoder():
    model = make_model("sac", policy_kwargs=dict(encoder_gradient="objective"))
    before = [p.detach().clone() for p in model.policy.encoder.body.parameters()]
    model.learn(20)
    assert all(th.equal(b, p) for b, p in zip(before, model.policy.encoder.body.parameters(), strict=True))
    for mode in ("own_optimizer", "add_gradient"):
        model = make_model("sac", policy_kwargs=dict(encoder_gradient="objective"))
        before = [p.detach().clone() for p in model.policy.encoder.body.parameters()]
        model.learn(20, callback=AuxiliaryLossCallback(CURL(), mode))
        assert not all(th.equal(b, p) for b, p in zip(before, model.policy.encoder.body.parameters(), strict=True))


@pytest.mark.parametrize("ratio", [0.1, 2.0])
def test_balance_keeps_the_ratio_of_gradients(ratio):
    model = filled("sac", learning_rate=1e-8)  # gradients of one size: what is tested is the ratio
    callback = attach(model, AuxiliaryLossCallback(CURL(), "add_gradient", balance=ratio))
    item = callback.attachments["critic"]
    shares = []
    add = item._add_to_borrowed

    def added(gradients):
        before = [p.grad.detach().clone() for p in item.borrowed]
        add(gradients)
        norm = lambda ts: th.sqrt(sum(t.square().sum() for t in ts))  # noqa: E731
        shares.append((norm([p.grad - b for p, b in zip(item.borrowed, before, strict=True)]) / norm(before)).item())

    item._add_to_borrowed = added
    model.train(gradient_steps=1, batch_size=8)
    assert shares[0] == pytest.approx(ratio, rel=1e-3)
    model.train(gradient_steps=60, batch_size=8)
    assert sum(shares[20:]) / len(shares[20:]) == pytest.approx(ratio, rel=0.5)


def test_heads_are_not_in_the_agents_optimisers():
    model = make_model("sac")
    callback = attach(model, AuxiliaryLossCallback(CURL()))
    agents = {id(p) for o in (model.actor.optimizer, model.critic.optimizer) for g in o.param_groups for p in g["params"]}
    assert isinstance(callback.objective, Objective)
    assert not agents & {id(p) for p in callback.objective.parameters()}
    assert not {id(p) for p in callback.objective.parameters()} & {id(p) for p in model.policy.encoder.parameters()}
