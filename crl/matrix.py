"""
Which objective goes with which algorithm: ``crl list --matrix``.

Nothing here is a list of claims. Every cell is found out: a tiny model of the algorithm is built on a tiny environment, the
objective is attached, a few updates run, and each encoder is watched while the objective takes its steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.callbacks.attachment import Attachment
from crl.contract import Objective
from crl.encoders import PixelEncoder
from crl.envs.toy import ToyReach
from crl.objectives import OBJECTIVES
from crl.replay import FrameReplayBuffer

Mode = Literal["own_optimizer", "add_gradient"]
MODES: tuple[Mode, ...] = ("own_optimizer", "add_gradient")
#: environment steps of one attempt: some 16 updates
STEPS = 32

_ENCODER: dict[str, Any] = dict(
    features_extractor_class=PixelEncoder, features_extractor_kwargs=dict(filters=4, layers=2, features_dim=16)
)
# as large as SB3's NatureCNN inside CombinedExtractor must have it
_DICT: dict[str, Any] = dict(features_extractor_kwargs=dict(cnn_output_dim=16))
_OFF_POLICY: dict[str, Any] = dict(
    buffer_size=200,
    learning_starts=16,
    batch_size=8,
    train_freq=1,
    replay_buffer_class=FrameReplayBuffer,
    replay_buffer_kwargs=dict(n_stack=3),
)
_ROLLOUTS: dict[str, Any] = dict(n_steps=16, batch_size=8)
_EPOCHS: dict[str, Any] = {**_ROLLOUTS, "n_epochs": 2}
_KWARGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("SAC", "TD3", "DDPG", "DQN", "TQC", "QRDQN", "CrossQ"), _OFF_POLICY),
    **dict.fromkeys(("PPO", "RecurrentPPO", "MaskablePPO"), _EPOCHS),
    "TRPO": {**_ROLLOUTS, "n_critic_updates": 2},
    "A2C": dict(n_steps=8),
}
_CONTINUOUS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")
_CONTRIB = ("TQC", "QRDQN", "CrossQ", "RecurrentPPO", "TRPO", "MaskablePPO")


class _Tiny(gym.Wrapper[Any, Any, Any, Any]):
    """
    crl's toy in episodes of 9 steps, with action masks (for MaskablePPO).

    :param discrete: actions
    :param as_dict: observations are a Dict of the image, padded to 40x40, and a vector
    """

    def __init__(self, discrete: bool, as_dict: bool) -> None:
        super().__init__(gym.wrappers.TimeLimit(ToyReach(discrete=discrete), 9))
        self.as_dict = as_dict
        if as_dict:
            image, vector = spaces.Box(0, 255, (9, 40, 40), np.uint8), spaces.Box(-np.inf, np.inf, (8,), np.float32)
            self.observation_space = spaces.Dict(image=image, vector=vector)

    def _observe(self, obs: np.ndarray, info: dict[str, Any]) -> Any:
        return {"image": np.pad(obs, ((0, 0), (4, 4), (4, 4))), "vector": info["state"]} if self.as_dict else obs

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, info = self.env.reset(**kwargs)
        return self._observe(obs, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(obs, info), reward, terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """All actions are allowed."""
        return np.ones(self.action_space.n, dtype=bool)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Row:
    """
    An algorithm with a policy.

    :param algorithm: name of the class, in SB3 or sb3-contrib
    :param policy: name that the algorithm knows, or a class of crl
    :param note: how its extractors are arranged, where there is a choice
    :param policy_kwargs: beside the tiny networks
    """

    algorithm: str
    policy: str
    note: str = ""
    policy_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Algorithm, policy and note."""
        return " ".join(part for part in (self.algorithm, self.policy, self.note) if part)

    @property
    def needs_contrib(self) -> bool:
        """Whether it is of sb3-contrib."""
        return self.algorithm in _CONTRIB

    def make(self, seed: int = 0, n_envs: int = 1, **kwargs: Any) -> BaseAlgorithm:
        """
        A tiny model.

        :param seed: of everything
        :param n_envs: number of environments
        :param kwargs: further arguments of the algorithm
        """
        as_dict = self.policy.startswith("MultiInput")
        env = DummyVecEnv([partial(_Tiny, self.algorithm not in _CONTINUOUS, as_dict)] * n_envs)
        algorithm = getattr(import_module("sb3_contrib" if self.needs_contrib else "stable_baselines3"), self.algorithm)
        policy = getattr(import_module("crl"), self.policy) if self.policy.startswith("Pixel") else self.policy
        policy_kwargs = {"net_arch": [16], **(_DICT if as_dict else _ENCODER), **self.policy_kwargs}
        if self.algorithm == "RecurrentPPO":
            policy_kwargs["lstm_hidden_size"] = 8
        return algorithm(
            policy, env, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **_KWARGS[self.algorithm], **kwargs
        )


def _rows() -> Iterator[Row]:
    shared, split = dict(share_features_extractor=True), dict(share_features_extractor=False)
    for algorithm, own in (
        ("SAC", "PixelSACPolicy"),
        ("TD3", "PixelTD3Policy"),
        ("DDPG", "PixelTD3Policy"),
        ("TQC", "PixelTQCPolicy"),
    ):
        yield Row(algorithm, own)
        yield Row(algorithm, "CnnPolicy", "separate")
        yield Row(algorithm, "CnnPolicy", "shared", shared)
        yield Row(algorithm, "MultiInputPolicy", "separate")
    # sb3-contrib has no CNN policy for it
    yield Row("CrossQ", "MlpPolicy", "separate")
    yield Row("CrossQ", "MlpPolicy", "shared", shared)
    for algorithm in ("DQN", "QRDQN"):
        yield Row(algorithm, "CnnPolicy")
        yield Row(algorithm, "MultiInputPolicy")
    for algorithm in ("PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO"):
        lstm = "Lstm" if algorithm == "RecurrentPPO" else ""
        yield Row(algorithm, f"Cnn{lstm}Policy", "shared")
        yield Row(algorithm, f"Cnn{lstm}Policy", "split", split)
        yield Row(algorithm, f"MultiInput{lstm}Policy", "shared")
        yield Row(algorithm, f"MultiInput{lstm}Policy", "split", split)


#: every algorithm with its policies; the first row of each is its most usual one
ROWS: tuple[Row, ...] = tuple(_rows())


def available_rows() -> tuple[Row, ...]:
    """Those whose packages are installed."""
    return tuple(row for row in ROWS if _has_contrib() or not row.needs_contrib)


def _has_contrib() -> bool:
    return find_spec("sb3_contrib") is not None


class WatchedLoss(AuxiliaryLossCallback):
    """
    :class:`crl.AuxiliaryLossCallback` that looks whether the objective's steps reach the encoders: their weights
    (``own_optimizer``) or their gradients (``add_gradient``).

    :param args: see :class:`crl.AuxiliaryLossCallback`
    :param kwargs: see there
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: names of the encoders that were reached
        self.reached: set[str] = set()

    def _step(self, item: Attachment) -> bool:
        before = _what_the_objective_changes(item)
        stepped = super()._step(item)
        after = _what_the_objective_changes(item)
        if any(not th.equal(one, other) for one, other in zip(before, after, strict=True)):
            self.reached.add(item.name)
        return stepped


def _what_the_objective_changes(item: Attachment) -> list[th.Tensor]:
    """Weights that its own optimiser steps, and gradients that it adds for the agent's."""
    gradients = [th.zeros_like(p) if p.grad is None else p.grad for p in item.borrowed]
    return [tensor.detach().clone() for tensor in (*item.owned, *gradients)]


@dataclass(frozen=True)
class Cell:
    """
    What came of one objective on one row.

    :param encoders: that the model has and the objective is attached to
    :param trained: for each mode that is allowed, the encoders that the objective was seen to reach
    :param refused: for each other mode, why not
    """

    encoders: tuple[str, ...]
    trained: dict[Mode, tuple[str, ...]]
    refused: dict[Mode, str]


def make_objective(name: str) -> Objective:
    """
    :param name: of the registry
    :return: with its defaults, and shifts where it needs an augmentation
    """
    objective = OBJECTIVES[name]
    return objective(augment=RandomShift(2)) if objective.needs_augmentation else objective()


def watched(objective: str, mode: Mode, weight: float = 1.0) -> WatchedLoss:
    """
    :param objective: of the registry
    :param mode: of the callback
    :param weight: of the objective
    :return: with batches as small as the models
    """
    made = make_objective(objective)
    return WatchedLoss(made, mode, weight=weight, batch_size=2 if made.request.kind == "episodes" else 8)


def attempt(row: Row, objective: str, weight: float = 1.0) -> Cell:
    """
    Attach an objective in both modes and run a few updates.

    :param row: algorithm and policy
    :param objective: of the registry
    :param weight: of the objective
    """
    encoders: tuple[str, ...] = ()
    trained: dict[Mode, tuple[str, ...]] = {}
    refused: dict[Mode, str] = {}
    for mode in MODES:
        model = row.make()
        callback = watched(objective, mode, weight)
        try:
            model.learn(STEPS, callback=callback)
        except ValueError as error:
            if model.num_timesteps:  # what does not fit is refused before the first step; later it is a defect
                raise
            refused[mode] = str(error)
            continue
        encoders = tuple(callback.attachments)
        trained[mode] = tuple(name for name in encoders if name in callback.reached)
    return Cell(encoders, trained, refused)


def matrix_lines(rows: tuple[Row, ...] | None = None, objectives: tuple[str, ...] | None = None) -> Iterator[str]:
    """
    The matrix as text, line by line as it is found out.

    :param rows: None takes all that are installed
    :param objectives: None takes the whole registry
    """
    objectives = tuple(OBJECTIVES) if objectives is None else objectives
    notes: list[str] = []
    columns = "".join(f" {name:>{max(6, len(name))}}" for name in objectives)
    yield f"{'algorithm':13} {'policy':21} {'extractors':10} {'encoders trained':17}{columns}"
    for row in available_rows() if rows is None else rows:
        cells = {name: attempt(row, name) for name in objectives}
        encoders = max((cell.encoders for cell in cells.values()), key=len)
        marks = "".join(f" {_mark(row, cells[name], notes):>{max(6, len(name))}}" for name in objectives)
        yield f"{row.algorithm:13} {row.policy:21} {row.note or 'one':10} {', '.join(encoders) or '-':17}{marks}"
    yield "o: mode='own_optimizer', g: mode='add_gradient', -: refused"
    for i, note in enumerate(notes, 1):
        yield f"[{i}] {note}"
    if rows is None and not _has_contrib():
        yield f"{', '.join(_CONTRIB)} need sb3-contrib: pip install 'crl[contrib]'"


def _mark(row: Row, cell: Cell, notes: list[str]) -> str:
    """Letters of the modes that train every encoder; numbers of the notes on those that do not."""
    letters, numbers = "", []
    for mode, letter in zip(MODES, "og", strict=True):
        if mode in cell.refused:
            note = f"refused, {mode}: {cell.refused[mode]}"
        elif missed := [name for name in cell.encoders if name not in cell.trained[mode]]:
            note = f"{row.name}, {mode}: not reached: {', '.join(missed)}"
        else:
            letters += letter
            continue
        if note not in notes:
            notes.append(note)
        numbers.append(notes.index(note) + 1)
    return (letters or "-") + "".join(f"[{number}]" for number in numbers)
