"""A tiny encoder that also computes in float64, and windows of noise as the replay hands them out."""

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from crl.contract import SequenceBatch, Spaces

SPACE = spaces.Box(0, 255, (2, 12, 12), np.uint8)
BOX = spaces.Box(-1, 1, (2,), np.float32)
DISCRETE = spaces.Discrete(3)


class TinyEncoder(nn.Module):
    """Satisfies :class:`crl.contract.Encoder`; a 4x4 map of 3 filters, 5 features."""

    def __init__(self, dtype=th.float64, seed=0):
        super().__init__()
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            self.conv = nn.Conv2d(2, 3, 3, stride=3, dtype=dtype)
            self.linear = nn.Linear(48, 5, dtype=dtype)
        self.features_dim = 5
        self.passes = []

    @property
    def target(self):
        return None

    def feature_map(self, obs):
        self.passes.append(len(obs))
        return th.relu(self.conv(obs.to(self.conv.weight.dtype) / 255.0))

    def forward_head(self, feature_map):
        return th.tanh(self.linear(feature_map.flatten(1)))

    def forward(self, obs):
        return self.forward_head(self.feature_map(obs))


def build(objective, actions=BOX, encoder=None, dtype=th.float64, seed=0):
    """Built for a tiny encoder, in float64, copies a little off the online weights so that they can be told apart."""
    encoder = encoder or TinyEncoder(dtype)
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        objective.build(encoder, Spaces(SPACE, actions))
        objective.to(dtype)
        for parameter in objective.parameters():
            if not parameter.requires_grad:
                parameter.add_(0.1 * th.randn_like(parameter))
    return objective


def windows(n=6, steps=4, ends=None, actions=BOX, seed=0, **kwargs):
    """
    :param ends: window to number of steps that count; padding repeats the last observation, as in the replay
    """
    generator = th.Generator().manual_seed(seed)
    obs = th.randint(0, 256, (n, steps + 1, *SPACE.shape), dtype=th.uint8, generator=generator)
    mask = th.ones(n, steps, dtype=th.bool)
    if isinstance(actions, spaces.Discrete):
        taken = th.randint(0, int(actions.n), (n, steps, 1), generator=generator)
    else:
        taken = th.rand(n, steps, 2, generator=generator) * 2 - 1
    rewards = th.randn(n, steps, generator=generator)
    terminated = th.zeros(n, steps, dtype=th.bool)
    for row, length in (ends or {}).items():
        mask[row, length:] = False
        obs[row, length + 1 :] = obs[row, length]
        taken[row, length:] = taken[row, length - 1]
        rewards[row, length:] = 0.0
        terminated[row, length - 1] = True
    return SequenceBatch(obs, taken, rewards, terminated, th.zeros_like(mask), mask, **kwargs)


def assert_same_loss_and_gradients(objective, got, want, rtol=1e-7):
    """Of every weight that the objective trains, the encoder's included."""
    th.testing.assert_close(got, want, rtol=rtol, atol=1e-9, check_dtype=False)
    trained = [p for p in [*objective.encoder.parameters(), *objective.parameters()] if p.requires_grad]
    for a, b in zip(
        th.autograd.grad(got, trained, allow_unused=True), th.autograd.grad(want, trained, allow_unused=True), strict=True
    ):
        if a is None or b is None:
            other = b if a is None else a
            assert other is None or not other.any(), "a gradient on one side alone"
            continue
        th.testing.assert_close(a, b, rtol=rtol, atol=1e-9)


def pick(scores, right):
    """Cross-entropy of a list of scores, written out."""
    return -scores[right] + sum(score.exp() for score in scores).log()
