"""Sizes of images that are told without making an environment."""

import pytest

from crl.envs import make_env
from crl.runs.lengths import image_size


@pytest.mark.parametrize(
    "env_id, kwargs",
    [
        ("toy/reach", {}),
        ("toy/chain", {}),
        ("crafter/reward", {}),
        ("atari/Pong", {}),
        ("lbf/8x8-2p-2f", {"pixels": True}),
        ("lbf/8x8-2p-2f", {"pixels": True, "size": 20}),
        ("mpe/simple_tag", {"pixels": True}),
    ],
)
def test_images_are_as_large_as_is_said(env_id, kwargs):
    env = make_env(env_id, **kwargs)
    assert image_size({"env": {"id": env_id, "kwargs": kwargs}}) == env.observation_space.shape[-1]
    env.close()
