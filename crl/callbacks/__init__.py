"""Callbacks that attach representation objectives to live SB3 models."""

from crl.callbacks.achievement_phases import AchievementPhases
from crl.callbacks.agent_model_callback import AgentModelCallback
from crl.callbacks.auxiliary_loss import AuxiliaryLossCallback

__all__ = ["AchievementPhases", "AgentModelCallback", "AuxiliaryLossCallback"]
