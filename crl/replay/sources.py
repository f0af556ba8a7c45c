"""Where objectives get their data from: any SB3 replay buffer, or the last rollouts of an on-policy algorithm."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from crl.contract import Augmentation, DataRequest, SequenceBatch, ViewBatch
from crl.replay.frame_replay import FrameReplayBuffer
from crl.replay.transfer import to_device


class RawViews(NamedTuple):
    """Observations as stored, ``(batch, channels, height, width)``."""

    obs: np.ndarray


class RawSequences(NamedTuple):
    """Windows as stored; fields as :class:`crl.contract.SequenceBatch`."""

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    mask: np.ndarray
    weights: np.ndarray | None = None
    episode: np.ndarray | None = None
    time: np.ndarray | None = None


class DataSource(Protocol):
    """Answers requests for data. Draws from the generator that it is given, never from a global one."""

    def ready(self, request: DataRequest, batch_size: int) -> bool:
        """Whether there is enough to draw a batch from: as many transitions, or whole episodes, as it is to hold."""

    def draw(self, request: DataRequest, batch_size: int, rng: np.random.Generator) -> RawViews | RawSequences:
        """
        ``batch_size`` observations, windows or whole episodes, uniformly over what is stored, with replacement. Windows
        begin anywhere. An episode is whole when its reset and its end are both stored: one that the ring has begun to
        overwrite is not, nor is one that a further ``learn()`` broke off.
        """


class ReplaySource:
    """
    Draws from a replay buffer.

    :param buffer: FrameReplayBuffer, or SB3's ReplayBuffer, DictReplayBuffer or NStepReplayBuffer
    :param key: of the image in Dict observations
    """

    def __init__(self, buffer: ReplayBuffer, key: str | None = None) -> None:
        self.buffer = buffer
        self.key = key

    def ready(self, request: DataRequest, batch_size: int) -> bool:
        """
        See :class:`DataSource`.

        :raises ValueError: for sequences from a buffer that does not keep them
        """
        if request.kind != "views" and self.buffer.optimize_memory_usage:
            raise ValueError(
                "with optimize_memory_usage=True SB3's ReplayBuffer overwrites terminal observations, which sequences need: "
                "leave the option out, or use FrameReplayBuffer, which takes less memory still"
            )
        if request.kind == "episodes":
            return self.buffer.size() > 0 and len(self._whole_episodes()[0]) >= batch_size
        return self.buffer.size() * self.buffer.n_envs >= batch_size

    def draw(self, request: DataRequest, batch_size: int, rng: np.random.Generator) -> RawViews | RawSequences:
        """See :class:`DataSource`."""
        if request.kind == "episodes":
            first, last, env = self._whole_episodes()
            chosen = rng.integers(len(first), size=batch_size)
            raw = self._episodes(first[chosen], last[chosen], env[chosen], request.steps)
            # numbers of the episodes, and no other time within them than their first step
            return raw._replace(episode=chosen, time=np.zeros_like(chosen)) if request.origin else raw
        buffer = self.buffer
        steps = rng.integers(buffer.size(), size=batch_size)  # from the oldest transition on
        env = rng.integers(buffer.n_envs, size=batch_size)
        if request.kind == "views":
            return RawViews(self._observations(self._slots(steps), env))
        raw = self._windows(steps, env, request.steps)
        return raw._replace(episode=self._episode_of(steps, env), time=steps) if request.origin else raw

    def windows_at(self, slots: np.ndarray, env: np.ndarray, n_steps: int) -> RawSequences:
        """
        Windows that begin with certain transitions, which the agent learns from too.

        :param slots: ``(batch,)`` int, where they lie in the buffer
        :param env: ``(batch,)`` int
        :param n_steps: T
        """
        oldest = self.buffer.pos if self.buffer.full else 0
        return self._windows((slots - oldest) % self.buffer.buffer_size, env, n_steps)

    def _episode_of(self, steps: np.ndarray, env: np.ndarray) -> np.ndarray:
        """
        ``(batch,)`` int64, a number of the episode that each transition belongs to. SB3's buffers do not know of jumps: there,
        two episodes of which the first was broken off share a number.
        """
        buffer = self.buffer
        slots = self._slots(np.arange(buffer.size()))
        ends = buffer.dones[slots] > 0
        if isinstance(buffer, FrameReplayBuffer):
            ends |= buffer.cut[slots]
        before = np.cumsum(ends, axis=0) - ends  # ends before each transition
        return np.asarray(before[steps, env] * buffer.n_envs + env, dtype=np.int64)

    def _slots(self, logical: np.ndarray) -> np.ndarray:
        """Where transitions lie that are counted from the oldest one on."""
        return ((self.buffer.pos if self.buffer.full else 0) + logical) % self.buffer.buffer_size

    def _whole_episodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First and last transition, counted from the oldest, and environment of the episodes between two stored ends."""
        buffer = self.buffer
        ended = buffer.dones[self._slots(np.arange(buffer.size()))] > 0
        env, last = np.nonzero(ended.T)  # sorted by environment, then by time
        is_first_end = np.diff(env, prepend=-1) != 0
        first = np.where(is_first_end, 0, np.concatenate([[0], last[:-1] + 1])[: len(last)])
        # once the ring is full, the reset before a column's first end has most likely been overwritten
        whole = ~is_first_end | (not buffer.full)
        return first[whole], last[whole], env[whole]

    def _episodes(self, first: np.ndarray, last: np.ndarray, env: np.ndarray, limit: int) -> RawSequences:
        starts = first.copy()
        # One by one: without notes of jumps (SB3's buffers) all observations of an episode have to be compared
        for row, (begin, end) in enumerate(zip(first, last, strict=True)):
            jumps = np.flatnonzero(self._jumps(self._slots(np.arange(begin, end + 1))[None], env[row : row + 1])[0])
            if len(jumps):
                starts[row] += jumps[-1] + 1
        longest = int((last - starts).max()) + 1
        return self._windows(starts, env, min(longest, limit or longest))

    def _windows(self, start: np.ndarray, env: np.ndarray, n_steps: int) -> RawSequences:
        buffer = self.buffer
        logical = start[:, None] + np.arange(n_steps)  # (batch, T), counted from the oldest transition
        slots = self._slots(logical)
        columns = env[:, None]
        stored = logical < buffer.size()
        done = buffer.dones[slots, columns] > 0
        over = done | self._jumps(slots, env) | ~stored
        # step t counts when no step before it ended the episode, and it is stored itself
        before = np.concatenate([np.zeros((len(env), 1), bool), over[:, :-1]], axis=1)
        mask = ~np.logical_or.accumulate(before, axis=1) & stored
        last = mask.sum(axis=1) - 1  # the last step that counts; step 0 always does
        # beyond it everything repeats: nothing that is masked may look like data of another episode
        steps = np.minimum(np.arange(n_steps), last[:, None])
        slots = np.take_along_axis(slots, steps, axis=1)
        timeout = buffer.timeouts[slots, columns] > 0
        done = (buffer.dones[slots, columns] > 0) & mask
        return RawSequences(
            self._observation_sequence(slots, env, last),
            buffer.actions[slots, columns],
            np.where(mask, buffer.rewards[slots, columns], 0.0).astype(np.float32),
            done & ~timeout,
            done & timeout,
            mask,
        )

    def _observations(self, slots: np.ndarray, env: np.ndarray) -> np.ndarray:
        if isinstance(self.buffer, FrameReplayBuffer):
            return self.buffer.observations_at(slots, env)
        return self._array("observations")[slots, env]

    def _array(self, name: str) -> np.ndarray:
        stored: Any = getattr(self.buffer, name)
        return stored if self.key is None else stored[self.key]

    def _observation_sequence(self, slots: np.ndarray, env: np.ndarray, last: np.ndarray) -> np.ndarray:
        """``(batch, T + 1, ...)``: the first observation, and where each step led."""
        if isinstance(self.buffer, FrameReplayBuffer):
            steps = np.minimum(np.arange(slots.shape[1] + 1), last[:, None] + 1)
            return self.buffer.observations_at(slots[:, :1], env[:, None], steps)
        first = self._array("observations")[slots[:, 0], env][:, None]
        return np.concatenate([first, self._array("next_observations")[slots, env[:, None]]], axis=1)

    def _jumps(self, slots: np.ndarray, env: np.ndarray) -> np.ndarray:
        """Whether the next stored transition does not begin where this one led, though the episode is not over."""
        if isinstance(self.buffer, FrameReplayBuffer):
            return self.buffer.cut[slots, env[:, None]]
        # SB3's buffers do not know: compare. A jump looks like any other step until one sees both observations.
        jumps = np.zeros(slots.shape, dtype=bool)
        here, there = slots[:, :-1], slots[:, 1:]
        led, begins = self._array("next_observations")[here, env[:, None]], self._array("observations")[there, env[:, None]]
        jumps[:, :-1] = (led != begins).any(axis=tuple(range(2, led.ndim)))
        return jumps


class RolloutStore(ReplaySource):
    """
    The last transitions of an on-policy algorithm, with what its rollout buffer does not keep: true next observations, and
    rewards without the bootstrap value that SB3 adds at time limits.

    :param size: transitions, of all environments together
    :param space: image space
    :param action_space: of the model
    :param n_envs: number of environments
    :param key: of the image in Dict observations
    """

    def __init__(self, size: int, space: spaces.Box, action_space: spaces.Space, n_envs: int, key: str | None = None) -> None:
        super().__init__(ReplayBuffer(size, space, action_space, device="cpu", n_envs=n_envs))
        self.image_key = key

    def add_step(self, model: BaseAlgorithm, step: dict[str, Any]) -> None:
        """
        :param model: whose ``_last_obs`` is the observation that was acted on
        :param step: the local variables of SB3's ``collect_rollouts``
        """
        image = (lambda obs: obs) if self.image_key is None else (lambda obs: obs[self.image_key])
        next_obs = np.array(image(step["new_obs"]))
        for env, (done, info) in enumerate(zip(step["dones"], step["infos"], strict=True)):
            if done and info.get("terminal_observation") is not None:
                next_obs[env] = image(info["terminal_observation"])
        normalizer = model.get_vec_normalize_env()
        rewards = step["rewards"] if normalizer is None else normalizer.get_original_reward()
        # What the environment got: SB3 clips the policy's actions, or, where the policy squashes them, scales them to the
        # bounds. MaskablePPO, which has no Box actions, does neither.
        actions = np.asarray(step.get("clipped_actions", step["actions"]))
        if isinstance(model.action_space, spaces.Box):
            # as off-policy buffers hold them: scaled to [-1, 1] (SB3 refuses infinite bounds)
            low, high = model.action_space.low, model.action_space.high
            actions = 2.0 * (actions - low) / (high - low) - 1.0
        self.buffer.add(image(model._last_obs), next_obs, actions, rewards, step["dones"], step["infos"])


def make_batch(
    raw: RawViews | RawSequences,
    request: DataRequest,
    device: th.device,
    augment: Augmentation | None,
    generator: th.Generator | None,
) -> ViewBatch | SequenceBatch:
    """
    Move a raw batch to the device and augment it there.

    :param raw: from :meth:`DataSource.draw`
    :param request: what it answers
    :param device: of the model
    :param augment: of the views; None passes them as they are
    :param generator: of the augmentation and the objective, on ``device``
    """
    obs = to_device(raw.obs, device)
    if isinstance(raw, RawViews):
        views = tuple(obs if augment is None else augment(obs, generator) for _ in range(request.views))
        return ViewBatch(views, generator)
    actions = to_device(raw.actions, device)
    return SequenceBatch(
        obs,
        actions.float() if actions.is_floating_point() else actions.long(),
        to_device(raw.rewards, device),
        to_device(raw.terminated, device),
        to_device(raw.truncated, device),
        to_device(raw.mask, device),
        augment,
        generator,
        *(None if extra is None else to_device(extra, device) for extra in (raw.weights, raw.episode, raw.time)),
    )
