"""What an update computes, counted: guards of its speed that do not depend on a machine."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from crl.agents import build, resolve
from crl.augment import windows
from crl.compute import onednn_convolution
from crl.networks import ConvolutionCounter
from crl.replay import frame_store

from ..fakes import FakeImages

BATCH = 4
#: multiplications of the four convolutions on one 9x84x84 image: 41^2*32*81 + (39^2 + 37^2 + 35^2)*32*288
MACS = 41**2 * 32 * 81 + (39**2 + 37**2 + 35**2) * 32 * 288
#: of them with respect to images: none for the first layer
MACS_OF_INPUTS = (39**2 + 37**2 + 35**2) * 32 * 288

#: images through the body, forward and backward, in two updates (the first one with actor and targets)
PASSES = {
    # observations; next observations through online and target body; the objective's keys
    "curl-sac": (8, 2),
    # + the actor's own pass after the critic's step, + the anchor's own pass, forward and backward
    "curl-sac-paper": (2 * 5 + 1, 4),
    "rad-sac": (6, 2),
    "contrast-sac": (8, 2),
    # nobody moves the body: online and target agree, and one pass of next observations does for both
    "frozen-sac": (4, 0),
    # two views each, and the actor's pass over the first one
    "drq-sac": (2 * 6 + 1, 4),
}


@pytest.fixture(scope="module")
def agents():
    made = {}

    def make(name):
        if name not in made:
            th.set_num_threads(1)
            small = {"algorithm.batch_size": BATCH, "algorithm.buffer_size": 60, "algorithm.learning_starts": 1000}
            small |= {"policy.net_arch": "8", "policy.precision": "fp32", "algorithm.metrics_interval": 50}
            small |= {} if name == "drqv2" else {"objective.balance": None}
            config = resolve(name, "dmc/walker-walk", small)
            size = config["env"]["kwargs"]["size"]
            env = DummyVecEnv([lambda: FakeImages(spaces.Box(-1, 1, (2,), np.float32), (9, size, size), length=30)])
            made[name], _ = build(config, env, seed=0, device="cpu")
            made[name].learn(50)
            made[name].set_logger(Logger(None, []))
            made[name].train(2, BATCH)  # past the first look at gradients
        return made[name]

    return make


@pytest.mark.parametrize("name", PASSES)
def test_passes_and_flops(agents, name):
    model = agents(name)
    with ConvolutionCounter() as count:
        model.train(2, BATCH)
    forward, backward = PASSES[name]
    assert count.images.get(("forward", 9, 84, 84), 0) == forward * BATCH
    assert count.images.get(("backward", 9, 84, 84), 0) == backward * BATCH
    assert count.flops == 2 * BATCH * (forward * MACS + backward * (MACS + MACS_OF_INPUTS))


class Allocations(TorchDispatchMode):
    """Counts the bytes of new results."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, th.Tensor)}
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, th.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.bytes += tensor.untyped_storage().nbytes()
        return out


@pytest.mark.skipif(not onednn_convolution(), reason="torch's own operations write what oneDNN's do not")
@pytest.mark.parametrize(("name", "megabytes"), [("curl-sac", 135), ("rad-sac", 124), ("drq-sac", 173)])
def test_memory_that_two_updates_ask_for(agents, name, megabytes):
    """Eight per cent above what it is: a copy of the feature maps more, or of the large matrix, would be seen."""
    model = agents(name)
    with Allocations() as count:
        model.train(2, BATCH)
    assert 0.5 * megabytes < count.bytes / 1e6 < megabytes


class Waits(TorchDispatchMode):
    """Names operations whose result the CPU would have to wait for."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.found = []
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.paused:
            return func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name in self.waiting or (name == "index" and any(i is not None and i.dtype == th.bool for i in args[1])):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["curl-sac", "curl-sac-paper", "drq-sac", "drqv2"])
def test_nothing_waits_for_the_device_or_comes_back_from_it(agents, name, monkeypatch):
    """Counted on a CPU, with the cutting of windows as it is done on a GPU."""
    model = agents(name)
    assert model._n_updates % model.metrics_interval not in (0, model.metrics_interval - 1)  # looks do wait
    monkeypatch.setattr(windows, "copy_windows", windows.gather_windows)
    monkeypatch.setattr(frame_store, "_gather", lambda pool, address: pool[address])  # frames are stored on the CPU
    waits = Waits()
    # Adam reads its count of steps, which is on the CPU wherever the parameters are
    handles = [
        register_optimizer_step_pre_hook(lambda *_: setattr(waits, "paused", True)),
        register_optimizer_step_post_hook(lambda *_: setattr(waits, "paused", False)),
    ]
    back = []
    for method in ("cpu", "numpy", "item", "tolist", "__bool__", "__float__", "__int__", "__array__"):
        original = getattr(th.Tensor, method)

        def noted(self, *args, original=original, method=method, **kwargs):
            if not waits.paused:
                back.append(method)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(th.Tensor, method, noted)
    with waits:
        model.train(1, BATCH)
    monkeypatch.undo()
    for handle in handles:
        handle.remove()
    assert waits.found == [] and back == []


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["curl-sac", "curl-sac-paper", "drq-sac", "drqv2"])
def test_no_update_waits_for_a_gpu(name):
    small = {"algorithm.batch_size": BATCH, "algorithm.buffer_size": 60, "algorithm.learning_starts": 1000}
    config = resolve(name, "dmc/walker-walk", {**small, "policy.net_arch": "8", "algorithm.metrics_interval": 50})
    size = config["env"]["kwargs"]["size"]
    env = DummyVecEnv([lambda: FakeImages(spaces.Box(-1, 1, (2,), np.float32), (9, size, size), length=30)])
    model, _ = build(config, env, seed=0, device="cuda")
    model.learn(50)
    model.set_logger(Logger(None, []))
    model.train(3, BATCH)
    assert next(model.policy.parameters()).is_cuda
    th.cuda.set_sync_debug_mode("error")
    try:
        model.train(2, BATCH)
    finally:
        th.cuda.set_sync_debug_mode("default")
