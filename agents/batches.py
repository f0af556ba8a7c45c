"""Batches of an off-policy agent that shares its views with an objective."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from crl.callbacks.attachment import isolated_random
from crl.contract import Augmentation, Encoder, Objective, SequenceBatch, Spaces, ViewBatch
from crl.replay import FrameReplayBuffer, ReplaySource, make_batch


@dataclass
class PixelBatch:
    """
    One batch of transitions.

    :param raw: ``(batch, channels, height, width)`` uint8, observations as stored
    :param obs: ``(online_views * batch, ...)``, the same, augmented, one view after another: what the critic sees. The first
        view is what the actor sees, and the objective's anchor.
    :param next_obs: ``(target_views * batch, ...)``, augmented by draws of their own
    :param actions: ``(batch, action_dim)`` in [-1, 1]
    :param rewards: ``(batch, 1)``
    :param dones: ``(batch, 1)``, 1 where nothing follows (time limits do not count)
    :param discounts: ``(batch, 1)`` of n-step returns, or the one discount of all
    """

    raw: th.Tensor
    obs: th.Tensor
    next_obs: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    dones: th.Tensor
    discounts: th.Tensor | float


@contextmanager
def _unaugmented(buffer: ReplayBuffer) -> Iterator[Augmentation | None]:
    augment: Augmentation | None = getattr(buffer, "augment", None)
    if augment is None:
        yield None
        return
    buffer.augment = None  # type: ignore[attr-defined]
    try:
        yield augment
    finally:
        buffer.augment = augment  # type: ignore[attr-defined]


def draw_batch(
    buffer: ReplayBuffer,
    batch_size: int,
    gamma: float,
    env: VecNormalize | None = None,
    online_views: int = 1,
    target_views: int = 1,
) -> PixelBatch:
    """
    What ``buffer.sample(batch_size)`` returns, draw for draw, with the images before augmentation as well: further views of
    the same observations are made from them.

    :param buffer: a replay buffer of images
    :param batch_size: transitions
    :param gamma: discount where the buffer has none of its own
    :param env: for the normalisation of rewards
    :param online_views: views of each observation; more than one need a buffer that augments
    :param target_views: views of each next observation
    """
    with _unaugmented(buffer) as augment:
        data = buffer.sample(batch_size, env=env)
    obs, next_obs = data.observations, data.next_observations
    if augment is not None:
        assert isinstance(buffer, FrameReplayBuffer)
        first, first_next = augment(obs, buffer.generator), augment(next_obs, buffer.generator)
        obs = _views(first, data.observations, augment, buffer.generator, online_views)
        next_obs = _views(first_next, data.next_observations, augment, buffer.generator, target_views)
    discounts = gamma if data.discounts is None else data.discounts
    return PixelBatch(data.observations, obs, next_obs, data.actions, data.rewards, data.dones, discounts)


def _views(first: th.Tensor, raw: th.Tensor, augment: Augmentation, generator: th.Generator, count: int) -> th.Tensor:
    return first if count == 1 else th.cat([first, *(augment(raw, generator) for _ in range(count - 1))])


def build_inside(
    blueprint: Objective, encoder: Encoder, spaces: Spaces, buffer: ReplayBuffer, device: th.device, seed: int
) -> tuple[Objective, ObjectiveData]:
    """
    An agent's own copy of an objective, built on its encoder, and what answers its requests.

    :param blueprint: as the user passed it in
    :param encoder: the agent's, as objectives see it
    :param spaces: the agent's
    :param buffer: the agent's
    :param device: of the agent
    :param seed: of the objective's draws; the agent's own random streams do not depend on what it draws for its heads
    :raises ValueError: when nothing makes the views that the objective contrasts
    """
    objective = copy.deepcopy(blueprint)
    data = ObjectiveData(objective, buffer, seed)
    with isolated_random(device, seed):
        objective.build(encoder, spaces)
    return objective.to(device), data


class ObjectiveData:
    """
    Answers an objective's request at one update of an agent.

    Everything that is drawn for update n comes from a generator seeded by the run's seed and n: nothing needs saving, and
    the agent's own random streams are not touched.

    :param objective: whose request is answered
    :param buffer: the agent's
    :param seed: of the run
    :raises ValueError: when nothing makes the views that the objective contrasts
    """

    def __init__(self, objective: Objective, buffer: ReplayBuffer, seed: int) -> None:
        self.objective = objective
        self.buffer = buffer
        self.seed = seed
        self.augment: Augmentation | None = objective.augment or getattr(buffer, "augment", None)
        if self.augment is None and objective.needs_augmentation:
            raise ValueError(
                f"{type(objective).__name__} contrasts augmented views and nothing augments: pass "
                "replay_buffer_kwargs=dict(augment=RandomShift(4)), or set objective_weight=0"
            )

    @property
    def shares_anchor(self) -> bool:
        """Whether the critic's view of the observations can be the objective's first one."""
        return self.objective.request.kind == "views" and self.objective.augment is None

    def __call__(self, batch: PixelBatch, update: int) -> ViewBatch | SequenceBatch:
        """
        :param batch: of this update
        :param update: its number
        """
        request = self.objective.request
        streams, generator = self._streams(batch.raw.device, update)
        if request.kind == "views":
            anchor = (batch.obs[: len(batch.raw)],) if self.shares_anchor else ()
            further = request.views - len(anchor)
            return ViewBatch((*anchor, *(self._view(batch.raw, generator) for _ in range(further))), generator)
        source: Any = ReplaySource(self.buffer)
        raw = source.draw(request, len(batch.raw), np.random.default_rng(streams))
        return make_batch(raw, request, batch.raw.device, self.augment, generator)

    def beginning_with(
        self, slots: np.ndarray, env: np.ndarray, weights: th.Tensor | None, device: th.device, update: int
    ) -> SequenceBatch:
        """
        Windows that begin with the transitions that the agent itself learns from at this update.

        :param slots: ``(batch,)`` int, where they lie in the buffer
        :param env: ``(batch,)`` int
        :param weights: ``(batch,)``, importance weights of the draw
        :param device: of the batch
        :param update: its number
        """
        request = self.objective.request
        raw = ReplaySource(self.buffer).windows_at(slots, env, request.steps)
        batch = make_batch(raw, request, device, self.augment, self._streams(device, update)[1])
        assert isinstance(batch, SequenceBatch)
        batch.weights = weights
        return batch

    def _streams(self, device: th.device, update: int) -> tuple[np.random.SeedSequence, th.Generator]:
        streams = np.random.SeedSequence((self.seed, update))
        generator = th.Generator(device)
        generator.manual_seed(int(streams.generate_state(1, np.uint64)[0] >> 1))
        return streams, generator

    def _view(self, images: th.Tensor, generator: th.Generator) -> th.Tensor:
        return images if self.augment is None else self.augment(images, generator)
