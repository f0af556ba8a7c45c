"""Who moves the encoder, seen on ``.grad`` and on the optimisers, under SB3's unmodified ``train()``."""

import sys

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC
from sb3_contrib.tqc.policies import Critic
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.torch_layers import NatureCNN

import crl.policies
from crl.encoders import ImpalaEncoder, PixelEncoder
from crl.policies import PixelSACPolicy, PixelTD3Policy, PixelTQCPolicy

from ..fakes import FakeImages

KWARGS = dict(net_arch=[16], features_extractor_kwargs=dict(filters=4, layers=2))


def make(cls, policy, **policy_kwargs):
    env = FakeImages(spaces.Box(-1, 1, (2,), np.float32))
    extra = dict(train_freq=1) if cls is TD3 else {}
    return cls(
        policy,
        env,
        buffer_size=100,
        learning_starts=10,
        batch_size=8,
        seed=0,
        policy_kwargs={**KWARGS, **policy_kwargs},
        **extra,
    )


ALGORITHMS = [(SAC, PixelSACPolicy), (TD3, PixelTD3Policy), (TQC, PixelTQCPolicy)]
ROUTES = ["critic", "actor", "objective"]


def snapshot(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(before, module):
    return any(not th.equal(b, p) for b, p in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
@pytest.mark.parametrize("route", ROUTES)
def test_gradients_reach_what_the_route_says(cls, policy, route):
    model = make(cls, policy, encoder_gradient=route)
    obs = th.randint(0, 256, (8, 6, 20, 20), dtype=th.uint8)
    actions = th.rand(8, 2) * 2 - 1
    encoder, pol = model.policy.encoder, model.policy

    def body_grads():
        return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in encoder.body.parameters()]

    sum(q.square().mean() for q in pol.critic(obs, actions)).backward()
    assert all(body_grads()) if route == "critic" else not any(body_grads())
    assert all(p.grad is not None for p in encoder._head.parameters()), (
        "the critic's own head learns from its loss in any case"
    )
    pol.critic.zero_grad()
    pol.actor.zero_grad()

    pi = pol.actor(obs) if cls is TD3 else pol.actor.action_log_prob(obs)[0]
    pol.critic(obs, pi)[0].mean().neg().backward()
    assert all(body_grads()) if route == "actor" else not any(body_grads())
    assert all(p.grad is not None for p in pol.actor.features_extractor.parameters())
    assert all(p.grad is None for p in encoder._head.parameters()), (
        "the actor's loss leaves no stray gradient in the critic's head"
    )


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
@pytest.mark.parametrize("route", ROUTES)
def test_training_moves_what_the_route_says(cls, policy, route):
    model = make(cls, policy, encoder_gradient=route)
    body, head, own = model.policy.encoder.body, model.policy.encoder._head, model.policy.actor.features_extractor
    before = [snapshot(m) for m in (body, head, own)]
    model.learn(20)
    assert [moved(b, m) for b, m in zip(before, (body, head, own), strict=True)] == [route != "objective", True, True]


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
@pytest.mark.parametrize("route", ROUTES)
def test_every_parameter_has_one_owner(cls, policy, route):
    model = make(cls, policy, encoder_gradient=route)
    pol = model.policy
    held = [id(p) for o in (pol.actor.optimizer, pol.critic.optimizer) for g in o.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in pol.actor.parameters()} | {id(p) for p in pol.critic.parameters()}
    owner = pol.actor.optimizer if route == "actor" else pol.critic.optimizer
    owned = {id(p) for g in owner.param_groups for p in g["params"]}
    assert {id(p) for p in pol.encoder.body.parameters()} <= owned


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
def test_actor_holds_no_convolutions_and_target_is_polyak_averaged_once(cls, policy):
    model = make(cls, policy)
    body = {id(p) for p in model.policy.encoder.body.parameters()}
    assert not body & {id(p) for p in model.policy.actor.parameters()}
    model.learn(12)
    target = snapshot(model.policy.critic_target.features_extractor)
    if cls is TD3:
        model.policy_delay = 1
    model.train(gradient_steps=1, batch_size=8)
    for old, new, online in zip(
        target, model.policy.critic_target.features_extractor.parameters(), model.policy.encoder.parameters(), strict=True
    ):
        th.testing.assert_close(new, (1 - model.tau) * old + model.tau * online.detach())


def test_target_actor_looks_through_the_target_body():
    model = make(TD3, PixelTD3Policy)
    obs = th.randint(0, 256, (4, 6, 20, 20), dtype=th.uint8)
    before = model.policy.actor_target(obs)
    with th.no_grad():
        for p in model.policy.encoder.body.parameters():
            p.mul_(2)
    assert th.equal(model.policy.actor_target(obs), before)
    with th.no_grad():
        for p in model.policy.critic_target.features_extractor.body.parameters():
            p.mul_(2)
    assert not th.equal(model.policy.actor_target(obs), before)


def test_critic_update_equals_plain_autograd_with_the_encoder_inside():
    """The shortcut for the actor's pass must not change the critic's gradient."""
    model = make(SAC, PixelSACPolicy)
    obs, actions = th.randint(0, 256, (8, 6, 20, 20), dtype=th.uint8), th.rand(8, 2)
    critic = model.policy.critic
    loss = sum(q.square().mean() for q in critic(obs, actions))
    routed = th.autograd.grad(loss, list(critic.parameters()))
    features = critic.features_extractor(obs.float() / 255)
    plain_loss = sum(q(th.cat([features, actions], 1)).square().mean() for q in critic.q_networks)
    for a, b in zip(routed, th.autograd.grad(plain_loss, list(critic.parameters())), strict=True):
        th.testing.assert_close(a, b)


def test_quantiles_and_their_gradients_are_those_of_sb3_contribs_critic():
    critic = make(TQC, PixelTQCPolicy, n_quantiles=5, n_critics=3).policy.critic
    obs, actions = th.randint(0, 256, (8, 6, 20, 20), dtype=th.uint8), th.rand(8, 2)
    results = []
    for forward in (type(critic).forward, Critic.forward):
        quantiles = forward(critic, obs, actions)
        results.append((quantiles, th.autograd.grad(quantiles.square().mean(), list(critic.parameters()))))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours.shape == (8, 3, 5)
    th.testing.assert_close(ours, theirs)
    th.testing.assert_close(our_gradients, their_gradients)


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
@pytest.mark.parametrize("route", ROUTES)
def test_save_load_predict_and_go_on(cls, policy, route, tmp_path):
    model = make(cls, policy, encoder_gradient=route)
    model.learn(16)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=model.get_env())
    assert loaded.policy.encoder_gradient == route
    obs = np.random.default_rng(0).integers(0, 256, (5, 6, 20, 20), dtype=np.uint8)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    loaded.learn(20, reset_num_timesteps=True)


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
def test_policy_alone_can_be_saved_and_loaded(cls, policy, tmp_path):
    model = make(cls, policy, encoder_gradient="objective")
    model.policy.save(tmp_path / "policy")
    loaded = policy.load(tmp_path / "policy")
    assert loaded.encoder_gradient == "objective"
    obs = np.random.default_rng(0).integers(0, 256, (5, 6, 20, 20), dtype=np.uint8)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
def test_learning_rate_schedule_reaches_both_optimisers(cls, policy):
    model = make(cls, policy)
    model.learning_rate = lambda progress: 1e-3 * progress
    model._setup_lr_schedule()
    model.learn(20)
    rates = {group["lr"] for o in (model.actor.optimizer, model.critic.optimizer) for group in o.param_groups}
    assert len(rates) == 1 and rates.pop() < 1e-3 / 2


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
def test_dict_observations_are_sent_to_the_policy_for_them(cls, policy):
    env = FakeImages(spaces.Box(-1, 1, (2,), np.float32), as_dict=True)
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        cls(policy, env, buffer_size=10)


def test_predict_on_uncropped_images():
    env = FakeImages(spaces.Box(-1, 1, (2,), np.float32), shape=(6, 26, 26))
    kwargs = dict(net_arch=[16], features_extractor_kwargs=dict(filters=4, layers=2, crop=20))
    model = SAC(PixelSACPolicy, env, policy_kwargs=kwargs, buffer_size=10)
    assert model.predict(env.observation_space.sample())[0].shape == (2,)


@pytest.mark.parametrize("cls, policy", ALGORITHMS)
def test_bad_arguments(cls, policy):
    with pytest.raises(ValueError, match="choose 'critic', 'actor' or 'objective'"):
        make(cls, policy, encoder_gradient="both")
    with pytest.raises(ValueError, match="must be an encoder of crl"):
        make(cls, policy, features_extractor_class=NatureCNN, features_extractor_kwargs={})
    with pytest.raises(ValueError, match="always shares its encoder"):
        make(cls, policy, share_features_extractor=True)


def test_without_sb3_contrib_the_missing_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sb3_contrib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "crl.tqc_policy")
    for holder in (crl, crl.policies):
        with pytest.raises(ImportError, match=r"pip install 'crl\[contrib\]'"):
            holder.PixelTQCPolicy  # noqa: B018


def test_other_encoders_work():
    model = make(SAC, PixelSACPolicy, features_extractor_class=ImpalaEncoder, features_extractor_kwargs=dict(width=0.25))
    model.learn(14)
    assert isinstance(model.policy.encoder, ImpalaEncoder)
    assert PixelEncoder is not ImpalaEncoder
