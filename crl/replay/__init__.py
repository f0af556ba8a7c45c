"""Frame-wise replay for SB3, and the data that objectives ask for."""

from crl.replay.frame_replay import FrameReplayBuffer
from crl.replay.sources import DataSource, RawSequences, RawViews, ReplaySource, RolloutStore, make_batch

__all__ = ["DataSource", "FrameReplayBuffer", "RawSequences", "RawViews", "ReplaySource", "RolloutStore", "make_batch"]
