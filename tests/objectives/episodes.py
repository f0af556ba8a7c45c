"""Batches of whole episodes that say where every number is from."""

import numpy as np
import torch as th
from gymnasium import spaces

from crl.networks.history_encoder import HistoryEncoder
from crl.networks.history_rows import HistoryRows
from crl.replay.episode_store import EpisodeStore

OBS, ACTIONS = spaces.Box(-100.0, 100.0, (4,)), spaces.Discrete(3)
TOLD = ("partner_id", "partner_actions", "partner_observations")
LENGTHS = (9, 5, 14, 3, 11, 8)


def encoder(seed=0, embed_dim=6):
    th.manual_seed(seed)
    return HistoryEncoder(HistoryRows(OBS, ACTIONS), embed_dim, width=8, heads=2)


def store(lengths=LENGTHS, told=TOLD, seed=0, size=None):
    """Column 0 is the number of the episode, column 1 the time in it; the rest is noise."""
    rng = np.random.default_rng(seed)
    filled = EpisodeStore(size or len(lengths), 1, told=told)
    for number, length in enumerate(lengths):

        def info(t, number=number):
            saw = (number % 3 - 1 + 0.1 * rng.normal(size=(2, 3))).astype(np.float32)
            return {"partner_id": number % 3, "partner_actions": rng.integers(0, 3, 2), "partner_observations": saw}

        def obs(t, number=number):
            return np.array([number, t, *rng.normal(size=2)], dtype=np.float32)

        filled.begin(0, obs(0), info(0))
        for t in range(length):
            filled.add(0, np.array([t % 3]), float(t), obs(t + 1), t + 1 == length, False, info(t))
    return filled


def episodes(seed=0, **kwargs):
    filled = store(seed=seed, **kwargs)
    return filled.episodes(np.arange(len(filled)), generator=th.Generator().manual_seed(seed))
