"""Periods, weight 0, logs, saving, loading, going on."""

import sys

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger

from crl.agents import PixelSAC
from crl.augment import RandomCrop, RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.envs import make_vec_env
from crl.objectives import CURL

from .agents import BATCH, CROP, make_agent, make_env, same, state


def updates_at_which(module, model, n, gradient_steps=1):
    """Numbers of the updates (from 0) in which a part moved."""
    moved = []
    for i in range(0, n, gradient_steps):
        before = state(module)
        model.train(gradient_steps, BATCH)
        if not same(before, state(module)):
            moved.append(i)
    return moved


@pytest.fixture
def filled():
    model = make_agent(actor_period=3, target_period=2, learning_starts=10_000)
    model.learn(60)
    return model


def test_periods_are_counted_over_all_updates(filled):
    """SB3 tests its interval on the index inside one call of train(), where one update a call acts every time."""
    filled.set_logger(Logger(None, []))
    assert updates_at_which(filled.critic_target, filled, 6) == [0, 2, 4]
    filled._n_updates = 0
    assert updates_at_which(filled.actor, filled, 7) == [0, 3, 6]
    filled._n_updates = 0
    before = filled.actor.optimizer.state_dict()["state"][0]["step"].item()
    filled.train(4, BATCH)
    assert filled.actor.optimizer.state_dict()["state"][0]["step"].item() - before == 2, "updates 0 and 3 of one call"


def test_temperature_moves_with_the_actor(filled):
    filled.set_logger(Logger(None, []))
    alphas = []
    for _ in range(4):
        filled.train(1, BATCH)
        alphas.append(filled.log_ent_coef.item())
    assert alphas[0] == alphas[1] == alphas[2] != alphas[3]


def test_two_ema_rates(filled):
    filled.set_logger(Logger(None, []))
    start = state(filled.critic_target)
    filled.train(1, BATCH)
    online, target = state(filled.critic), state(filled.critic_target)
    for name, value in target.items():
        tau = 0.05 if name.startswith("features_extractor") else 0.01
        th.testing.assert_close(value, (1 - tau) * start[name] + tau * online[name], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("joint", [True, False])
def test_weight_zero_is_no_objective(joint):
    ends = []
    for objective in (CURL(keys="target"), None):
        model = make_agent(objective=objective, objective_weight=0.0, joint=joint)
        assert model.objective is None, "nothing is computed for it"
        model.learn(30)
        ends.append(state(model.policy))
    assert same(*ends)


def test_an_objective_that_pulls_at_nothing_leaves_the_agents_streams_alone():
    """A tiny weight computes everything: crops, noise and batches of the agent must be the same ones."""
    models = []
    for weight in (0.0, 1e-30):
        model = make_agent(objective=CURL(keys="target"), objective_weight=weight)
        model.learn(30)
        models.append(model)
    assert models[1].objective is not None
    assert same(state(models[0].policy), state(models[1].policy))


def test_callback_attaches_as_to_sb3s_sac():
    model = make_agent()
    callback = AuxiliaryLossCallback(CURL(keys="target"), mode="add_gradient")
    model.learn(30, callback=callback)
    assert callback.attachments["critic"].n_updates == 10


def test_log_has_everything_and_training_waits_for_nothing(monkeypatch):
    model = make_agent(objective=CURL(keys="target"), metrics_interval=5)
    items, item = [], th.Tensor.item

    def spy(self):
        items.append(sys._getframe(1).f_code.co_filename)
        return item(self)

    model.learn(25)  # 5 updates: fills the buffer, writes the first lot
    monkeypatch.setattr(th.Tensor, "item", spy)
    model.train(4, BATCH)
    assert items, "torch's Adam asks for its step, a number on the CPU"
    assert all("/torch/optim/" in where for where in items)
    model.train(1, BATCH)
    assert any("running_means" in where for where in items)
    monkeypatch.undo()
    records = {}
    monkeypatch.setattr(model.logger, "record_mean", lambda key, value, **_: records.setdefault(key, value))
    model.train(1, BATCH)
    model.train(1, BATCH)
    model.record_metrics()
    expected = {"critic_loss", "actor_loss", "ent_coef", "ent_coef_loss", "alpha", "q_mean", "entropy", "dormant_q_units"}
    assert {f"train/{key}" for key in expected} <= records.keys()
    expected = {
        "rl_grad_norm",
        "objective_grad_norm",
        "grad_ratio",
        "grad_cosine",
        "effective_rank",
        "embedding_std",
        "dormant_filters",
    }
    assert {f"repr/{key}" for key in (*expected, "curl_loss", "curl_accuracy")} <= records.keys()
    assert records["train/alpha"] == pytest.approx(0.1, rel=0.01)
    assert model.logger.name_to_value["train/replay_ratio"] == 12 / 25


def test_a_diverged_loss_says_so():
    model = make_agent(metrics_interval=1)
    model.learn(21)
    with th.no_grad():
        model.critic.qf0[0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="critic_loss is nan"):
        model.train(1, BATCH)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("keys", ["target", "own"])
def test_save_load_go_on(tmp_path, joint, keys):
    model = make_agent(objective=CURL(keys=keys), joint=joint, balance=0.5 if joint else None)
    model.learn(33)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = PixelSAC.load(tmp_path / "agent", env=make_env())
    loaded.load_replay_buffer(tmp_path / "replay")
    assert same(state(model.policy), state(loaded.policy)) and same(state(model.objective), state(loaded.objective))
    assert loaded.objective.n_updates == model.objective.n_updates == model._n_updates
    for agent in (model, loaded):
        agent.set_logger(Logger(None, []))
        th.manual_seed(1)
        np.random.seed(1)
        agent.train(3, BATCH)
    assert same(state(model.policy), state(loaded.policy)) and same(state(model.objective), state(loaded.objective))
    assert th.equal(model.log_ent_coef, loaded.log_ent_coef) and th.equal(model.gradient_norms, loaded.gradient_norms)
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded._n_updates > model._n_updates


def test_the_optimisers_are_saved(tmp_path):
    model = make_agent(objective=CURL(keys="target"), joint=False)
    model.learn(24)
    model.save(tmp_path / "agent")
    loaded = PixelSAC.load(tmp_path / "agent")
    for name in ("objective_optimizer", "encoder_optimizer", "ent_coef_optimizer"):
        mine, theirs = getattr(model, name).state_dict(), getattr(loaded, name).state_dict()
        assert mine["state"].keys() == theirs["state"].keys() and mine["state"]
        assert mine["param_groups"] == theirs["param_groups"]
        for key, moments in mine["state"].items():
            assert all(th.equal(moments[part], theirs["state"][key][part]) for part in moments)


def test_plain_load_and_predict(tmp_path):
    model = make_agent(objective=CURL(keys="target"))
    model.learn(24)
    model.save(tmp_path / "agent")
    loaded = PixelSAC.load(tmp_path / "agent")
    images = make_env().reset()
    assert (loaded.predict(images, deterministic=True)[0] == model.predict(images, deterministic=True)[0]).all()


def test_further_learn_goes_on():
    model = make_agent(objective=CURL(keys="target"))
    model.learn(24)
    model.learn(6, reset_num_timesteps=False)
    assert model._n_updates == 10


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(actor_period=0), "at least 1"),
        (dict(encoder_tau=1.5), "EMA rates"),
        (dict(ent_coef_loss="beta"), "'alpha' or 'log_alpha'"),
        (dict(objective="curl"), "new instance"),
        (dict(objective_weight=-1.0), ">= 0"),
        (dict(balance=1.0, joint=False), "only with joint"),
        (dict(objective=CURL(), replay_buffer_kwargs=dict(n_stack=3)), "nothing augments"),
        (dict(objective=CURL(), policy_kwargs=dict(encoder_gradient="actor")), "joint=False"),
        (dict(gamma=0.9, replay_buffer_kwargs=dict(n_stack=3, augment=RandomCrop(CROP), n_steps=3)), "gamma"),
        (dict(replay_buffer_kwargs=dict(n_stack=3, augment=RandomCrop(CROP - 2))), "crop both"),
        (dict(objective=CURL(augment=RandomCrop(CROP)), replay_buffer_kwargs=dict(n_stack=3)), None),
    ],
)
def test_bad_input(kwargs, message):
    if message is None:  # an augmentation of its own will do
        assert not make_agent(**kwargs)._objective_data.shares_anchor
        return
    with pytest.raises(ValueError, match=message):
        make_agent(**kwargs)


def test_the_users_objective_stays_unbuilt():
    objective = CURL(keys="target")
    model = make_agent(objective=objective)
    assert not objective.is_built and model.objective.is_built
    with pytest.raises(ValueError, match="new instance"):
        make_agent(objective=model.objective)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_learns_to_reach():
    from crl.agents.recipes import build, resolve

    th.set_num_threads(1)
    config = resolve("curl-sac", "toy/reach")
    model, callbacks = build(config, make_vec_env("toy/reach", seed=1), seed=1, device="cpu")
    assert isinstance(model.replay_buffer.augment, RandomShift)
    model.learn(config["train"]["env_steps"], callback=callbacks)
    mean, _ = evaluate_policy(model, make_vec_env("toy/reach", seed=20_000), n_eval_episodes=30)
    print(f"return {mean:.1f}")
    assert mean > 25, "a random policy gets 7, a good one 35 and more"
