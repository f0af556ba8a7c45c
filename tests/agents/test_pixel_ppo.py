"""A whole update of PPO against plain arithmetic; what is on which scale; bad input; saving."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.agents import PixelPPO
from crl.agents.normalized_value_policy import NormalizedValuePolicy

ENCODER = {"filters": [3, 4], "hidden_dim": 6, "features_dim": 5}
N_STEPS, N_ENVS, BATCH = 8, 2, 8


class Noise(gym.Env):
    """Random pictures and large rewards; episodes of three steps that end by death and by the clock in turn."""

    observation_space = gym.spaces.Box(0, 255, (3, 12, 12), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def __init__(self):
        self.number = 0

    def _look(self):
        return self.np_random.integers(256, size=(3, 12, 12)).astype(np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.number = 0, self.number + 1
        return self._look(), {}

    def step(self, action):
        self.t += 1
        over = self.t == 3
        died = over and self.number % 2 == 0
        self.reward = 5.0 + 3.0 * self.np_random.standard_normal()
        return self._look(), self.reward, died, over and not died, {}


class Large(Noise):
    observation_space = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8)


def make_model(**kwargs):
    env = DummyVecEnv([Noise] * N_ENVS)
    arguments = {"n_steps": N_STEPS, "batch_size": BATCH, "n_epochs": 2, "seed": 0, "device": "cpu", **kwargs}
    policy = {"features_extractor_kwargs": ENCODER, "optimizer_kwargs": {"eps": 1e-8}, **arguments.pop("policy_kwargs", {})}
    model = PixelPPO("PixelPolicy", env, policy_kwargs=policy, **arguments)
    model.set_logger(configure(None, []))
    return model


def collect(model):
    """One rollout, without the update; the value of what follows it, and whether it ended an episode."""
    _, callback = model._setup_learn(1)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, N_STEPS)
    with th.no_grad():
        return model.policy.predict_values(th.as_tensor(model._last_obs)).flatten().numpy(), model._last_episode_starts


def plain_encoder(parameters, x):
    """The encoder of two stacks and two dense layers, from the list of its weights in their order."""
    take = iter(parameters)

    def conv(x, bias=False):
        weight = next(take)
        return th.relu(th.nn.functional.conv2d(x, weight, next(take) if bias else None, padding=1))

    def norm(x):
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=(1, 2, 3), keepdim=True)
        weight, bias = next(take), next(take)
        return (x - mean) / (variance + 1e-5).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    for stack in range(2):
        x = conv(x, bias=True) if stack == 0 else conv(norm(x))
        x = norm(th.nn.functional.max_pool2d(x, 3, stride=2, padding=1))
        for _ in range(2):
            x = x + conv(norm(conv(norm(x))))
    x = x.flatten(1)
    for _ in range(2):
        mean, variance = x.mean(dim=1, keepdim=True), x.var(dim=1, unbiased=False, keepdim=True)
        weight, bias = next(take), next(take)
        x = th.relu(((x - mean) / (variance + 1e-5).sqrt() * weight + bias) @ next(take).T)
    assert next(take, None) is None
    return x


def test_one_update_is_plain_arithmetic():
    model = make_model()
    last_values, dones = collect(model)
    buffer, policy = model.rollout_buffer, model.policy
    stored = {
        name: getattr(buffer, name).astype(np.float64)
        for name in ("observations", "actions", "rewards", "values", "log_probs", "episode_starts")
    }
    weights = [p.detach().double().requires_grad_() for p in policy.parameters()]
    n_encoder = len(list(policy.features_extractor.parameters()))
    draws = copy.deepcopy(np.random.get_state())
    model.train()

    # advantages and returns
    advantages = np.zeros((N_STEPS, N_ENVS))
    for env in range(N_ENVS):
        ahead, value_ahead, goes_on = 0.0, last_values[env], 1.0 - dones[env]
        for t in reversed(range(N_STEPS)):
            delta = stored["rewards"][t, env] + 0.95 * value_ahead * goes_on - stored["values"][t, env]
            advantages[t, env] = ahead = delta + 0.95 * 0.65 * goes_on * ahead
            value_ahead, goes_on = stored["values"][t, env], 1.0 - stored["episode_starts"][t, env]
    returns = advantages + stored["values"]
    deviation = math.sqrt(((advantages - advantages.mean()) ** 2).sum() / (advantages.size - 1))
    normalised = (advantages - advantages.mean()) / (deviation + 1e-8)

    # environments one after the other, as SB3 numbers transitions
    flat = {name: np.concatenate([value[:, env] for env in range(N_ENVS)]) for name, value in stored.items()}
    flat_advantages = np.concatenate([normalised[:, env] for env in range(N_ENVS)])
    flat_returns = np.concatenate([returns[:, env] for env in range(N_ENVS)])
    sums = squares = weight = 0.0
    moments = [(th.zeros_like(p), th.zeros_like(p)) for p in weights]
    np.random.set_state(draws)
    step = 0
    for _ in range(2):
        order = np.random.permutation(N_STEPS * N_ENVS)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch_returns = flat_returns[rows]
            sums, squares = 0.99 * sums + 0.01 * batch_returns.mean(), 0.99 * squares + 0.01 * (batch_returns**2).mean()
            weight = 0.99 * weight + 0.01
            mean = sums / max(weight, 0.01)
            std = math.sqrt(max(squares / max(weight, 0.01) - mean**2, 0.01))

            features = plain_encoder(weights[:n_encoder], th.as_tensor(flat["observations"][rows]) / 255)
            action_weight, action_bias, value_weight, value_bias = weights[n_encoder:]
            logits = features @ action_weight.T + action_bias
            log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
            chosen = log_p[th.arange(BATCH), th.as_tensor(flat["actions"][rows, 0]).long()]
            ratio = (chosen - th.as_tensor(flat["log_probs"][rows])).exp()
            if step == 0:
                assert th.allclose(ratio, th.ones(BATCH).double(), atol=1e-5)
            advantage = th.as_tensor(flat_advantages[rows])
            policy_loss = -th.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum() / BATCH
            value = (features @ value_weight.T + value_bias).squeeze(1)
            value_loss = ((value - th.as_tensor((batch_returns - mean) / std)) ** 2).sum() / BATCH
            entropy = -(log_p.exp() * log_p).sum() / BATCH
            gradients = th.autograd.grad(policy_loss + 0.5 * value_loss - 0.01 * entropy, weights)
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
            gradients = [g * min(1.0, 0.5 / (norm + 1e-6)) for g in gradients]
            step += 1
            with th.no_grad():
                for p, g, (first, second) in zip(weights, gradients, moments, strict=True):
                    first.mul_(0.9).add_(0.1 * g)
                    second.mul_(0.999).add_(0.001 * g**2)
                    p -= 3e-4 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    assert step == 4

    # the last gradient is still there, and all four have left their traces in the weights
    for mine, theirs in zip(policy.parameters(), gradients, strict=True):
        assert th.allclose(mine.grad.double(), theirs, atol=2e-5, rtol=1e-3)
    for mine, theirs in zip(policy.parameters(), weights, strict=True):
        assert th.allclose(mine.double(), theirs, atol=5e-5), "an Adam step is 3e-4"
    mean_and_std = [float(value) for value in policy.value_normalizer.mean_and_std()]
    assert mean_and_std == pytest.approx([mean, std], rel=1e-4) and mean_and_std[1] > 1


def test_values_that_are_acted_with_are_returns_and_those_of_losses_are_normalised():
    model = make_model()
    collect(model)
    policy, stats = model.policy, model.policy.value_normalizer
    policy.set_training_mode(True)
    stats.update(th.tensor([3.0, 11.0]))
    policy.set_training_mode(False)
    assert [float(x) for x in stats.mean_and_std()] == pytest.approx([7, 4])
    obs = th.as_tensor(model._last_obs)
    with th.no_grad():
        head, _, _ = policy.evaluate_actions(obs, th.zeros(N_ENVS))
        assert th.allclose(policy.predict_values(obs), 4 * head + 7, atol=1e-5)
        assert th.allclose(policy(obs)[1], 4 * head + 7, atol=1e-5)
    before = stats.weight.item()
    list(model.rollout_buffer.get(BATCH))
    assert stats.weight.item() == before, "statistics rest in evaluation mode"


def test_the_time_limit_bootstraps_and_death_does_not():
    model = make_model()
    stats = model.policy.value_normalizer
    model.policy.set_training_mode(True)
    stats.update(th.tensor([96.0, 104.0]))  # values of about 100, so that they show
    collect(model)
    rewards = model.rollout_buffer.rewards
    # SB3 resets once: the first episode of each environment ends by the clock, in step 2
    assert (rewards[2] > 80).all() and (rewards[5] < 50).all() and (rewards[[0, 1, 3, 4]] < 50).all()


def test_without_normalisation_it_is_sb3s_own_ppo():
    mine = make_model(policy_kwargs={"value_beta": None}, advantages="batch")
    theirs = PPO(
        NormalizedValuePolicy,
        DummyVecEnv([Noise] * N_ENVS),
        learning_rate=3e-4,
        n_steps=N_STEPS,
        batch_size=BATCH,
        n_epochs=2,
        gamma=0.95,
        gae_lambda=0.65,
        ent_coef=0.01,
        seed=0,
        device="cpu",
        policy_kwargs={"features_extractor_kwargs": ENCODER, "optimizer_kwargs": {"eps": 1e-8}, "value_beta": None},
    )
    theirs.set_logger(configure(None, []))
    for model in (mine, theirs):
        model.set_random_seed(0)
        model.learn(2 * N_STEPS * N_ENVS)
    pairs = zip(mine.policy.parameters(), theirs.policy.parameters(), strict=True)
    assert all((a == b).all() for a, b in pairs)


def test_defaults_and_heads_are_as_published():
    model = PixelPPO("PixelPolicy", DummyVecEnv([Noise] * 8), device="cpu")
    assert (model.n_steps, model.batch_size, model.n_epochs) == (512, 512, 3)
    assert (model.gamma, model.gae_lambda, model.ent_coef, model.vf_coef, model.max_grad_norm) == (0.95, 0.65, 0.01, 0.5, 0.5)
    assert model.lr_schedule(0.3) == 3e-4 and model.clip_range(0.3) == 0.2 and not model.normalize_advantage
    policy = model.policy
    assert th.allclose(policy.action_net.weight @ policy.action_net.weight.T, 1e-4 * th.eye(4), atol=1e-8)
    assert policy.value_net.weight.norm().item() == pytest.approx(0.1) and policy.value_net.bias.item() == 0
    crafter = NormalizedValuePolicy(gym.spaces.Box(0, 255, (3, 64, 64), np.uint8), gym.spaces.Discrete(17), lambda _: 3e-4)
    # 3,948,309 in the authors' repository, whose normaliser holds three buffers of one number
    assert sum(t.numel() for t in [*crafter.parameters(), *crafter.buffers()]) == 3_948_309


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"advantages": "all"}, "choose one of rollout, batch, raw"),
        ({"normalize_advantage": True}, "say advantages="),
        ({"clip_range_vf": 0.2}, "moving scale"),
        ({"policy_kwargs": {"net_arch": [4]}}, "one linear layer"),
        ({"policy_kwargs": {"value_beta": 1.0}}, "below 1"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_model(**kwargs)


def test_a_policy_or_buffer_that_normalises_nothing_is_refused():
    with pytest.raises(ValueError, match="needs NormalizedValuePolicy"):
        PixelPPO(ActorCriticCnnPolicy, DummyVecEnv([lambda: Large()]), device="cpu")
    with pytest.raises(ValueError, match="normalises returns"):
        make_model(rollout_buffer_class=RolloutBuffer)


def test_saved_and_loaded_it_goes_on(tmp_path):
    model = make_model()
    model.learn(N_STEPS * N_ENVS)
    model.save(tmp_path / "model.zip")
    loaded = PixelPPO.load(tmp_path / "model.zip", env=model.env, device="cpu")
    assert loaded.advantages == "rollout" and loaded.rollout_buffer.value_normalizer is loaded.policy.value_normalizer
    assert loaded.policy.value_normalizer.mean_and_std() == model.policy.value_normalizer.mean_and_std()
    obs = th.as_tensor(model._last_obs)
    assert (loaded.policy.predict_values(obs) == model.policy.predict_values(obs)).all()
    loaded.learn(N_STEPS * N_ENVS)
