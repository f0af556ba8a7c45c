"""CURL's policy: golden values, bounds, initialisation; and what enters the network."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from crl.agents.network_input import LeanEncoder, network_input
from crl.agents.rescaled_policy import rescale_log_std
from crl.agents.squashed_gaussian import squashed_sample
from crl.encoders import ModelEncoder, PixelEncoder

from ..processor import PRECISIONS
from .agents import make_agent


def numbers(*values):
    return th.tensor([values], dtype=th.float64)


def test_golden_values():
    log_std = rescale_log_std(numbers(0.1), (-10.0, 2.0))
    assert log_std.item() == pytest.approx(-3.4019920323, abs=1e-10)
    assert log_std.exp().item() == pytest.approx(0.0333068555, abs=1e-10)
    action, log_prob = squashed_sample(numbers(0.3), log_std, numbers(0.5))
    assert action.item() == pytest.approx(0.3064778061, abs=1e-10)
    assert log_prob.item() == pytest.approx(2.4566896138, abs=1e-9)
    assert rescale_log_std(numbers(0.0), (-10.0, 2.0)).item() == -4.0


def test_bounds_are_reached_and_none_clamps():
    raw = th.tensor([-50.0, 50.0])
    assert rescale_log_std(raw, (-10.0, 2.0)).tolist() == [-10.0, 2.0]
    assert rescale_log_std(raw, None).tolist() == [-20.0, 2.0]
    with pytest.raises(ValueError, match="low < high"):
        make_agent(policy_kwargs=dict(log_std_bounds=(2, -10)))


def test_log_probability_is_that_of_sb3s_distribution():
    generator = th.Generator().manual_seed(0)
    mean, log_std, noise = (th.randn(50, 3, generator=generator, dtype=th.float64) for _ in range(3))
    action, log_prob = squashed_sample(mean, log_std, noise)
    theirs = SquashedDiagGaussianDistribution(3).proba_distribution(mean, log_std)
    gaussian = mean + log_std.exp() * noise
    th.testing.assert_close(action, th.tanh(gaussian))
    th.testing.assert_close(log_prob.squeeze(1), theirs.log_prob(action, gaussian))


def test_small_deviations_keep_their_digits():
    """std = exp(-10): recovering the noise from the action would be off by 1e-3 and more in float32."""
    mean, log_std, noise = th.tensor([[0.9]]), th.tensor([[-10.0]]), th.tensor([[1.7]])
    exact = squashed_sample(mean.double(), log_std.double(), noise.double())[1]
    assert squashed_sample(mean, log_std, noise)[1].item() == pytest.approx(exact.item(), abs=1e-5)


def test_mlps_are_orthogonal_with_zero_biases():
    model = make_agent()
    for layer in (model.actor.latent_pi[2], model.critic.qf0[2], model.critic_target.qf1[2]):
        th.testing.assert_close(layer.weight @ layer.weight.T, th.eye(32), atol=1e-5, rtol=0)
        assert not layer.bias.any()
    assert not model.actor.mu.bias.any() and not model.actor.log_std.bias.any()
    plain = make_agent(policy_kwargs=dict(mlp_init="default"))
    assert plain.critic.qf0[2].bias.any()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [th.uint8, th.float32])
def test_network_input_equals_the_plain_way(precision, dtype):
    encoder = PixelEncoder(spaces.Box(0, 255, (3, 24, 24), np.uint8), filters=4, layers=2, crop=20, precision=precision)
    generator = th.Generator().manual_seed(0)
    for size in (20, 24):
        images = th.randint(0, 256, (5, 3, size, size), generator=generator).to(dtype)
        kept = images.clone()
        mine = network_input(images, encoder)
        assert th.equal(images, kept)
        plain = images.float() / 255
        plain = plain if size == 20 else plain[:, :, 2:-2, 2:-2]
        expected = plain.bfloat16() if precision == "bf16" and dtype == th.uint8 else plain
        assert mine.dtype == expected.dtype and th.equal(mine, expected)


def test_lean_encoder_gives_the_plain_features():
    space = spaces.Box(0, 255, (9, 24, 24), np.uint8)
    encoder = PixelEncoder(space, filters=4, crop=20)
    images = th.randint(0, 256, (5, 9, 24, 24), dtype=th.uint8)
    th.testing.assert_close(LeanEncoder(encoder, space)(images), ModelEncoder(encoder, space)(images), atol=1e-5, rtol=1e-5)


def test_only_its_own_policy():
    from crl.agents import PixelSAC

    from .agents import make_env

    with pytest.raises(ValueError, match="RescaledSACPolicy"):
        PixelSAC("CnnPolicy" if "CnnPolicy" in PixelSAC.policy_aliases else _plain_policy(), make_env())


def _plain_policy():
    from crl.policies import PixelSACPolicy

    return PixelSACPolicy
