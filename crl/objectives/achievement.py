"""Achievement distillation: which sub-goal comes next within an episode, and which are the same in other episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th
from torch import nn

from crl.contract import Encoder, Metrics, Spaces
from crl.losses.checks import check_number, check_temperature, unit_rows
from crl.losses.one_negative import one_negative_info_nce
from crl.networks import ActionVectors, pre_norm_dense, scale_rows_
from crl.objectives.goal_matching import MatchedPairs, match_goals
from crl.objectives.goal_trajectory import GoalTrajectory
from crl.objectives.windows import device_of


def goal_representation(before: th.Tensor, after: th.Tensor) -> th.Tensor:
    """
    What reaching a sub-goal changed, as a direction: ``normalize(after - before)``.

    :param before: ``(batch, features_dim)``, the encoder's output for the frames before
    :param after: ``(batch, features_dim)``, for the frames after
    :return: ``(batch, features_dim)``, rows of length 1 (zeros where nothing changed)
    """
    return unit_rows(after - before)


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """LayerNorm, linear without bias, ReLU, linear; weights begin as those of the authors' encoder."""
    last = nn.Linear(hidden, outputs)
    scale_rows_(last.weight, 1.0)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*pre_norm_dense(inputs, hidden, norm=1.4), last)


@dataclass
class Contrast:
    """
    One of the two losses, and what the encoder made of the batch on the way, for further losses on the same pass.

    :param loss: scalar with graph
    :param metrics: detached scalars
    :param trajectory: that ``steps`` are of
    :param steps: ``(n,)`` int64
    :param latents: ``(n, features_dim)`` with graph, encoder's output for these steps
    """

    loss: th.Tensor
    metrics: Metrics
    trajectory: GoalTrajectory
    steps: th.Tensor
    latents: th.Tensor


class AchievementDistillation(nn.Module):
    """
    The two contrasts of "Discovering Hierarchical Achievements in Reinforcement Learning via Contrastive Learning" (Moon et
    al. 2023, arXiv:2307.03486), as the authors' code computes them.

    A *goal* is what the encoder's output changed by when a sub-goal was reached, :func:`goal_representation`. Within an
    episode, a state with its action should tell the goal that comes next from the one that another step leads to
    (:meth:`prediction`). Between episodes, goals that optimal transport has matched should be alike (:meth:`find_pairs`,
    :meth:`matching`).

    It is no :class:`crl.contract.Objective`: batches of a replay do not tell which sub-goals were reached, and a pass over
    whole episodes (:class:`crl.objectives.goal_trajectory.GoalTrajectory`) has many optimiser steps in it.
    :class:`crl.callbacks.AchievementPhases` has the schedule.

    :param temperature: of both contrasts, 0.1
    :param regularisation: of the transport, 0.05; distances lie in 0..2
    :param threshold: of the transport plan's entries, 0.5: less is no match
    :param hidden_dim: width of the heads; None takes the encoder's
    :raises ValueError: for values out of range
    """

    def __init__(
        self, temperature: float = 0.1, regularisation: float = 0.05, threshold: float = 0.5, hidden_dim: int | None = None
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        check_number("regularisation", regularisation, 0.0, strict=True)
        check_number("threshold", threshold, 0.0, 1.0)
        if hidden_dim is not None and hidden_dim < 1:
            raise ValueError(f"AchievementDistillation(hidden_dim={hidden_dim}): at least 1, or None for the encoder's width")
        self.temperature = temperature
        self.regularisation = regularisation
        self.threshold = threshold
        self.hidden_dim = hidden_dim
        self.memory_dim = 0
        # in a tuple, so that the agent's weights are neither saved nor stepped twice
        self._encoder: tuple[Encoder, ...] = ()

    @property
    def encoder(self) -> Encoder:
        """The agent's encoder."""
        if not self._encoder:
            raise RuntimeError("AchievementDistillation is not built yet: it is built when it is attached to a model")
        return self._encoder[0]

    @property
    def is_built(self) -> bool:
        """Whether :meth:`build` was called."""
        return bool(self._encoder)

    def bind(self, encoder: Encoder) -> None:
        """
        :param encoder: the agent's, of the same width as the one it was built for (a model that was loaded has a new one)
        """
        self._encoder = (encoder,)

    def build(self, encoder: Encoder, spaces: Spaces, memory_dim: int = 0) -> None:
        """
        Make the heads, on the encoder's device. Draws from torch's global generator.

        :param encoder: the agent's
        :param spaces: observation and action space
        :param memory_dim: width of the policy's memory input; 0: it has none
        """
        self.bind(encoder)
        self.memory_dim = memory_dim
        width, device = encoder.features_dim, device_of(encoder)
        hidden = self.hidden_dim or width
        self.actions = ActionVectors(spaces.action)
        self.action_head = _two_layers(self.actions.dim, hidden, 2 * width).to(device)
        self.state_action_head = _two_layers(width + memory_dim, hidden, width).to(device)

    # ---- representations

    def encode(self, trajectory: GoalTrajectory, steps: th.Tensor) -> th.Tensor:
        """
        :param trajectory: whose frames
        :param steps: ``(n,)`` int64
        :return: ``(n, features_dim)``
        """
        return self.encoder(trajectory.obs[steps].to(self._device))

    def state_actions(self, trajectory: GoalTrajectory, steps: th.Tensor, latents: th.Tensor) -> th.Tensor:
        """
        The action scales and shifts what the encoder sees; with the memory beside it, two layers make a direction of it.

        :param trajectory: whose actions and memory
        :param steps: ``(n,)`` int64
        :param latents: ``(n, features_dim)``, encoder's output for these steps
        :return: ``(n, features_dim)``, rows of length 1
        :raises ValueError: when there is a memory and it was built without, or the other way round
        """
        gamma, beta = self.action_head(self.actions(trajectory.actions[steps].to(latents.device))).chunk(2, dim=1)
        z = (1.0 + gamma) * latents + beta
        given = 0 if trajectory.memory is None else trajectory.memory.shape[1]
        if given != self.memory_dim:
            raise ValueError(f"built for a memory of width {self.memory_dim} (0: none), the trajectory's has {given}")
        if trajectory.memory is not None:
            z = th.cat([z, trajectory.memory[steps].to(z.device)], dim=1)
        return unit_rows(self.state_action_head(z))

    def goals(self, trajectory: GoalTrajectory) -> th.Tensor:
        """
        :param trajectory: with at least one goal
        :return: ``(m, features_dim)``, all its goals, in order
        """
        return self.goals_of([trajectory])

    def goals_of(self, trajectories: list[GoalTrajectory]) -> th.Tensor:
        """
        :param trajectories: each with at least one goal
        :return: ``(sum of their m, features_dim)``, in order, in one pass through the encoder
        """
        before = [trajectory.obs[trajectory.goal_steps] for trajectory in trajectories]
        after = [trajectory.obs[trajectory.goal_steps + 1] for trajectory in trajectories]
        latents = self.encoder(th.cat([*before, *after]).to(self._device))
        return goal_representation(*latents.chunk(2))

    # ---- within an episode

    def prediction(self, trajectory: GoalTrajectory, steps: th.Tensor, others: th.Tensor) -> Contrast:
        """
        The goal that comes after a step should be more like the step's state and action than like those of another step; after
        the last goal, "no goal comes": minus the encoder's output for the last frame. Gradient flows through states and
        actions alone. Every frame is encoded once, whatever it is needed for.

        :param trajectory: with at least one goal
        :param steps: ``(n,)`` int64, distinct
        :param others: ``(n,)`` int64, for each the step that it is told from
        :return: loss, and latents of ``steps`` followed by those of ``others``
        """
        both = th.cat([steps, others])
        distinct, place = th.unique(both, return_inverse=True)
        latents = self.encode(trajectory, distinct)
        psi = self.state_actions(trajectory, distinct, latents)
        wanted = trajectory.next_goals(steps)
        anchors = self._anchors(trajectory, wanted, distinct, latents)
        here = place.to(latents.device)
        positive, negative = psi[here].chunk(2)
        loss = one_negative_info_nce(anchors, positive, negative, self.temperature)
        with th.no_grad():
            metrics = {
                "prediction_loss": loss.detach(),
                "prediction_accuracy": _accuracy(anchors, positive, negative),
            }
        return Contrast(loss, metrics, trajectory, both, latents[here])

    @th.no_grad()
    def _anchors(self, trajectory: GoalTrajectory, wanted: th.Tensor, known: th.Tensor, latents: th.Tensor) -> th.Tensor:
        """
        Of the goals that are wanted (m: none comes), each encoded once, with the frames that are known already.

        :param wanted: ``(n,)`` int64 in 0..m
        :param known: ``(k,)`` int64, sorted steps whose latents are there
        :param latents: ``(k, features_dim)``
        """
        goals, place = th.unique(wanted, return_inverse=True)
        u = trajectory.goal_steps[goals[goals < trajectory.n_goals]]
        last = th.full((1,), len(trajectory) - 1)
        frames = th.cat([u, u + 1, last])
        missing = frames[~th.isin(frames, known)].unique()
        lookup = th.full((len(trajectory),), -1)
        lookup[known] = th.arange(len(known))
        lookup[missing] = len(known) + th.arange(len(missing))
        table = latents.detach()
        if len(missing):
            table = th.cat([table, self.encode(trajectory, missing)])
        before, after, end = table[lookup[frames].to(table.device)].split([len(u), len(u), 1])
        none_comes = goal_representation(end, th.zeros_like(end))
        return th.cat([goal_representation(before, after), none_comes])[place.to(table.device)]

    # ---- between episodes

    def find_pairs(self, source: th.Tensor, targets: th.Tensor, sizes: list[int]) -> MatchedPairs:
        """See :func:`crl.objectives.goal_matching.match_goals`."""
        return match_goals(source.detach(), targets, sizes, self.regularisation, self.threshold)

    def matching(
        self, source: th.Tensor, targets: th.Tensor, pairs: MatchedPairs, negatives: th.Tensor
    ) -> tuple[th.Tensor, Metrics]:
        """
        A source's goal should be more like its match than like another goal of the match's episode. Gradient flows through the
        source alone.

        :param source: ``(m, features_dim)`` with graph
        :param targets: ``(n, features_dim)``, goals of all targets
        :param pairs: at least one
        :param negatives: ``(pairs,)`` int64, rows of ``targets``
        :return: scalar, and metrics
        """
        targets = targets.detach()
        anchor, positive, negative = source[pairs.source], targets[pairs.target], targets[negatives]
        loss = one_negative_info_nce(anchor, positive, negative, self.temperature)
        with th.no_grad():
            metrics = {"matching_loss": loss.detach(), "matching_similarity": (anchor * positive).sum(1).mean()}
        return loss, metrics

    @property
    def _device(self) -> th.device:
        return device_of(self.encoder)


def draw_negatives(pairs: MatchedPairs, sizes: list[int], rng: np.random.Generator) -> th.Tensor:
    """
    For each pair a goal of the match's own episode, uniformly; it may be the match itself, as in the authors' code.

    :param pairs: of :func:`crl.objectives.goal_matching.match_goals`
    :param sizes: goals of each target
    :param rng: draws
    :return: ``(pairs,)`` int64, rows among the goals of all targets
    """
    owner = pairs.owner.cpu().numpy()
    counts = np.array(sizes)
    first = np.cumsum(counts) - counts
    drawn = first[owner] + (rng.random(len(owner)) * counts[owner]).astype(np.int64)
    return th.as_tensor(drawn, device=pairs.target.device)


def _accuracy(anchor: th.Tensor, positive: th.Tensor, negative: th.Tensor) -> th.Tensor:
    """Share of rows whose positive is the nearer one."""
    return ((anchor * positive).sum(1) > (anchor * negative).sum(1)).float().mean()
