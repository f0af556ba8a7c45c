"""What the floors of crl say to each other: requests for data, batches, encoders and objectives.

An objective *asks* for data (:class:`DataRequest`) and gets a batch; it never fetches. Whoever holds the data
(a replay buffer, an on-policy store) answers with a :class:`ViewBatch` or a :class:`SequenceBatch`. Nothing here
knows of Stable-Baselines3, so an objective written against this module alone works on every algorithm.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch as th
from gymnasium import spaces
from torch import nn

#: An augmentation: ``(batch, channels, height, width)`` uint8 or float in 0..255, and a generator, to the same range.
Augmentation = Callable[[th.Tensor, th.Generator | None], th.Tensor]
Metrics = dict[str, th.Tensor]


def check_augmentation(augment: Augmentation | None) -> None:
    """:raises ValueError: for what cannot be called on images, a class instead of an instance above all"""
    if augment is None or (callable(augment) and not isinstance(augment, type)):
        return
    if isinstance(augment, type):
        raise ValueError(f"augment={augment.__name__} is a class: pass an instance, {augment.__name__}(...)")
    raise ValueError(f"augment={augment!r}: pass an augmentation of crl.augment, for example RandomShift(4)")


class Spaces(NamedTuple):
    """The spaces an objective is built for; ``observation`` is the image space alone, channels first."""

    observation: spaces.Box
    action: spaces.Space


@dataclass(frozen=True)
class DataRequest:
    """
    What one loss evaluation needs.

    :param kind: ``"views"``: independently augmented views of single observations; ``"sequence"``: ``steps``
        consecutive steps of one episode; ``"episodes"``: whole episodes, from reset to end
    :param views: number of views of each observation (``kind="views"``)
    :param steps: T, the number of transitions in a row (``kind="sequence"``); of longer episodes only so many steps from the
        reset on, 0: all (``kind="episodes"``)
    :param origin: whether windows tell which episode they are from, and from when on (:attr:`SequenceBatch.episode`,
        :attr:`SequenceBatch.time`); the price is a look at all stored ends of episodes
    :raises ValueError: when the numbers do not fit the kind
    """

    kind: Literal["views", "sequence", "episodes"] = "views"
    views: int = 2
    steps: int = 0
    origin: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("views", "sequence", "episodes"):
            raise ValueError(f"DataRequest(kind={self.kind!r}): choose 'views', 'sequence' or 'episodes'")
        if self.kind == "views" and self.views < 1:
            raise ValueError(f"DataRequest(views={self.views}): an objective on views needs at least 1")
        if self.kind == "sequence" and self.steps < 1:
            raise ValueError(f"DataRequest(kind='sequence', steps={self.steps}): steps must be at least 1")
        if self.kind == "episodes" and self.steps < 0:
            raise ValueError(f"DataRequest(kind='episodes', steps={self.steps}): a limit of at least 1, or 0 for none")
        if self.origin and self.kind == "views":
            raise ValueError("DataRequest(kind='views', origin=True): single observations do not tell where they are from")


@dataclass
class ViewBatch:
    """
    Views of the same ``batch`` observations; row i of every view shows observation i.

    :param views: each ``(batch, channels, height, width)``, uint8 or float32, values 0..255, on the agent's device.
        They are drawn independently; ``views[0]`` is the anchor.
    :param generator: for further draws of the objective, so that the agent's own random streams are not touched
    """

    views: tuple[th.Tensor, ...]
    generator: th.Generator | None = None

    def __len__(self) -> int:
        return self.views[0].shape[0]


@dataclass
class SequenceBatch:
    """
    ``batch`` windows of T consecutive steps; or ``batch`` whole episodes, T being the length of the longest.
    ``obs[:, t + 1]`` is what step t led to (the true terminal observation, never the one after a reset). Where
    ``mask[:, t]`` is False, step t lies after the end of the episode (or beyond the data): its action, reward, flags and
    ``obs[:, t + 1]`` are padding and must not count. ``obs[:, 0]`` always counts.

    :param obs: ``(batch, T + 1, channels, height, width)``, uint8, values 0..255, not augmented (see :meth:`view`)
    :param actions: ``(batch, T, action_dim)``; float32 in [-1, 1] (Box) or int64 (Discrete: ``action_dim`` is 1)
    :param rewards: ``(batch, T)`` float32, as the environment gave them (no bootstrap value added)
    :param terminated: ``(batch, T)`` bool, the episode ended in a terminal state
    :param truncated: ``(batch, T)`` bool, the episode was cut off (time limit)
    :param mask: ``(batch, T)`` bool, step t belongs to the window's first episode
    :param augment: the augmentation in force (the objective's own, else the buffer's), None when there is none
    :param generator: for every draw of the objective
    :param weights: ``(batch,)`` float32, importance weights of a prioritised buffer; None: all count alike
    :param episode: ``(batch,)`` int64, equal for windows of the same episode; None unless ``DataRequest(origin=True)``
    :param time: ``(batch,)`` int64, when the window begins; differences within an episode are steps. None as ``episode``
    """

    obs: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    terminated: th.Tensor
    truncated: th.Tensor
    mask: th.Tensor
    augment: Augmentation | None = None
    generator: th.Generator | None = None
    weights: th.Tensor | None = None
    episode: th.Tensor | None = None
    time: th.Tensor | None = None

    def __len__(self) -> int:
        return self.obs.shape[0]

    @property
    def steps(self) -> int:
        """T, the number of transitions."""
        return self.actions.shape[1]

    def view(self, t: int) -> th.Tensor:
        """
        A freshly augmented view of the observations at step t; two calls draw independently.

        :param t: 0..T
        :return: ``(batch, channels, height, width)``, values 0..255
        """
        obs = self.obs[:, t]
        return obs if self.augment is None else self.augment(obs, self.generator)


@dataclass
class EpisodeBatch(SequenceBatch):
    """
    ``batch`` whole episodes with others, T being the length of the longest. Observations are vectors, float32,
    ``(batch, T + 1, n)``; of an agent that sees images, what its encoder makes of them. What the environment tells of the
    others is None unless an objective asked for it.

    :param partner_id: ``(batch,)`` int64, which of the pool it was, from 0 on
    :param partner_actions: ``(batch, T, others)`` int64, what they did at step t
    :param partner_observations: ``(batch, T + 1, m)`` float32, what they saw when the ego agent saw ``obs[:, t]``
    """

    partner_id: th.Tensor | None = None
    partner_actions: th.Tensor | None = None
    partner_observations: th.Tensor | None = None


@runtime_checkable
class Encoder(Protocol):
    """
    What an objective sees of the agent's encoder. Call it on observations ``(batch, channels, height, width)`` in
    0..255 (uint8 or float): scaling happens inside, exactly as it does when the agent acts.
    It can be deep-copied (for an EMA copy); the copy shares nothing with the original.
    """

    features_dim: int

    @property
    def target(self) -> Encoder | None:
        """The agent's own target encoder (that of SAC's target critic), None where there is none."""

    def __call__(self, obs: th.Tensor) -> th.Tensor:
        """``(batch, features_dim)`` float32."""

    def feature_map(self, obs: th.Tensor) -> th.Tensor:
        """The last convolution's output, ``(batch, filters, height', width')`` float32."""

    def forward_head(self, feature_map: th.Tensor) -> th.Tensor:
        """What follows the last convolution: a feature map to ``(batch, features_dim)`` float32."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """What moves when the encoder learns."""


class Objective(nn.Module):
    """
    A representation objective. Subclasses set ``request``, make their heads in :meth:`build` and write :meth:`loss`.

    Heads and EMA copies are ordinary submodules: ``parameters()`` with ``requires_grad`` are trained by whoever owns the
    objective and ``state_dict()`` is saved. The online encoder belongs to the agent: keep it through :attr:`encoder`,
    which registers nothing.

    :param augment: the objective's own augmentation; None takes that of the replay buffer
    :raises ValueError: for an augmentation that cannot be called
    """

    request: DataRequest = DataRequest()
    #: False for objectives that make sense on plain pixels (no error when neither they nor the buffer augment)
    needs_augmentation: bool = True
    #: observations or windows in a batch, where the agent's own batch size makes no sense; None: the agent's
    batch_size: int | None = None
    #: how a callback lets it join the agent's loss unless told: see ``mode`` and ``weight`` of
    #: :class:`crl.callbacks.AuxiliaryLossCallback`. Losses that a constant encoder satisfies say ``"add_gradient"``: an
    #: optimiser of their own scales even their smallest gradient up to a full step, until nothing but the constant is left.
    callback_mode: Literal["own_optimizer", "add_gradient"] = "own_optimizer"
    callback_weight: float = 1.0

    def __init__(self, augment: Augmentation | None = None) -> None:
        super().__init__()
        check_augmentation(augment)
        self.augment = augment
        self._encoder: tuple[Encoder, ...] = ()

    @property
    def name(self) -> str:
        """How metrics name it: the class name in lower case."""
        return type(self).__name__.lower()

    @property
    def encoder(self) -> Encoder:
        """The agent's online encoder."""
        if not self._encoder:
            raise RuntimeError(f"{type(self).__name__} is not built yet: it is built when it is attached to a model")
        return self._encoder[0]

    @encoder.setter
    def encoder(self, encoder: Encoder) -> None:
        # A tuple hides the module from nn.Module: the agent's weights must not be saved, moved or stepped twice.
        self._encoder = (encoder,)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would register the encoder before the property is asked
        if name == "encoder":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def is_built(self) -> bool:
        """Whether :meth:`build` was called."""
        return bool(self._encoder)

    @abstractmethod
    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """
        Make heads and EMA copies for this encoder, on its device. Called once, with torch's generator seeded.

        :param encoder: the agent's online encoder; set ``self.encoder = encoder``
        :param spaces: observation and action space
        """

    @abstractmethod
    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """
        :param batch: what :attr:`request` asked for
        :param features: ``(batch, features_dim)``, the online encoder's output for the anchor (``views[0]``, or
            ``view(0)``) where the agent has it already; None: the objective encodes
        :return: scalar float32 loss with a graph, and detached scalars for the log
        """

    def after_step(self) -> None:
        """Called after each optimiser step that followed :meth:`loss` (EMA updates go here)."""
