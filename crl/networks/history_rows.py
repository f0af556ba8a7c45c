"""What an agent that models others keeps of each step: chosen parts of its own observation, and what it did last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from crl.networks.actions import ActionVectors

#: distance, after scaling, of a thing that is gone
_FAR = 2.0


class HistoryRows(nn.Module):
    """
    One row for each observation ``o_t`` of an episode: columns of ``o_t``, relations between positions in it, and the ego
    agent's last action ``a_{t-1}`` (one-hot where it is discrete, zeros at t = 0). No reward, nothing of the others but what
    the ego agent sees. There is nothing to learn in here.

    Contrast between episodes is solved by whatever is constant in an episode and differs between episodes: where landmarks or
    food lie, levels, colours. An encoder that sees these learns them instead of behaviour. So columns are chosen, and what
    others *do* can be put forward: changes of columns, and how others move relative to the ego agent and to things.

    :param observation_space: ``(n,)``
    :param action_space: of the ego agent
    :param columns: of the observation, taken as they are; None: all, or none if ``others`` are named
    :param differences: factor of the columns' changes since the last step, which follow them; 0: no changes
    :param ego: two columns: where the ego agent is
    :param others: two columns for each other agent: where it is. Each gives its position relative to the ego agent, its last
        step, and its distances to all things, sorted.
    :param things: two columns for each thing
    :param gone: value of the columns of what is no longer there, or out of sight: a thing's distance becomes that of a far
        one; another agent's position and step become zeros, and all its distances far ones
    :param scale: factor of relations
    :param relative: the columns of others and things tell where they are as seen from the ego agent. Rows are the same: steps
        of others are still their own.
    :raises ValueError: for other spaces, and for columns that there are not
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        columns: Sequence[int] | None = None,
        differences: float = 0.0,
        ego: Sequence[int] = (),
        others: Sequence[int] = (),
        things: Sequence[int] = (),
        gone: float = -1.0,
        scale: float = 1.0,
        relative: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(f"histories are kept of observations (n,), this agent's are {observation_space}")
        self.observation_dim = observation_space.shape[0]
        chosen = ([] if others else list(range(self.observation_dim))) if columns is None else list(columns)
        for name, part in {"columns": chosen, "ego": ego, "others": others, "things": things}.items():
            wrong = [column for column in part if not 0 <= column < self.observation_dim]
            if wrong:
                raise ValueError(f"{name}={list(part)}: observations have columns 0 to {self.observation_dim - 1}")
        if len(ego) not in (0, 2) or len(others) % 2 or len(things) % 2 or (others and not ego):
            raise ValueError(
                f"ego={list(ego)}, others={list(others)}, things={list(things)}: positions are pairs of columns, and others "
                "are seen relative to the ego agent, whose two columns are needed"
            )
        if not chosen and not others:
            raise ValueError("columns=[] and no others: nothing is left to keep of a step")
        self.actions = ActionVectors(action_space)
        self.columns = chosen
        self.differences = differences
        self.ego, self.others, self.things = list(ego), list(others), list(things)
        self.gone = gone
        self.scale = scale
        self.relative = relative
        n_others, n_things = len(others) // 2, len(things) // 2
        #: width of a row
        self.dim = len(chosen) * (2 if differences else 1) + n_others * (4 + n_things) + self.actions.dim
        zeros = np.zeros((1, self.actions.in_dim), dtype=np.float32)
        #: ``(1, action_dim)``, an allowed action to stand where there was none
        self.no_action = np.array([self.actions.starts], dtype=np.int64) if self.actions.sizes else zeros
        box = action_space if isinstance(action_space, spaces.Box) else None
        self._bounds = None if box is None else (box.low.ravel(), box.high.ravel())

    def stored_actions(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: ``(n, ...)`` as the environment gets them
        :return: ``(n, action_dim)``: int64, or float32 scaled to [-1, 1], as :class:`crl.contract.SequenceBatch` has them
        """
        flat = np.asarray(actions).reshape(len(actions), -1)
        if self._bounds is None:
            return flat.astype(np.int64) if self.actions.sizes else flat.astype(np.float32)
        low, high = self._bounds
        return (2.0 * (flat - low) / (high - low) - 1.0).astype(np.float32)

    def step(self, obs: th.Tensor, previous: th.Tensor, actions: th.Tensor, first: th.Tensor) -> th.Tensor:
        """
        Rows of single steps.

        :param obs: ``(n, observation_dim)`` float32
        :param previous: likewise, of the step before; of no meaning where ``first``
        :param actions: ``(n, action_dim)`` that led from one to the other; of no meaning where ``first``, but allowed ones
        :param first: ``(n,)`` bool, the observation is that of a reset
        :return: ``(n, dim)`` float32
        """
        previous = th.where(first[:, None], obs, previous)
        parts = [obs[:, self.columns]]
        if self.differences:
            parts.append(self.differences * (obs[:, self.columns] - previous[:, self.columns]))
        if self.others:
            parts.append(self.scale * self._relations(obs, previous))
        parts.append(self.actions(actions).masked_fill(first[:, None], 0.0))
        return th.cat(parts, dim=1)

    def _relations(self, obs: th.Tensor, previous: th.Tensor) -> th.Tensor:
        others = self._places(obs, self.others)  # (n, others, 2)
        unseen = self._gone(obs, self.others)[:, :, None]
        unsure = unseen | self._gone(previous, self.others)[:, :, None]
        position, step = others - obs[:, None, self.ego], others - self._places(previous, self.others)
        parts = [position.masked_fill(unseen, 0.0), step.masked_fill(unsure, 0.0)]
        if self.things:
            things = self._places(obs, self.things)
            distance = (others[:, :, None] - things[:, None]).abs().sum(dim=3)  # (n, others, things)
            gone = self._gone(obs, self.things)[:, None] | unseen
            parts.append(distance.masked_fill(gone, _FAR / self.scale).sort(dim=2).values)
        return th.cat(parts, dim=2).flatten(1)

    def _gone(self, obs: th.Tensor, columns: list[int]) -> th.Tensor:
        """``(n, places)`` bool."""
        return (obs[:, columns].unflatten(1, (-1, 2)) == self.gone).all(dim=2)

    def _places(self, obs: th.Tensor, columns: list[int]) -> th.Tensor:
        places = obs[:, columns].unflatten(1, (-1, 2))
        return places + obs[:, None, self.ego] if self.relative else places

    def forward(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        Rows of whole episodes.

        :param obs: ``(batch, T + 1, observation_dim)`` float32
        :param actions: ``(batch, T, action_dim)``
        :return: ``(batch, T + 1, dim)`` float32
        """
        batch, length = obs.shape[:2]
        previous = th.cat([obs[:, :1], obs[:, :-1]], dim=1)
        none = th.as_tensor(self.no_action, device=actions.device, dtype=actions.dtype)
        before = th.cat([none.expand(batch, 1, -1), actions], dim=1)
        first = (th.arange(length, device=obs.device) == 0).repeat(batch)
        rows = self.step(obs.flatten(0, 1), previous.flatten(0, 1), before.flatten(0, 1), first)
        return rows.view(batch, length, self.dim)
