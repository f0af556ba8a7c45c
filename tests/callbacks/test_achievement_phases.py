"""Auxiliary phases of achievement distillation on PPO: what they compute, what they move, and what they leave alone."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.nn import functional as F

from crl.agents import PixelPPO
from crl.callbacks import AchievementPhases
from crl.encoders import PixelEncoder
from crl.objectives.achievement import AchievementDistillation
from crl.objectives.goal_memory import GoalMemory
from crl.objectives.memory_extractor import MemoryExtractor

from ..fakes import FakeImages
from ..objectives.test_goal_memory import FakeGoals
from .models import make_model, same, weights

WIDTH, N_STEPS, ENVS = 6, 24, 2


def make(memory=True, cls=PPO, seed=0, length=7, env=None, **kwargs):
    env = env or DummyVecEnv([lambda: FakeGoals(length=length)] * ENVS)
    small = dict(features_dim=WIDTH, filters=4, layers=2)
    policy_kwargs = dict(features_extractor_class=PixelEncoder, features_extractor_kwargs=small)
    if memory:
        env = GoalMemory(env, WIDTH)
        extractor = dict(encoder_class=PixelEncoder, encoder_kwargs=small)
        policy_kwargs = dict(features_extractor_class=MemoryExtractor, features_extractor_kwargs=extractor)
    if cls is PPO:
        policy_kwargs |= dict(net_arch=[], ortho_init=False)
    policy = "PixelPolicy" if cls is PixelPPO else "MultiInputPolicy" if memory else "CnnPolicy"
    sizes = dict(n_steps=N_STEPS, batch_size=16, n_epochs=1, learning_rate=3e-3)
    return cls(policy, env, policy_kwargs=policy_kwargs, seed=seed, **{**sizes, **kwargs})


def phases(cls=AchievementPhases, hidden_dim=16, **kwargs):
    return cls(AchievementDistillation(hidden_dim=hidden_dim), **{"every": 2, "epochs": 1, "batch_size": 64, **kwargs})


def learn(model, callback, rollouts=4):
    return model.learn(rollouts * N_STEPS * ENVS, callback=callback)


def test_a_phase_after_every_so_many_updates():
    began = []

    class Spy(AchievementPhases):
        def _epoch(self, trajectories):
            began.append((self.model.num_timesteps, self.model._n_updates, len(trajectories)))
            assert self.model.policy.training and not self.model.policy.features_extractor.extractors["image"].training
            super()._epoch(trajectories)

    model, callback = make(), phases(Spy, epochs=2)
    learn(model, callback, rollouts=5)
    # the fifth rollout waits for its phase; others come after the updates of the second and the fourth
    assert [step for step, *_ in began] == [96] * 2 + [192] * 2 and [updates for _, updates, _ in began] == [2] * 2 + [4] * 2
    assert len(callback.window.rollouts) == 1 and not callback.window.full
    assert min(number for *_, number in began) > 5
    assert callback.n_updates > 2 * 2 * 10


class Written(KVWriter):
    """What a log file would hold, row by row."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append({**key_values, "step": step})


def test_the_last_phase_is_at_the_end_of_training():
    """And is written, although SB3 writes its log before it updates."""
    model, callback, written = make(), phases(), Written()
    model.set_logger(Logger(None, [written]))
    learn(model, callback, rollouts=2)
    assert callback.n_updates > 0 and not model.policy.training
    last = written.rows[-1]
    assert {"achievement/prediction_loss", "achievement/matching_loss", "achievement/pairs"} <= last.keys()
    assert last["step"] == model.num_timesteps and last["achievement/n_updates"] == callback.n_updates
    assert callback.summary()["phase_updates"] == callback.n_updates
    assert last["achievement/episodes"] > 5


@pytest.mark.parametrize("memory", [True, False])
def test_a_phase_that_is_interrupted_is_undone_and_done_again(memory):
    """In the middle of its second epoch, the second phase: what it changed is as it was, and in the end nothing is missing."""
    final = []
    for interrupt in (False, True):
        model, callback = make(memory), phases(epochs=2)
        learn(model, callback, rollouts=3)  # a phase, and a rollout that waits
        asked, before = [], None
        if interrupt:
            callback.interrupted = lambda: asked.append(0) or len(asked) == 30  # noqa: B023
        collect = type(model).collect_rollouts
        phase = callback._phase_if_due

        def look():
            nonlocal before
            if len(callback.window.rollouts) == 2 and before is None:  # noqa: B023
                before = weights(model), callback.n_updates, copy.deepcopy(callback.state_dict())  # noqa: B023
                phase()  # noqa: B023
                if callback.window.full:  # undone  # noqa: B023
                    after = weights(model), callback.n_updates, callback.state_dict()  # noqa: B023
                    assert len(asked) == 30 and same(before[0], after[0]) and before[1] == after[1]  # noqa: B023
                    assert equal(before[2], after[2])
            phase()  # noqa: B023

        callback._phase_if_due = look
        assert collect is type(model).collect_rollouts
        model.learn(2 * N_STEPS * ENVS, callback=callback, reset_num_timesteps=False)
        assert before is not None and (len(asked) > 30) == interrupt
        final.append((weights(model), callback.n_updates))
    assert same(final[0][0], final[1][0]) and final[0][1] == final[1][1] > 0


def equal(one, other):
    """Nested states."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return th.equal(one, other) if isinstance(one, th.Tensor) else bool(np.all(one == other))


# ---- what a step computes


class Recording(AchievementPhases):
    """Keeps each step's loss and gradients, and shakes the weights in place of a step."""

    def _step(self, name, loss, kept, metrics):
        total = self.policy_weight * kept["policy_divergence"] + self.value_weight * kept["value_error"]
        total = total + loss if self.contrast else total
        found = th.autograd.grad(total, self._parameters, allow_unused=True)
        self.steps = [*getattr(self, "steps", []), (name, total.detach(), {k: v.detach() for k, v in kept.items()}, found)]
        generator = th.Generator().manual_seed(len(self.steps))
        with th.no_grad():
            for parameter in self._parameters:
                parameter.add_(0.02 * th.randn(parameter.shape, generator=generator))


class Plain(Recording):
    """
    The definitions, one frame at a time, each encoded for each of its uses; the old policy is a copy of the network, the
    statistics of returns are kept by hand.
    """

    statistics = None

    def phi(self, t, step):
        return self.objective.encoder(t.obs[step : step + 1])[0]

    def _remember_policy(self, trajectories):
        policy = self.model.policy
        self.old = [copy.deepcopy(part) for part in (self.objective.encoder, policy.mlp_extractor, policy.action_net)]

    def kept(self, t, steps):
        policy, divergences, errors = self.model.policy, [], []
        returns = t.returns[steps].tolist()
        mean, std = 0.0, 1.0
        if self.statistics is not None:
            now = [np.mean(returns), np.mean(np.square(returns)), 1.0]
            self.statistics = [0.99 * a + 0.01 * b for a, b in zip(self.statistics, now, strict=True)]
            m, q, d = self.statistics
            mean = m / max(d, 0.01)
            std = math.sqrt(max(q / max(d, 0.01) - mean**2, 0.01))
        for step, value in zip(steps.tolist(), returns, strict=True):
            memory = th.zeros(0) if t.memory is None else t.memory[step]
            pi, vf = policy.mlp_extractor(th.cat([self.phi(t, step), memory])[None])
            encoder, mlp, net = self.old
            with th.no_grad():
                old = F.softmax(net(mlp(th.cat([encoder(t.obs[step : step + 1])[0], memory])[None])[0]), 1)[0]
            now = F.softmax(policy.action_net(pi), 1)[0]
            divergences.append(sum(p * (p.log() - q.log()) for p, q in zip(now, old, strict=True)))
            errors.append((policy.value_net(vf)[0, 0] - (value - mean) / std) ** 2)
        return {"policy_divergence": th.stack(divergences).mean(), "value_error": th.stack(errors).mean()}

    def psi(self, t, step):
        a = F.one_hot(t.actions[step], 3).float()
        gamma, beta = self.objective.action_head(a)[0].split(WIDTH)
        z = (1 + gamma) * self.phi(t, step) + beta
        z = z if t.memory is None else th.cat([z, t.memory[step]])
        return F.normalize(self.objective.state_action_head(z[None])[0], dim=0)

    def goal(self, t, step):
        return F.normalize(self.phi(t, step + 1) - self.phi(t, step), dim=0)

    def contrast_of(self, rows):
        return -th.stack([F.log_softmax(th.stack([a @ p, a @ n]) / 0.1, 0)[0] for a, p, n in rows]).mean()

    def _predict(self, t):
        order, other = (self._rng.permutation(len(t)) for _ in range(2))
        for steps in np.split(order, range(self.batch_size, len(t), self.batch_size)):
            rows = []
            for step in steps.tolist():
                ahead = [u for u in range(len(t) - 1) if t.unlocked[u] and u >= step]
                anchor = self.goal(t, ahead[0]) if ahead else F.normalize(-self.phi(t, len(t) - 1), dim=0)
                rows.append((anchor.detach(), self.psi(t, step), self.psi(t, int(other[step]))))
            loss = self.contrast_of(rows)
            self._step("prediction", loss, self.kept(t, th.as_tensor(np.concatenate([steps, other[steps]]))), {})

    def _match(self, trajectories, index):
        t = trajectories[index]
        others = self._rng.permutation([i for i in range(len(trajectories)) if i != index])[: self.targets]
        targets = [[self.goal(o, int(u)).detach() for u in o.goal_steps] for o in (trajectories[i] for i in others)]
        source = [self.goal(t, int(u)) for u in t.goal_steps]
        pairs = []
        for k, goals in enumerate(targets):
            found = self.objective.find_pairs(th.stack(source), th.stack(goals), [len(goals)])
            pairs += [(i, k, j) for i, j in zip(found.source.tolist(), found.target.tolist(), strict=True)]
        for part in [pairs[i : i + self.batch_size] for i in range(0, len(pairs), self.batch_size)]:
            source = [self.goal(t, int(u)) for u in t.goal_steps]
            targets = [[self.goal(o, int(u)).detach() for u in o.goal_steps] for o in (trajectories[i] for i in others)]
            draws = self._rng.random(len(part))
            negatives = [targets[k][int(x * len(targets[k]))] for x, (_, k, _) in zip(draws, part, strict=True)]
            loss = self.contrast_of([(source[i], targets[k][j], n) for (i, k, j), n in zip(part, negatives, strict=True)])
            steps = th.as_tensor(self._rng.integers(len(t), size=len(part)))
            self._step("matching", loss, self.kept(t, steps), {})


@pytest.mark.parametrize(
    "memory, cls, batch_size",
    [(True, PixelPPO, 64), (False, PPO, 64), (True, PPO, 4)],
    ids=["all", "no memory", "long episodes"],
)
def test_every_step_is_as_the_plain_form_has_it(memory, cls, batch_size):
    """Frames that are encoded once for several uses, and old policies that are computed once, change no number."""
    results = []
    for kind in (Recording, Plain):
        model = make(memory, cls, learning_rate=1e-4)
        callback = phases(kind, epochs=1, batch_size=batch_size, targets=3)
        if cls is PixelPPO and kind is Plain:
            train = model.train

            def train_and_look(model=model, train=train, callback=callback):
                train()
                n = model.policy.value_normalizer
                callback.statistics = [x.item() for x in (n.sum, n.sum_of_squares, n.weight)]

            model.train = train_and_look
        learn(model, callback, rollouts=2)
        results.append(callback.steps)
    fast, plain = results
    assert [name for name, *_ in fast] == [name for name, *_ in plain]
    assert {"matching", "prediction"} == {name for name, *_ in fast} and len(fast) > 10
    assert max(kept["policy_divergence"] for _, _, kept, _ in fast) > 1e-4, "the policy must have moved"
    for (_, a, kept_a, grads_a), (_, b, kept_b, grads_b) in zip(fast, plain, strict=True):
        th.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for key in kept_a:
            th.testing.assert_close(kept_a[key], kept_b[key], rtol=1e-4, atol=1e-5)
        for x, y in zip(grads_a, grads_b, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                th.testing.assert_close(x, y, rtol=1e-3, atol=2e-5)


def test_where_gradients_go():
    """On ``.grad``, right before a step: heads of policy and value learn from distillation, the objective's from contrast."""
    seen = {}

    def look(callback, name):
        def hook(*_):
            policy, objective = callback.model.policy, callback.objective
            parts = dict(encoder=callback._extractor, action=policy.action_net, value=policy.value_net, heads=objective)
            moved = {k: any(p.grad is not None and p.grad.any() for p in part.parameters()) for k, part in parts.items()}
            seen.setdefault(name, []).append(moved)

        return hook

    class Looking(AchievementPhases):
        def _make_optimizers(self, *args):
            super()._make_optimizers(*args)
            for name, optimizer in self.optimizers.items():
                optimizer.register_step_pre_hook(look(self, name))

    learn(make(), phases(Looking, epochs=1, policy_weight=0.0, value_weight=0.0), rollouts=2)
    assert all(m == dict(encoder=True, action=False, value=False, heads=False) for m in seen["matching"])
    assert all(m == dict(encoder=True, action=False, value=False, heads=True) for m in seen["prediction"])
    seen.clear()
    learn(make(), phases(Looking, epochs=1, contrast=False, value_weight=0.0), rollouts=2)
    # the first step starts where the policy was: the divergence has no slope there
    assert all(m == dict(encoder=True, action=True, value=False, heads=False) for m in seen["matching"][1:])
    seen.clear()
    learn(make(), phases(Looking, epochs=1, contrast=False, policy_weight=0.0), rollouts=2)
    assert all(m == dict(encoder=True, action=False, value=True, heads=False) for m in seen["matching"] + seen["prediction"])


# ---- what it leaves alone


@pytest.mark.parametrize("memory, cls", [(True, PixelPPO), (False, PPO)])
def test_ppo_learns_with_the_weights_that_collected(memory, cls):
    """
    The first ratio after a phase is exactly 1; log-probs are taken anew in batches of the same make-up, since a convolution
    over 1 and over 8 images may differ in the last bit.
    """
    model, callback = make(memory, cls, batch_size=8), phases()
    collected, ratios, firsts, train = [], [], [], model.train
    evaluate = type(model.policy).evaluate_actions

    class CopyThatActs(BaseCallback):
        def _on_step(self):
            if self.n_calls % N_STEPS == 1:
                collected.append(copy.deepcopy(model.policy))
            return True

    def evaluated(obs, actions):
        values, log_prob, entropy = evaluate(model.policy, obs, actions)
        ratios.append(th.exp(log_prob - evaluate(collected[-1], obs, actions)[1]).detach())
        return values, log_prob, entropy

    def training():
        firsts.append((len(ratios), callback.n_updates))
        model.policy.evaluate_actions = evaluated
        train()
        del model.policy.evaluate_actions

    model.train = training
    learn(model, [callback, CopyThatActs()])
    assert firsts[2][1] > 0, "a phase lies before the third update"
    for first, _ in firsts:
        assert (ratios[first] == 1).all()
        assert (ratios[first + 3] != 1).any(), "later minibatches must differ, or this test shows nothing"


@pytest.mark.parametrize(
    "off",
    [dict(prediction=False, matching=False), dict(contrast=False, policy_weight=0.0, value_weight=0.0)],
    ids=["no contrast", "no terms"],
)
def test_switched_off_it_is_plain_ppo(off):
    plain, other = (learn(make(memory=False), callback) for callback in (None, phases(**off)))
    assert same(weights(plain), weights(other))
    on = learn(make(memory=False), phases())
    assert not same(weights(plain), weights(on))


def test_the_agents_optimizer_and_the_global_streams_do_not_move():
    class Looking(AchievementPhases):
        def _phase_if_due(self):
            before = (
                copy.deepcopy(self.model.policy.optimizer.state_dict()),
                th.get_rng_state(),
                np.random.get_state()[1].copy(),
            )
            super()._phase_if_due()
            state = self.model.policy.optimizer.state_dict()
            for key, value in before[0]["state"].items():
                assert all(th.equal(th.as_tensor(value[name]), th.as_tensor(state["state"][key][name])) for name in value)
            assert th.equal(before[1], th.get_rng_state()) and (before[2] == np.random.get_state()[1]).all()

    callback = phases(Looking)
    learn(make(), callback)
    assert callback.n_updates


def test_the_control_takes_as_many_steps():
    """Of episodes of the same length prediction takes as many, whatever the weights."""
    method, control = phases(matching=False), phases(matching=False, contrast=False)
    models = [learn(make(), callback) for callback in (method, control)]
    assert method.n_updates == control.n_updates > 0
    fresh = phases()
    learn(make(), fresh, rollouts=1)
    assert same(control.objective.state_dict(), fresh.objective.state_dict()), "its heads learn nothing"
    assert not same(method.objective.state_dict(), fresh.objective.state_dict())
    assert not same(weights(models[0]), weights(models[1]))


def test_contrasts_are_switches():
    kinds = {name: phases(Recording, epochs=1, **{name: False}) for name in ("prediction", "matching")}
    for callback in kinds.values():
        learn(make(), callback, rollouts=2)
    assert {name for name, *_ in kinds["prediction"].steps} == {"matching"}
    assert {name for name, *_ in kinds["matching"].steps} == {"prediction"}
    assert list(kinds["matching"].optimizers) == ["prediction"]


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_no_goals_and_goals_everywhere(chance):
    class Extreme(FakeGoals):
        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {"subgoals": np.array([chance == 1.0, False])}

    callback = phases()
    learn(make(env=DummyVecEnv([lambda: Extreme()] * ENVS)), callback)
    assert (callback.n_updates > 0) == (chance == 1.0)


def test_episodes_longer_than_the_window():
    callback = phases()
    learn(make(length=1000), callback)
    assert callback.n_updates == 0


# ---- saving


def test_a_saved_callback_goes_on(tmp_path):
    """Between two phases, with rollouts that wait; the environment goes on as well."""
    whole = phases()
    model = make()

    class Save(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            if self.num_timesteps == 3 * N_STEPS * ENVS:
                model.save(tmp_path / "model")
                whole.save(tmp_path / "callback")
                self.envs = model.get_env().env_method("get_state")
                self.streams = th.get_rng_state(), np.random.get_state()

    saver = Save()
    learn(model, [whole, saver], rollouts=4)
    loaded = PPO.load(tmp_path / "model", env=make().get_env(), force_reset=False)
    for index, state in enumerate(saver.envs):
        loaded.get_env().env_method("set_state", state, indices=index)
    resumed = phases()
    resumed.load(tmp_path / "callback.pt")
    th.set_rng_state(saver.streams[0])
    np.random.set_state(saver.streams[1])
    loaded.learn(N_STEPS * ENVS, callback=resumed, reset_num_timesteps=False)
    assert same(weights(model), weights(loaded)) and resumed.n_updates == whole.n_updates > 0
    with pytest.raises(ValueError, match="does not fit"):
        phases(matching=False).load(tmp_path / "callback.pt")
    with pytest.raises(FileNotFoundError):
        phases().load(tmp_path / "nothing.pt")
    with pytest.raises(RuntimeError, match="nothing to save"):
        phases().save(tmp_path / "other")


# ---- bad input


@pytest.mark.parametrize(
    "arguments",
    [
        dict(every=0),
        dict(epochs=0),
        dict(targets=0),
        dict(batch_size=1),
        dict(policy_weight=-1.0),
        dict(value_weight=-1.0),
        dict(learning_rate=0.0),
        dict(max_grad_norm=0.0),
        dict(max_grad_norm="none"),
    ],
)
def test_values_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        phases(**arguments)


def test_other_objectives():
    with pytest.raises(ValueError, match="pass AchievementDistillation"):
        AchievementPhases("curl")


def test_models_that_do_not_fit():
    with pytest.raises(ValueError, match="not DQN"):
        make_model("dqn").learn(10, callback=phases())
    box = make_model("ppo", env=DummyVecEnv([lambda: FakeImages(spaces.Box(-1, 1, (2,), np.float32))]))
    with pytest.raises(ValueError, match="discrete actions"):
        box.learn(10, callback=phases())
    apart = make_model("ppo", policy_kwargs=dict(share_features_extractor=False))
    with pytest.raises(ValueError, match="one encoder"):
        apart.learn(10, callback=phases())
    # of the right widths, its heads would be asked without what its LSTM remembers
    recurrent = RecurrentPPO(
        "CnnLstmPolicy",
        DummyVecEnv([lambda: FakeGoals()] * ENVS),
        n_steps=8,
        policy_kwargs=dict(
            features_extractor_class=PixelEncoder,
            features_extractor_kwargs=dict(features_dim=WIDTH, filters=4, layers=2),
            lstm_hidden_size=WIDTH,
            net_arch=[],
        ),
    )
    with pytest.raises(ValueError, match="policies with an LSTM"):
        recurrent.learn(10, callback=phases())
    with pytest.raises(KeyError, match="subgoals"):
        make_model("ppo").learn(10, callback=phases())


def test_episodes_do_not_go_on_in_another_training():
    """A second learn() resets the environments: what waits would be joined with what it is no part of."""
    model, callback = make(length=1000), phases()
    learn(model, callback, rollouts=1)
    assert len(callback.window.rollouts) == 1
    callback.init_callback(model)
    assert len(callback.window.rollouts) == 1, "as long as the training is the same"
    model.num_timesteps = 0
    callback.init_callback(model)
    assert not callback.window.rollouts


def test_an_unfilled_memory():
    model = make()
    model.env = model.get_env().venv
    with pytest.raises(ValueError, match="nothing fills it"):
        phases().init_callback(model)
