"""What could be wrong with this machine: versions, rendering, compute, memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from crl.compute import onednn_bf16, processor, resolve_precision
from crl.limits import free_memory
from crl.networks import pixel_body

_PACKAGES = (
    *("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "kornia", "dm-control", "mujoco", "shimmy"),
    *("ale-py", "rliable", "pandas", "arch", "matplotlib", "imageio"),
)

#: pairs of versions that are known not to work together: (package, wrong from, beside, what happens)
KNOWN_BAD = (
    ("mujoco", 4, "dm-control", "dm-control 1.0.50 fails with mujoco 4 when an environment is made: pip install 'mujoco<4'"),
    ("pandas", 3, "rliable", "rliable 1.2.0 (through arch) cannot be imported with pandas 3: pip install 'pandas<3'"),
)


def report(config: dict[str, Any]) -> int:
    """
    Print everything.

    :param config: of the recipe whose replay memory is forecast
    :return: exit code: 1 when something is known not to work
    """
    installed = installed_versions()
    print(f"python {platform.python_version()}, {platform.system()} {platform.machine()}, {processor()}")
    print("versions   " + ", ".join(f"{name} {number}" for name, number in installed.items()))
    problems = bad_pairs(installed)
    for problem in problems:
        print(f"PROBLEM    {problem}")
    print("device     " + device_line())
    print("precision  " + precision_line())
    if "dm-control" in installed:
        line, works = rendering_line()
        print("rendering  " + line)
        problems += [] if works else [line]
    else:
        print("rendering  dm-control is not installed: pip install 'crl[dmc]'")
    print("replay     " + replay_line(config))
    print("all well" if not problems else f"{len(problems)} problem(s)")
    return 1 if problems else 0


def installed_versions() -> dict[str, str]:
    """Version by package, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that was not asked for
    return found


def bad_pairs(installed: dict[str, str]) -> list[str]:
    """
    :param installed: version by package
    :return: a line for each pair that is known not to work
    """
    return [
        f"{name} {installed[name]} with {beside} {installed[beside]}: {text}"
        for name, first_bad, beside, text in KNOWN_BAD
        if name in installed and beside in installed and int(installed[name].split(".")[0]) >= first_bad
    ]


def device_line() -> str:
    """What torch computes on."""
    if th.cuda.is_available():
        return f"{th.cuda.get_device_name()} (CUDA {th.version.cuda})"
    return f"CPU, {th.get_num_threads()} threads"


def _seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    call()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def precision_line() -> str:
    """Speed of the published conv body in both precisions, forward and backward, batch 32 of 9x84x84, measured."""
    device = th.device("cuda" if th.cuda.is_available() else "cpu")
    has_bf16 = device.type == "cuda" or onednn_bf16()
    body = pixel_body(9).to(device, memory_format=th.channels_last)  # type: ignore[call-overload]
    images = th.rand(32, 9, 84, 84, device=device).contiguous(memory_format=th.channels_last)

    def step(dtype: th.dtype) -> None:
        with th.autocast(device.type, dtype=dtype, enabled=dtype != th.float32):
            out = body(images)
        out.float().sum().backward()
        if device.type == "cuda":
            th.cuda.synchronize()

    fp32, chosen = _seconds(lambda: step(th.float32)), resolve_precision("auto", device)
    times = f"fp32 {1000 * fp32:.1f} ms"
    if has_bf16:
        bf16 = _seconds(lambda: step(th.bfloat16))
        times += f", bf16 {1000 * bf16:.1f} ms (x{fp32 / bf16:.2f})"
    else:
        times += ", no bf16 on this processor,"
    return f"{times} for a step of the conv body, batch 32; 'auto' takes {chosen}"


def rendering_line() -> tuple[str, bool]:
    """Backend, renderer and frames per second of MuJoCo; whether it works."""
    from crl.envs.dmc import DMControl

    try:
        env = DMControl("cartpole", "swingup")
        env.reset(seed=0)
        env.render()
        started = time.perf_counter()
        for _ in range(10):
            env.render()
        speed = 10 / (time.perf_counter() - started)
        env.close()
    except (RuntimeError, ImportError) as error:
        return f"does not work: {error}", False
    return f"MUJOCO_GL={os.environ.get('MUJOCO_GL', 'not set')}, {_renderer()}, {speed:.0f} frames/s at 84x84", True


def _renderer() -> str:
    """The OpenGL renderer's own name, where PyOpenGL can ask it."""
    try:
        from dm_control import _render
        from OpenGL import GL

        context = _render.Renderer(64, 64)
        with context.make_current() as current:
            name = current.call(GL.glGetString, GL.GL_RENDERER)
        context.free()
        return name.decode() if isinstance(name, bytes) else str(name)
    except Exception as error:  # asking is a courtesy: rendering itself was tried above
        return f"renderer unknown ({type(error).__name__})"


def replay_line(config: dict[str, Any]) -> str:
    """Memory of the recipe's full replay buffer beside what is free."""
    from crl.replay import FrameReplayBuffer
    from crl.runs.lengths import image_size

    size = image_size(config)
    n_stack, buffer_size = config["replay"]["n_stack"] or 3, int(config["algorithm"]["buffer_size"])
    image = spaces.Box(0, 255, (3 * n_stack, size, size), np.uint8)
    buffer = FrameReplayBuffer(buffer_size, image, spaces.Box(-1, 1, (6,)), "cpu", n_stack=n_stack)
    free = free_memory()
    plain = 2 * buffer_size * image.shape[0] * size * size
    return (
        f"{config['agent']} on {config['env']['id']}: {buffer.forecast()['total'] / 1e9:.1f} GB for {buffer_size} transitions "
        f"(SB3's buffer: {plain / 1e9:.1f} GB), {free / 1e9:.1f} GB free"
    )
