"""Representation objectives, one method a file. ``OBJECTIVES`` is the registry: name to class."""

from crl.contract import Objective
from crl.objectives.atc import ATC
from crl.objectives.cpc import CPC
from crl.objectives.curl import CURL
from crl.objectives.self_prediction import SelfPrediction
from crl.objectives.spr import SPR
from crl.objectives.stdim import STDIM
from crl.objectives.taco import TACO

OBJECTIVES: dict[str, type[Objective]] = {
    "atc": ATC,
    "cpc": CPC,
    "curl": CURL,
    "self-prediction": SelfPrediction,
    "spr": SPR,
    "stdim": STDIM,
    "taco": TACO,
}

__all__ = ["ATC", "CPC", "CURL", "OBJECTIVES", "SPR", "STDIM", "TACO", "SelfPrediction"]
