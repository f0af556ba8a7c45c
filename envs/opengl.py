"""Which OpenGL MuJoCo draws with, and what to say when there is none."""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library

#: backends that need no screen, the better one first, and the library each loads
OFF_SCREEN = {"egl": "EGL", "osmesa": "OSMesa"}


def choose_backend() -> str | None:
    """
    Set ``MUJOCO_GL`` where it is not set and there is no screen (Linux): EGL if it is installed, else OSMesa. Call it before
    mujoco or dm_control are imported: they read the variable once.

    :return: the value in force; None leaves the choice to MuJoCo
    """
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if "MUJOCO_GL" not in os.environ and sys.platform == "linux" and not screen:
        installed = (backend for backend, library in OFF_SCREEN.items() if find_library(library))
        os.environ["MUJOCO_GL"] = next(installed, "egl")
    return os.environ.get("MUJOCO_GL")


def no_opengl(error: Exception) -> RuntimeError:
    """
    :param error: what the OpenGL library, its binding or MuJoCo raised
    :return: an error that says what to install and to set, to be raised from the first
    """
    return RuntimeError(
        f"MuJoCo cannot draw: {str(error).rstrip('.')} (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'not set')}). "
        "Without a screen: apt-get install libegl1 libgl1 and MUJOCO_GL=egl, or apt-get install libosmesa6 and "
        "MUJOCO_GL=osmesa; set the variable before Python starts"
    )
