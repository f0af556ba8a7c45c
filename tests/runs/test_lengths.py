"""Sizes of images that are told without making an environment."""

import pytest

from crl.envs import make_env
from crl.runs.lengths import image_size, never_learns
from crl.runs.run import new_run


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


def test_runs_that_end_before_their_first_update_are_told(tmp_path):
    with pytest.warns(UserWarning, match=r"curl-sac on toy/reach never learns.*learning_starts=300 agent steps.*has 300"):
        new_run("curl-sac", "toy/reach", {}, seed=1, out=tmp_path / "run", steps=300)
    config = {"agent": "a", "env": {"id": "toy/reach"}, "algorithm": {"learning_starts": 300}}
    assert never_learns(config, 300) and not never_learns(config, 301)
    assert not never_learns({**config, "algorithm": {}}, 1), "on-policy agents wait for nothing"
