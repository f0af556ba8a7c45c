"""
Representation objectives, one method a file. ``OBJECTIVES`` is the registry, name to class; :func:`list_objectives` says what
they are without loading torch.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crl.contract import Objective
    from crl.objectives.atc import ATC
    from crl.objectives.cpc import CPC
    from crl.objectives.curl import CURL
    from crl.objectives.curl_rainbow import CURLRainbow
    from crl.objectives.self_prediction import SelfPrediction
    from crl.objectives.spr import SPR
    from crl.objectives.stdim import STDIM
    from crl.objectives.taco import TACO

    OBJECTIVES: dict[str, type[Objective]]

#: name: file, class
_WHERE = {
    "atc": ("atc", "ATC"),
    "cpc": ("cpc", "CPC"),
    "curl": ("curl", "CURL"),
    "curl-rainbow": ("curl_rainbow", "CURLRainbow"),
    "self-prediction": ("self_prediction", "SelfPrediction"),
    "spr": ("spr", "SPR"),
    "stdim": ("stdim", "STDIM"),
    "taco": ("taco", "TACO"),
}

__all__ = [
    "ATC",
    "CPC",
    "CURL",
    "OBJECTIVES",
    "SPR",
    "STDIM",
    "TACO",
    "CURLRainbow",
    "SelfPrediction",
    "list_objectives",
]


def list_objectives() -> dict[str, str]:
    """Names of all objectives, and the first line of what their files say."""
    texts = {}
    for name, (file, _) in _WHERE.items():
        text = ast.get_docstring(ast.parse((Path(__file__).parent / f"{file}.py").read_text()))
        texts[name] = (text or "").split("\n")[0]
    return texts


def __getattr__(name: str) -> Any:
    if name == "OBJECTIVES":
        found = {key: getattr(import_module(f"crl.objectives.{file}"), kind) for key, (file, kind) in _WHERE.items()}
        globals()["OBJECTIVES"] = found
        return found
    for file, kind in _WHERE.values():
        if name == kind:
            return getattr(import_module(f"crl.objectives.{file}"), kind)
    raise AttributeError(f"crl.objectives has no {name!r}; it has {', '.join(__all__)}")
