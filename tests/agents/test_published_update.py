"""
Updates of the published configuration against an independent port in plain torch, parameter by parameter.

The port follows CURL's own code step by step (what is computed, in which order, which Adam holds what). It shares nothing with
``crl`` but the numbers that both start from.
"""

import math

import numpy as np
import torch as th
import torch.nn as nn
import torch.nn.functional as F
from stable_baselines3.common.logger import Logger

from crl.agents.recipes import parse, resolve
from crl.objectives import CURL

from .agents import ACTIONS, BATCH, CROP, KnownBatches, KnownCrops, crop_at, make_agent, random_transitions

UPDATES = 3
FEATURES, FILTERS, HIDDEN = 10, 8, 32
FLAT = FILTERS * 3 * 3  # 20 -> 9 -> 7 -> 5 -> 3


class Convs(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [(9, 2), (FILTERS, 1), (FILTERS, 1), (FILTERS, 1)]
        self.layers = nn.ModuleList([nn.Conv2d(channels, FILTERS, 3, stride=stride) for channels, stride in sizes])

    def forward(self, images):
        x = images / 255.0
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.reshape(len(x), -1)


class Encoder(nn.Module):
    def __init__(self, convs):
        super().__init__()
        self.convs, self.fc, self.ln = convs, nn.Linear(FLAT, FEATURES), nn.LayerNorm(FEATURES)

    def forward(self, images, detach=False):
        x = self.convs(images)
        return self.ln(self.fc(x.detach() if detach else x))


def mlp(n_in, n_out):
    return nn.Sequential(nn.Linear(n_in, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_out))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder(Convs())
        self.q1, self.q2 = mlp(FEATURES + ACTIONS, 1), mlp(FEATURES + ACTIONS, 1)

    def forward(self, images, actions, detach=False):
        x = th.cat([self.encoder(images, detach), actions], dim=1)
        return self.q1(x), self.q2(x)


class Actor(nn.Module):
    def __init__(self, convs):
        super().__init__()
        self.encoder, self.trunk = Encoder(convs), mlp(FEATURES, 2 * ACTIONS)

    def forward(self, images, noise, detach=False):
        mu, raw = self.trunk(self.encoder(images, detach)).chunk(2, dim=1)
        log_std = -10 + 6 * (th.tanh(raw) + 1)
        action = mu + log_std.exp() * noise
        log_p = (-0.5 * noise**2 - log_std).sum(1, keepdim=True) - 0.5 * ACTIONS * math.log(2 * math.pi)
        action = th.tanh(action)
        return action, log_p - th.log(F.relu(1 - action**2) + 1e-6).sum(1, keepdim=True)


class Port:
    """CURL's agent; one :meth:`update` per agent step."""

    def __init__(self, lr=1e-3):
        self.critic, self.target = Critic(), Critic()
        self.actor = Actor(self.critic.encoder.convs)  # tied: the same Parameters
        self.w = nn.Parameter(th.zeros(FEATURES, FEATURES))
        self.log_alpha = th.tensor(math.log(0.1), requires_grad=True)
        self.lr = lr
        self.step = 0

    def make_optimizers(self):
        self.critic_adam = th.optim.Adam(self.critic.parameters(), lr=self.lr, betas=(0.9, 0.999))
        self.actor_adam = th.optim.Adam(self.actor.parameters(), lr=self.lr, betas=(0.9, 0.999))
        self.alpha_adam = th.optim.Adam([self.log_alpha], lr=1e-4, betas=(0.5, 0.999))
        self.encoder_adam = th.optim.Adam(self.critic.encoder.parameters(), lr=self.lr)
        of_curl = [*self.critic.encoder.parameters(), *self.target.encoder.parameters(), self.w]
        self.cpc_adam = th.optim.Adam(of_curl, lr=self.lr)

    def update(self, obs, actions, rewards, next_obs, not_done, positive, noise):
        """Images are cropped floats in 0..255; ``noise`` gives the policy's draws in order."""
        alpha = self.log_alpha.exp()
        with th.no_grad():
            next_action, next_log_p = self.actor(next_obs, noise())
            q1, q2 = self.target(next_obs, next_action)
            target = rewards + not_done * 0.99 * (th.min(q1, q2) - alpha * next_log_p)
        q1, q2 = self.critic(obs, actions)
        loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()

        if self.step % 2 == 0:
            action, log_p = self.actor(obs, noise(), detach=True)
            q = th.min(*self.critic(obs, action, detach=True))
            actor_loss = (alpha.detach() * log_p - q).mean()
            self.actor_adam.zero_grad()
            actor_loss.backward()
            self.actor_adam.step()
            alpha_loss = (self.log_alpha.exp() * (-log_p + ACTIONS).detach()).mean()  # target entropy -ACTIONS
            self.alpha_adam.zero_grad()
            alpha_loss.backward()
            self.alpha_adam.step()

        if self.step % 2 == 0:
            with th.no_grad():
                for part, tau in (("encoder", 0.05), ("q1", 0.01), ("q2", 0.01)):
                    pairs = zip(getattr(self.target, part).parameters(), getattr(self.critic, part).parameters(), strict=True)
                    for slow, fast in pairs:
                        slow.copy_(tau * fast + (1 - tau) * slow)

        anchor = self.critic.encoder(obs)
        with th.no_grad():
            key = self.target.encoder(positive)
        logits = anchor @ (self.w @ key.T)
        logits = logits - logits.max(1)[0][:, None]
        contrast = F.cross_entropy(logits, th.arange(len(obs)))
        self.encoder_adam.zero_grad()
        self.cpc_adam.zero_grad()
        contrast.backward()
        self.encoder_adam.step()
        self.cpc_adam.step()
        self.step += 1


def parameters_of_port(port):
    """Names to tensors; the same names as :func:`parameters_of_agent`."""
    found = {"w": port.w, "log_alpha": port.log_alpha}
    for name, critic in (("critic", port.critic), ("target", port.target)):
        found |= {f"{name}.convs.{k}": v for k, v in enumerate(critic.encoder.convs.parameters())}
        found |= {
            f"{name}.head.{k}": v for k, v in enumerate([*critic.encoder.fc.parameters(), *critic.encoder.ln.parameters()])
        }
        found |= {f"{name}.q1.{k}": v for k, v in enumerate(critic.q1.parameters())}
        found |= {f"{name}.q2.{k}": v for k, v in enumerate(critic.q2.parameters())}
    found |= {
        f"actor.head.{k}": v for k, v in enumerate([*port.actor.encoder.fc.parameters(), *port.actor.encoder.ln.parameters()])
    }
    hidden = list(port.actor.trunk.parameters())
    found |= {f"actor.trunk.{k}": v for k, v in enumerate(hidden[:4])}
    found |= {"actor.mu.weight": hidden[4][:ACTIONS], "actor.raw.weight": hidden[4][ACTIONS:]}
    found |= {"actor.mu.bias": hidden[5][:ACTIONS], "actor.raw.bias": hidden[5][ACTIONS:]}
    return found


def parameters_of_agent(model):
    found = {"w": model.objective.weight, "log_alpha": model.log_ent_coef[0]}
    for name, critic in (("critic", model.critic), ("target", model.critic_target)):
        encoder = critic.features_extractor
        found |= {f"{name}.convs.{k}": v for k, v in enumerate(encoder.body.parameters())}
        found |= {f"{name}.head.{k}": v for k, v in enumerate(encoder._head.parameters())}
        found |= {f"{name}.q1.{k}": v for k, v in enumerate(critic.qf0.parameters())}
        found |= {f"{name}.q2.{k}": v for k, v in enumerate(critic.qf1.parameters())}
    found |= {f"actor.head.{k}": v for k, v in enumerate(model.actor.features_extractor.parameters())}
    found |= {f"actor.trunk.{k}": v for k, v in enumerate(model.actor.latent_pi.parameters())}
    found |= {"actor.mu.weight": model.actor.mu.weight, "actor.raw.weight": model.actor.log_std.weight}
    found |= {"actor.mu.bias": model.actor.mu.bias, "actor.raw.bias": model.actor.log_std.bias}
    return found


def published_agent():
    """PixelSAC with the options of ``curl-sac-paper``, small."""
    config = parse(resolve("curl-sac-paper", "dmc/cartpole-swingup"))
    options = {
        name: getattr(config.algorithm, name)
        for name in vars(config.algorithm)
        if name not in ("batch_size", "buffer_size", "learning_starts", "metrics_interval", "train_freq", "gradient_steps")
    }
    return make_agent(
        objective=CURL(keys=config.objective.keys),
        objective_weight=config.objective.weight,
        replay_buffer_class=KnownBatches,
        **options,
    )


def perturbed_agent():
    """Moved away from zero biases and equal targets: nothing may agree by accident."""
    model = published_agent()
    generator = th.Generator().manual_seed(5)
    with th.no_grad():
        for parameter in [*model.policy.parameters(), model.objective.weight]:
            parameter.add_(0.05 * th.randn(parameter.shape, generator=generator))
    return model


def both(updates=UPDATES, without=None):
    """The agent and the port after the same updates; ``without`` an optimiser of the agent's."""
    th.set_num_threads(1)
    model = perturbed_agent()
    if without is not None:
        getattr(model, without).step = lambda: None
    port = Port(model.learning_rate)
    theirs = parameters_of_agent(model)
    with th.no_grad():
        for name, parameter in parameters_of_port(port).items():
            parameter.copy_(theirs[name])
    port.make_optimizers()

    batches = random_transitions(updates, seed=1)
    rng = np.random.default_rng(2)
    crops = [rng.integers(0, 24 - CROP, (BATCH, 2)) for _ in range(3 * updates)]  # obs, next_obs, positive
    model.replay_buffer.augment = KnownCrops(crops)
    model._objective_data.augment = model.replay_buffer.augment
    model.replay_buffer.batches = list(batches)
    model.set_logger(Logger(None, []))
    th.manual_seed(3)
    model.train(updates, BATCH)
    assert model.replay_buffer.augment.used == 3 * updates

    th.manual_seed(3)
    for i, data in enumerate(batches):
        obs, next_obs, positive = (
            crop_at(images.float(), offsets)
            for images, offsets in zip(
                (data.observations, data.next_observations, data.observations), crops[3 * i : 3 * i + 3], strict=True
            )
        )
        port.update(obs, data.actions, data.rewards, next_obs, 1 - data.dones, positive, lambda: th.randn(BATCH, ACTIONS))
    return model, port


def test_updates_equal_the_published_ones():
    model, port = both()
    mine, theirs = parameters_of_agent(model), parameters_of_port(port)
    assert mine.keys() == theirs.keys() and len(mine) == 2 + 2 * (8 + 4 + 6 + 6) + 4 + 4 + 4
    for name, parameter in mine.items():
        th.testing.assert_close(parameter, theirs[name], atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_every_part_has_moved():
    """So that the equality above is none of things that stand still."""
    model, _ = both()
    start = parameters_of_agent(perturbed_agent())
    for name, parameter in parameters_of_agent(model).items():
        moved = (parameter - start[name]).abs().max().item()
        assert moved > 5e-5, f"{name} moved by {moved}"


def test_both_adams_of_the_encoder_equal_the_published_ones():
    model, port = both()
    mine = list(model.encoder.parameters())
    theirs = list(port.critic.encoder.parameters())
    for own, published in (
        (model.encoder_optimizer, port.encoder_adam),
        (model.objective_optimizer, port.cpc_adam),
        (model.critic.optimizer, port.critic_adam),
    ):
        for a, b in zip(mine, theirs, strict=True):
            assert own.state[a]["step"] == published.state[b]["step"] == UPDATES
            for moment in ("exp_avg", "exp_avg_sq"):
                x, y = own.state[a][moment], published.state[b][moment]
                th.testing.assert_close(x, y, atol=1e-6 + 1e-3 * y.abs().max().item(), rtol=1e-3)
    assert model.objective_optimizer.state[model.objective.weight]["step"] == UPDATES, "W is stepped once an update"
    assert model.ent_coef_optimizer.state[model.log_ent_coef]["step"] == 2, "the temperature at updates 0 and 2"
    assert model.actor.optimizer.state[model.actor.mu.weight]["step"] == 2


def test_a_missing_adam_would_be_seen():
    """The tolerance above is far below what either of the two Adams does."""
    for name in ("encoder_optimizer", "objective_optimizer"):
        model, port = both(without=name)
        mine, theirs = parameters_of_agent(model), parameters_of_port(port)
        assert (mine["critic.convs.0"] - theirs["critic.convs.0"]).abs().max() > 1e-3
