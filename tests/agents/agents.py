"""Small agents, and batches that are known beforehand."""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.agents import PixelSAC
from crl.augment import RandomCrop
from crl.replay import FrameReplayBuffer

from ..fakes import FakeImages

SHAPE, CROP, ACTIONS, BATCH = (9, 24, 24), 20, 2, 16


def make_env(shape=SHAPE, **kwargs):
    return DummyVecEnv([lambda: FakeImages(spaces.Box(-1, 1, (ACTIONS,), np.float32), shape=shape, **kwargs)])


def make_agent(seed=0, policy_kwargs=None, encoder_kwargs=None, **kwargs):
    encoder = {"filters": 8, "crop": CROP, "features_dim": 10, **(encoder_kwargs or {})}
    policy = {"net_arch": [32, 32], "features_extractor_kwargs": encoder, **(policy_kwargs or {})}
    defaults = dict(
        buffer_size=200,
        learning_starts=20,
        batch_size=BATCH,
        replay_buffer_kwargs=dict(n_stack=3, augment=RandomCrop(CROP)),
        metrics_interval=2,
    )
    return PixelSAC("PixelPolicy", make_env(), seed=seed, policy_kwargs=policy, **{**defaults, **kwargs})


def random_transitions(n, seed=0, batch=BATCH):
    """``n`` batches of noise, uint8 images of the full size."""
    rng = np.random.default_rng(seed)

    def images():
        return th.as_tensor(rng.integers(0, 256, (batch, *SHAPE), dtype=np.uint8))

    def numbers(*shape):
        return th.as_tensor(rng.uniform(-1, 1, shape), dtype=th.float32)

    return [
        ReplayBufferSamples(
            images(), numbers(batch, ACTIONS), images(), (numbers(batch, 1) > 0.6).float(), 3 * numbers(batch, 1)
        )
        for _ in range(n)
    ]


class KnownCrops:
    """Hands out crops that are known beforehand, in order, and counts them."""

    def __init__(self, offsets, size=CROP):
        self.offsets, self.size, self.used = offsets, size, 0

    def __call__(self, images, generator):
        crop = crop_at(images, self.offsets[self.used], self.size)
        self.used += 1
        return crop

    def output_size(self, height, width):
        return self.size, self.size


def crop_at(images, offsets, size=CROP):
    """One image after another."""
    return th.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(images, offsets.tolist(), strict=True)])


class KnownBatches(FrameReplayBuffer):
    """A replay buffer whose samples are known beforehand."""

    batches = ()

    def sample(self, batch_size, env=None):
        assert self.augment is None, "the agent augments"
        return self.batches.pop(0)


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items() if isinstance(value, th.Tensor)}


def same(a, b):
    return a.keys() == b.keys() and all(th.equal(a[key], b[key]) for key in a)
