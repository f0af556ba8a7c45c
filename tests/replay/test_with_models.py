"""SB3's own models end bitwise alike on FrameReplayBuffer and on SB3's buffers: data, random draws and dtypes agree."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from crl.augment import RandomCrop, RandomShift
from crl.encoders import PixelEncoder
from crl.replay import FrameReplayBuffer

from ..fakes import FakeImages

BOX = spaces.Box(-1, 1, (2,))
SMALL = dict(features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=2, layers=2))


def make_env(algorithm, n_envs, as_dict, normalize):
    actions = spaces.Discrete(3) if algorithm is DQN else BOX
    size = 40 if as_dict else 16  # SB3's own CNN for Dict observations needs the larger
    make = lambda: FakeImages(actions, shape=(6, size, size), length=7, truncate=True, as_dict=as_dict)  # noqa: E731
    env = DummyVecEnv([make] * n_envs)
    keys = ["vector"] if as_dict else None
    return VecNormalize(env, norm_obs=as_dict, norm_obs_keys=keys) if normalize else env


def train(algorithm, frames, path, n_envs=1, buffer_size=40, n_steps=1, as_dict=False, normalize=False):
    kwargs = {}
    if frames:
        n_step = dict(n_steps=n_steps, gamma=0.9) if n_steps > 1 else {}
        kwargs = dict(replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(n_stack=2, **n_step))
    if n_steps > 1 and not frames:
        kwargs = dict(n_steps=n_steps)
    model = algorithm(
        "MultiInputPolicy" if as_dict else "CnnPolicy",
        make_env(algorithm, n_envs, as_dict, normalize),
        seed=0,
        buffer_size=buffer_size,
        learning_starts=10,
        batch_size=8,
        train_freq=1,
        gamma=0.9,
        policy_kwargs=dict(net_arch=[8], **({} if as_dict else SMALL)),
        **kwargs,
    )
    model.learn(60)
    if n_steps == 1:  # across the jumps that follow SB3's n-step returns add up rewards of two episodes
        model.learn(15, reset_num_timesteps=False)
        model.learn(15)
        model.save_replay_buffer(path / "replay")
        model.load_replay_buffer(path / "replay")
        env = make_env(algorithm, n_envs, as_dict, normalize)
        env.seed(5)
        model.set_env(env)
        model.learn(20, reset_num_timesteps=False)
    assert isinstance(model.replay_buffer, FrameReplayBuffer) == frames and model._n_updates > 20
    return model.policy.state_dict()


@pytest.mark.parametrize(
    "algorithm, kwargs",
    [
        (SAC, dict(n_envs=2)),
        (SAC, dict(n_envs=2, as_dict=True, normalize=True)),
        (TD3, dict(normalize=True, buffer_size=17)),
        (TD3, dict(n_steps=3, n_envs=2)),
        (DQN, dict(buffer_size=1)),
        (DQN, dict(n_steps=3, buffer_size=1000)),
    ],
)
def test_same_weights_as_with_sb3s_buffer(algorithm, kwargs, tmp_path):
    mine, theirs = (train(algorithm, frames, tmp_path, **kwargs) for frames in (True, False))
    assert all(th.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "augment, crop, fine",
    [
        (RandomCrop(12), 12, True),
        (RandomShift(2), 12, True),  # 16x16, which the encoder centre-crops
        (RandomCrop(16), None, True),
        (RandomCrop(12), None, False),
        (RandomCrop(14), 12, False),
        (RandomCrop(10), 12, False),
    ],
)
def test_crops_of_buffer_and_encoder(augment, crop, fine):
    model = SAC(
        "CnnPolicy",
        make_env(SAC, 1, False, False),
        buffer_size=20,
        replay_buffer_class=FrameReplayBuffer,
        replay_buffer_kwargs=dict(n_stack=2, augment=augment),
        policy_kwargs=dict(
            features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=2, layers=2, crop=crop)
        ),
    )
    if fine:
        model.replay_buffer.check_model(model)
        return
    with pytest.raises(ValueError, match=rf"the encoder is built for .*dict\(crop={augment.size}\)"):
        model.replay_buffer.check_model(model)
