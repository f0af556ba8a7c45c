import os
import subprocess
import sys

import pytest

from crl.envs import opengl


@pytest.fixture
def headless(monkeypatch):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        # set, then delete: what the test sets is taken back afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


@pytest.mark.parametrize(
    "installed, backend", [(("EGL", "OSMesa"), "egl"), (("OSMesa",), "osmesa"), ((), "egl"), (("EGL",), "egl")]
)
def test_backend_without_a_screen(headless, installed, backend):
    headless.setattr(opengl, "find_library", lambda name: name if name in installed else None)
    assert opengl.choose_backend() == backend == os.environ["MUJOCO_GL"]


@pytest.mark.parametrize("name, value", [("MUJOCO_GL", "osmesa"), ("DISPLAY", ":0"), ("WAYLAND_DISPLAY", "wayland-0")])
def test_what_the_user_set_stays(headless, name, value):
    headless.setenv(name, value)
    assert opengl.choose_backend() == (value if name == "MUJOCO_GL" else None)


@pytest.mark.parametrize("backend", ["disabled", "no-such-thing"])
def test_error_says_what_to_do(backend):
    """One where rendering fails, one where the import does."""
    pytest.importorskip("dm_control", reason="the extra 'dmc' is not installed")
    code = "from crl.envs import make_env; make_env('dmc/cartpole-swingup', size=8)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True
    )
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and last.startswith("RuntimeError: MuJoCo cannot draw: ")
    assert f"MUJOCO_GL={backend}" in last and "apt-get install libegl1" in last and "MUJOCO_GL=osmesa" in last
