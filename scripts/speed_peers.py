"""
The authors' own updates, out of checkouts of their repositories, on noise of the same shapes.

What their modules import and no longer installs beside a current torch (gym, scikit-image, hydra, omegaconf ...) is replaced
by stand-ins with the few names that an update needs.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

Block = Callable[[], int]
PAIR = 2


class Silent:
    """A logger that takes everything and writes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _stand_in(name: str, **names: Any) -> None:
    module = types.ModuleType(name)
    for key, value in names.items():
        setattr(module, key, value)
    sys.modules[name] = module


def _windows(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """scikit-image's ``view_as_windows``."""
    return np.lib.stride_tricks.sliding_window_view(images, shape)


def _instantiate(config: dict[str, Any]) -> Any:
    """hydra's: a class by its dotted name, and its arguments."""
    from importlib import import_module

    module, _, name = config["class"].rpartition(".")
    return getattr(import_module(module), name)(**config["params"])


def _prepare(path: str) -> None:
    wrapper = type("Wrapper", (), {})
    spaces = types.SimpleNamespace(Box=object)
    _stand_in("gym", Wrapper=wrapper, spaces=spaces, Env=object)
    _stand_in("skimage")
    _stand_in("skimage.util")
    _stand_in("skimage.util.shape", view_as_windows=_windows)
    _stand_in("omegaconf", OmegaConf=object)
    utils = types.SimpleNamespace(instantiate=_instantiate)
    _stand_in("hydra", utils=utils)
    sys.path.insert(0, path)


def _noise(rng: np.random.Generator, size: int, actions: int) -> tuple[Any, ...]:
    images = [rng.integers(0, 256, (9, size, size), dtype=np.uint8) for _ in range(2)]
    return images[0], rng.uniform(-1, 1, actions).astype(np.float32), float(rng.uniform()), images[1]


def curl(path: str, batch_size: int, actions: int, history: int) -> Block:
    """``CurlSacAgent.update`` with the arguments of its scripts."""
    _prepare(path)
    from curl_sac import CurlSacAgent  # type: ignore[import-not-found]
    from utils import ReplayBuffer  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    buffer = ReplayBuffer((9, 100, 100), (actions,), history, batch_size, "cpu", image_size=84)
    for _ in range(history):
        obs, action, reward, following = _noise(rng, 100, actions)
        buffer.add(obs, action, reward, following, False)
    agent = CurlSacAgent(
        (9, 84, 84), (actions,), "cpu", hidden_dim=1024, init_temperature=0.1, alpha_lr=1e-4, alpha_beta=0.5,
        critic_tau=0.01, encoder_tau=0.05, curl_latent_dim=128,
    )  # fmt: skip
    return _pairs(lambda step: agent.update(buffer, Silent(), step))


def drq(path: str, batch_size: int, actions: int, history: int) -> Block:
    """``DRQAgent.update`` with the values of its configuration file."""
    _prepare(path)
    from drq import DRQAgent  # type: ignore[import-not-found]
    from replay_buffer import ReplayBuffer  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    buffer = ReplayBuffer((9, 84, 84), (actions,), history, 4, "cpu")
    for _ in range(history):
        obs, action, reward, following = _noise(rng, 84, actions)
        buffer.add(obs, action, reward, following, False, False)

    def config(name: str, **params: Any) -> dict[str, Any]:
        return {"class": f"drq.{name}", "params": params}

    encoder = config("Encoder", obs_shape=(9, 84, 84), feature_dim=50)
    heads = dict(encoder_cfg=encoder, action_shape=(actions,), hidden_dim=1024, hidden_depth=2)
    agent = DRQAgent(
        (9, 84, 84), (actions,), [-1.0, 1.0], "cpu", encoder, config("Critic", **heads),
        config("Actor", **heads, log_std_bounds=[-10, 2]), 0.99, 0.1, 1e-3, 2, 0.01, 2, batch_size,
    )  # fmt: skip
    return _pairs(lambda step: agent.update(buffer, Silent(), step))


def drqv2(path: str, batch_size: int, actions: int, history: int) -> Block:
    """``DrQV2Agent.update``; batches are drawn from arrays in memory, not from its files of episodes by other processes."""
    _prepare(path)
    from drqv2 import DrQV2Agent  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    stored = [_noise(rng, 84, actions) for _ in range(history)]
    obs, taken, rewards, following = (np.stack([np.asarray(item[i]) for item in stored]) for i in range(4))
    rewards = rewards.astype(np.float32)

    def batches() -> Any:
        while True:
            rows = rng.integers(0, history, batch_size)
            discounts = np.full((batch_size, 1), 0.99**3, dtype=np.float32)
            yield obs[rows], taken[rows], rewards[rows][:, None], discounts, following[rows]

    agent = DrQV2Agent((9, 84, 84), (actions,), "cpu", 1e-4, 50, 1024, 0.01, 2000, 1, "linear(1.0,0.1,100000)", 0.3, False)
    source = batches()
    return _pairs(lambda step: agent.update(source, step))


def _pairs(update: Callable[[int], Any]) -> Block:
    steps = iter(range(2, 10**9))

    def block() -> int:
        for _ in range(PAIR):
            update(next(steps))
        return PAIR

    return block
