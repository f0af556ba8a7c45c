"""Histories of episodes as a part of what an SB3 policy sees: for agents that model the others in their world."""

from crl.history.extractor import HistoryExtractor, history_extractor, seen_by
from crl.history.single_env import HistoryEnv
from crl.history.spec import HistorySpec
from crl.history.vec_env import HistoryVecEnv

__all__ = ["HistoryEnv", "HistoryExtractor", "HistorySpec", "HistoryVecEnv", "history_extractor", "seen_by"]
