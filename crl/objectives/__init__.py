"""Representation objectives, one method a file. ``OBJECTIVES`` is the registry: name to class."""

from crl.contract import Objective
from crl.objectives.curl import CURL

OBJECTIVES: dict[str, type[Objective]] = {
    "curl": CURL,
}

__all__ = ["CURL", "OBJECTIVES"]
