"""
Representation learning for Stable-Baselines3 agents that see pixels.

Names are imported when they are first asked for: ``import crl`` loads neither torch nor SB3.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crl.acceleration import accelerate
    from crl.augment import (
        CenterCrop,
        ColorJitter,
        Compose,
        GaussianBlur,
        Grayscale,
        HorizontalFlip,
        Intensity,
        RandomConvolution,
        RandomCrop,
        RandomErasing,
        RandomRotation,
        RandomShift,
    )
    from crl.callbacks import AchievementPhases, AgentModelCallback, AuxiliaryLossCallback
    from crl.callbacks.acting_env import acting_env
    from crl.encoders import ImpalaEncoder, NatureEncoder, PixelEncoder, RainbowEncoder, load_encoder, save_encoder
    from crl.history import HistoryExtractor, HistorySpec, HistoryVecEnv
    from crl.objectives import ATC, CPC, CURL, SPR, STDIM, TACO, CURLRainbow, SelfPrediction
    from crl.objectives.achievement import AchievementDistillation
    from crl.objectives.agent_model import AgentModel
    from crl.objectives.goal_memory import GoalMemory
    from crl.objectives.memory_extractor import MemoryExtractor
    from crl.policies import PixelSACPolicy, PixelTD3Policy
    from crl.replay import FrameReplayBuffer
    from crl.runs.subgoal_score import SubgoalScore
    from crl.tqc_policy import PixelTQCPolicy

_WHERE = {
    "ATC": "crl.objectives",
    "CPC": "crl.objectives",
    "CURL": "crl.objectives",
    "CURLRainbow": "crl.objectives",
    "SPR": "crl.objectives",
    "STDIM": "crl.objectives",
    "TACO": "crl.objectives",
    "AchievementDistillation": "crl.objectives.achievement",
    "AchievementPhases": "crl.callbacks",
    "AgentModel": "crl.objectives.agent_model",
    "AgentModelCallback": "crl.callbacks",
    "AuxiliaryLossCallback": "crl.callbacks",
    "CenterCrop": "crl.augment",
    "ColorJitter": "crl.augment",
    "Compose": "crl.augment",
    "FrameReplayBuffer": "crl.replay",
    "HistoryExtractor": "crl.history",
    "HistorySpec": "crl.history",
    "HistoryVecEnv": "crl.history",
    "GaussianBlur": "crl.augment",
    "Grayscale": "crl.augment",
    "GoalMemory": "crl.objectives.goal_memory",
    "HorizontalFlip": "crl.augment",
    "ImpalaEncoder": "crl.encoders",
    "Intensity": "crl.augment",
    "MemoryExtractor": "crl.objectives.memory_extractor",
    "NatureEncoder": "crl.encoders",
    "PixelEncoder": "crl.encoders",
    "PixelSACPolicy": "crl.policies",
    "PixelTD3Policy": "crl.policies",
    "PixelTQCPolicy": "crl.tqc_policy",
    "RainbowEncoder": "crl.encoders",
    "RandomConvolution": "crl.augment",
    "RandomCrop": "crl.augment",
    "RandomErasing": "crl.augment",
    "RandomRotation": "crl.augment",
    "RandomShift": "crl.augment",
    "SelfPrediction": "crl.objectives",
    "SubgoalScore": "crl.runs.subgoal_score",
    "accelerate": "crl.acceleration",
    "acting_env": "crl.callbacks.acting_env",
    "load_encoder": "crl.encoders",
    "save_encoder": "crl.encoders",
}

__all__ = [
    "ATC",
    "CPC",
    "CURL",
    "CURLRainbow",
    "SPR",
    "STDIM",
    "TACO",
    "AchievementDistillation",
    "AchievementPhases",
    "AgentModel",
    "AgentModelCallback",
    "AuxiliaryLossCallback",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "FrameReplayBuffer",
    "HistoryExtractor",
    "HistorySpec",
    "HistoryVecEnv",
    "GaussianBlur",
    "Grayscale",
    "GoalMemory",
    "HorizontalFlip",
    "ImpalaEncoder",
    "Intensity",
    "MemoryExtractor",
    "NatureEncoder",
    "PixelEncoder",
    "PixelSACPolicy",
    "PixelTD3Policy",
    "PixelTQCPolicy",
    "RainbowEncoder",
    "RandomConvolution",
    "RandomCrop",
    "RandomErasing",
    "RandomRotation",
    "RandomShift",
    "SelfPrediction",
    "SubgoalScore",
    "__version__",
    "accelerate",
    "acting_env",
    "load_encoder",
    "save_encoder",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("crl")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    near = difflib.get_close_matches(name, _WHERE, n=3)
    raise AttributeError(f"crl has no {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def __dir__() -> list[str]:
    return sorted(__all__)
