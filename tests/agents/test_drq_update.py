"""Updates of ``drq-sac`` against an independent port of DrQ's in plain torch, parameter by parameter."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.logger import Logger
from torch import nn

from crl.agents.assemble import policy_kwargs
from crl.agents.recipes import parse, resolve
from crl.augment import RandomShift

from .agents import ACTIONS, BATCH, SHAPE, KnownBatches, make_agent, random_transitions
from .same_updates import assert_moved_alike
from .test_published_update import FEATURES, Convs, mlp, parameters_of_agent

UPDATES, SIZE, PAD = 3, SHAPE[-1], 4


@pytest.fixture(autouse=True)
def one_order_of_sums(monkeypatch):
    """As the port has it: Adam turns the last bit of a gradient near zero into a step."""
    monkeypatch.setattr("crl.networks.head_stack._channels_innermost", lambda x: False)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.ln = nn.Linear(8 * 5 * 5, FEATURES), nn.LayerNorm(FEATURES)  # 24 -> 11 -> 9 -> 7 -> 5

    def forward(self, maps):
        return th.tanh(self.ln(self.fc(maps)))


class Port:
    """DrQ's agent."""

    def __init__(self):
        self.convs, self.head, self.q1, self.q2 = Convs(), Head(), mlp(FEATURES + ACTIONS, 1), mlp(FEATURES + ACTIONS, 1)
        self.slow = [Convs(), Head(), mlp(FEATURES + ACTIONS, 1), mlp(FEATURES + ACTIONS, 1)]
        self.actor_head, self.trunk = Head(), mlp(FEATURES, 2 * ACTIONS)
        self.log_alpha = th.tensor(math.log(0.1), requires_grad=True)
        self.step = 0

    @property
    def fast(self):
        return [self.convs, self.head, self.q1, self.q2]

    def make_optimizers(self):
        self.critic_adam = th.optim.Adam([p for part in self.fast for p in part.parameters()], lr=1e-3)
        self.actor_adam = th.optim.Adam([*self.actor_head.parameters(), *self.trunk.parameters()], lr=1e-3)
        self.alpha_adam = th.optim.Adam([self.log_alpha], lr=1e-3)

    def policy(self, images, noise):
        mu, raw = self.trunk(self.actor_head(self.convs(images).detach())).chunk(2, dim=1)
        log_std = -10 + 6 * (th.tanh(raw) + 1)
        # torch's own distribution, whose transform remembers what it squashed
        squash = th.distributions.TanhTransform(cache_size=1)
        distribution = th.distributions.TransformedDistribution(th.distributions.Normal(mu, log_std.exp()), [squash])
        action = squash(mu + log_std.exp() * noise)
        return action, distribution.log_prob(action).sum(1, keepdim=True)

    @staticmethod
    def q(parts, images, actions, detach=False):
        convs, head, q1, q2 = parts
        maps = convs(images)
        x = th.cat([head(maps.detach() if detach else maps), actions], dim=1)
        return q1(x), q2(x)

    def update(self, observations, nexts, actions, rewards, not_done, next_noise, noise):
        with th.no_grad():
            alpha, targets = self.log_alpha.exp(), []
            for images, draw in zip(nexts, next_noise, strict=True):
                next_action, log_p = self.policy(images, draw)
                targets.append(rewards + not_done * 0.99 * (th.min(*self.q(self.slow, images, next_action)) - alpha * log_p))
            target = sum(targets) / len(targets)
        loss = sum(F.mse_loss(q, target) for images in observations for q in self.q(self.fast, images, actions))
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        if self.step % 2 == 0:
            action, log_p = self.policy(observations[0], noise)
            actor_loss = (alpha * log_p - th.min(*self.q(self.fast, observations[0], action, detach=True))).mean()
            self.actor_adam.zero_grad()
            actor_loss.backward()
            self.actor_adam.step()
            alpha_loss = (self.log_alpha.exp() * (-log_p + ACTIONS).detach()).mean()
            self.alpha_adam.zero_grad()
            alpha_loss.backward()
            self.alpha_adam.step()
            with th.no_grad():
                for slow_part, fast_part in zip(self.slow, self.fast, strict=True):
                    for slow, fast in zip(slow_part.parameters(), fast_part.parameters(), strict=True):
                        slow.copy_(0.01 * fast + 0.99 * slow)
        self.step += 1


def parameters_of_port(port):
    found = {"log_alpha": port.log_alpha}
    for name, (convs, head, q1, q2) in (("critic", port.fast), ("target", port.slow)):
        for part, module in (("convs", convs), ("head", head), ("q1", q1), ("q2", q2)):
            found |= {f"{name}.{part}.{k}": v for k, v in enumerate(module.parameters())}
    found |= {f"actor.head.{k}": v for k, v in enumerate(port.actor_head.parameters())}
    hidden = list(port.trunk.parameters())
    found |= {f"actor.trunk.{k}": v for k, v in enumerate(hidden[:4])}
    found |= {"actor.mu.weight": hidden[4][:ACTIONS], "actor.raw.weight": hidden[4][ACTIONS:]}
    return found | {"actor.mu.bias": hidden[5][:ACTIONS], "actor.raw.bias": hidden[5][ACTIONS:]}


class KnownShifts:
    """Hands out shifts that are known beforehand, in order, each as a pad and a crop."""

    def __init__(self, offsets):
        self.offsets, self.used = offsets, 0

    def __call__(self, images, generator):
        self.used += 1
        return shift_at(images, self.offsets[self.used - 1])

    def output_size(self, height, width):
        return height, width


def shift_at(images, offsets):
    padded = F.pad(images.float(), (PAD,) * 4, mode="replicate")
    crops = [image[:, y : y + SIZE, x : x + SIZE] for image, (y, x) in zip(padded, offsets.tolist(), strict=True)]
    return th.stack(crops)


def both(views=2, updates=UPDATES):
    """The agent of the recipe and the port, after the same updates."""
    th.set_num_threads(1)
    overrides = {"algorithm.online_views": views, "algorithm.target_views": views, "policy.precision": "fp32"}
    config = parse(resolve("drq-sac", "dmc/walker-walk", overrides))
    skipped = ("batch_size", "buffer_size", "learning_starts", "metrics_interval", "train_freq", "gradient_steps")
    options = {name: value for name, value in vars(config.algorithm).items() if name not in skipped}
    policy = policy_kwargs(config.policy)
    encoder = {**policy.pop("features_extractor_kwargs"), "filters": 8, "crop": None, "features_dim": FEATURES}
    policy |= {"net_arch": [32, 32]}
    model = make_agent(
        policy_kwargs=policy,
        encoder_kwargs=encoder,
        replay_buffer_class=KnownBatches,
        replay_buffer_kwargs=dict(n_stack=3, augment=RandomShift(config.replay.pad)),
        objective_weight=config.objective.weight,
        **options,
    )
    generator = th.Generator().manual_seed(5)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.05 * th.randn(parameter.shape, generator=generator))
    port, theirs = Port(), parameters(model)
    with th.no_grad():
        for name, parameter in parameters_of_port(port).items():
            parameter.copy_(theirs[name])
    port.make_optimizers()

    batches = random_transitions(updates, seed=1)
    rng = np.random.default_rng(2)
    offsets = [rng.integers(0, 2 * PAD + 1, (BATCH, 2)) for _ in range(2 * views * updates)]
    model.replay_buffer.augment = KnownShifts(offsets)
    model.replay_buffer.batches = list(batches)
    model.set_logger(Logger(None, []))
    th.manual_seed(3)
    model.train(updates, BATCH)
    assert model.replay_buffer.augment.used == len(offsets)

    th.manual_seed(3)
    for data in batches:
        first, first_next, *more = (offsets.pop(0) for _ in range(2 * views))
        observations = [shift_at(data.observations, at) for at in [first, *more[: views - 1]]]
        nexts = [shift_at(data.next_observations, at) for at in [first_next, *more[views - 1 :]]]
        next_noise = th.randn(views * BATCH, ACTIONS).split(BATCH)
        noise = th.randn(BATCH, ACTIONS) if port.step % 2 == 0 else None
        port.update(observations, nexts, data.actions, data.rewards, 1 - data.dones, next_noise, noise)
    return model, port


def parameters(model):
    model.objective = nn.Identity()
    model.objective.weight = None
    found = parameters_of_agent(model)
    model.objective = None
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("views", [2, 1])
def test_updates_equal_the_published_ones(views):
    (model, port), (start, _) = both(views), both(views, updates=0)
    mine = parameters(model)
    assert len(mine) == 1 + 2 * (8 + 4 + 6 + 6) + 4 + 4 + 4
    assert_moved_alike(mine, parameters_of_port(port), parameters(start))


def test_movements_that_differ_are_noticed():
    start, theirs = {"a": th.zeros(2000)}, {"a": th.full((2000,), 3e-3)}
    for shift, entries, alike in (
        (-2e-4, [7], True),
        (-2e-4, [7, 8, 9], False),
        (-2e-2, [7], False),
        (2e-5, range(2000), False),
    ):
        mine = {"a": theirs["a"].clone()}
        mine["a"][list(entries)] += shift
        with nullcontext() if alike else pytest.raises(AssertionError, match="^a: "):
            assert_moved_alike(mine, theirs, start)


def test_every_part_has_moved_and_views_matter():
    (model, _), (start, _), (single, _) = both(), both(updates=0), both(views=1)
    start, single = parameters(start), parameters(single)
    for name, parameter in parameters(model).items():
        assert (parameter - start[name]).abs().max() > 5e-5, name
    assert (parameters(model)["critic.convs.0"] - single["critic.convs.0"]).abs().max() > 1e-3


def test_views_need_an_augmentation():
    with pytest.raises(ValueError, match="needs? a replay buffer that augments"):
        make_agent(online_views=2, replay_buffer_kwargs=dict(n_stack=3))
    with pytest.raises(ValueError, match="at least 1"):
        make_agent(target_views=0)
