"""
Agents: SB3 algorithms with a pixel encoder shared between losses, and recipes that put them together.

Names are imported when they are first asked for: ``crl.agents.recipes`` answers without torch or SB3.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crl.agents.drqv2 import DrQv2
    from crl.agents.pixel_ppo import PixelPPO
    from crl.agents.pixel_sac import PixelSAC
    from crl.agents.rainbow import Rainbow
    from crl.agents.recipes import build, list_recipes, resolve

_WHERE = {
    "DrQv2": "crl.agents.drqv2",
    "PixelPPO": "crl.agents.pixel_ppo",
    "PixelSAC": "crl.agents.pixel_sac",
    "Rainbow": "crl.agents.rainbow",
    "build": "crl.agents.recipes",
    "list_recipes": "crl.agents.recipes",
    "resolve": "crl.agents.recipes",
}

__all__ = ["DrQv2", "PixelPPO", "PixelSAC", "Rainbow", "build", "list_recipes", "resolve"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    near = difflib.get_close_matches(name, _WHERE, n=3)
    raise AttributeError(f"crl.agents has no {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def __dir__() -> list[str]:
    return sorted(__all__)
