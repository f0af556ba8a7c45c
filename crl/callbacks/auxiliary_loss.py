"""Attaches a representation objective to a live, unmodified SB3 or sb3-contrib model."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from crl.callbacks.attachment import Attachment, evaluation_mode, isolated_random
from crl.callbacks.find_encoders import FoundEncoder, check_initialisation, find_encoders, image_space
from crl.callbacks.stateful import SavedCallback, refuse_another_model, refuse_event_callback
from crl.callbacks.step_hooks import add_step_hooks, remove_hooks
from crl.contract import Augmentation, Objective, SequenceBatch, Spaces, ViewBatch
from crl.networks import faster
from crl.replay import DataSource, FrameReplayBuffer, ReplaySource, RolloutStore, make_batch

Mode = Literal["own_optimizer", "add_gradient"]
#: whole episodes in a batch, unless told: each is hundreds of observations
_EPISODES = 8


class AuxiliaryLossCallback(SavedCallback):
    """
    Trains the encoder of any SB3 model with a representation objective, beside the agent's own loss.

    An *RL update* is one step of the optimiser that owns the encoder. The two modes differ in how the objective joins it:

    - ``"own_optimizer"``: after the agent's updates (at the start of the next rollout, and at the end of training), as many
      steps of an own Adam over encoder and heads as there were RL updates. Nothing moves between collecting a rollout and
      learning from it: PPO's first probability ratio is exactly 1. As in CURL, and right for every algorithm, but not for
      every objective: without negatives, encoders collapse easily.
    - ``"add_gradient"``: before each RL update the objective's gradient on the encoder, clipped on its own and times
      ``weight``, is added to the RL gradient; heads have an own Adam. Algorithms that clip (PPO, A2C, DQN) have done so
      before: what is stepped is clip(RL) + weight * clip(objective), not the clipped sum.

    The objective draws from generators of its own: with ``weight=0`` a model ends bitwise as without the callback, while
    heads still learn and metrics are logged (a probe of what the agent's encoder knows).

    Logged under ``repr/``: ``<objective>_loss``, ``_accuracy``, ``_positive_similarity``, ``_negative_similarity``,
    ``_embedding_std``, ``_effective_rank``, ``_grad_norm``, ``_rl_grad_norm``, ``_grad_cosine`` (the last five, and those
    of the agent, every ``log_interval`` updates), with the encoder's name in between where the model has several.

    :param objective: e.g. ``CURL()``; with several encoders each gets a copy
    :param mode: see above; None takes the objective's (:attr:`crl.contract.Objective.callback_mode`): ``"own_optimizer"``,
        but ``"add_gradient"`` for SPR and SelfPrediction (not on TRPO, which cannot)
    :param weight: how strongly the objective pulls at the encoder, >= 0. None takes the objective's: 1, and in
        ``"add_gradient"`` mode 5 for SPR, as published. The factor of its gradient (``"add_gradient"``), or
        of the encoder's learning rate (``"own_optimizer"``; Adam would undo a factor of the gradient). Heads learn at full
        rate.
    :param balance: ``"add_gradient"`` only: scales the objective's encoder gradient to this multiple of the RL gradient's norm
        (running means of both), so that critic errors of hundreds do not drown it. None: plain ``weight``.
    :param batch_size: observations (or windows) in one step; None takes the model's, or 8 whole episodes, or what
        the objective asks for (:attr:`crl.contract.Objective.batch_size`)
    :param learning_rate: of the own Adam (1e-3 in CURL and ATC)
    :param optimizer_class: of the own optimiser
    :param optimizer_kwargs: further arguments of it
    :param max_grad_norm: clips the objective's encoder gradient by norm. ``"auto"``: in ``"add_gradient"`` mode the model's
        own ``max_grad_norm`` where it has one; otherwise no clipping. None: no clipping.
    :param encoders: names of the encoders to train (``"critic"``, ``"actor"``, ``"pi"`` ...); None trains all online ones
    :param image_key: of Dict observations with several images, the one whose encoder is trained; None: the only one, or the
        one that the replay buffer keeps the frames of
    :param interval: one objective step per so many RL updates
    :param log_interval: RL updates between two lots of metrics
    :param store_size: on-policy only: transitions to draw from, each with both its observations; None keeps one rollout
    :param name: in the metrics; None takes the objective's. Callbacks on the same encoder need different ones.
    :param seed: of the own generators; None takes the model's seed, and if that is None too, a random one
    :param verbose: 1 prints which encoders are trained; otherwise that goes to the model's own text logs, if it has any
    :raises ValueError: for values out of range; at the start of ``learn`` for a model or buffer that does not fit
    """

    def __init__(
        self,
        objective: Objective,
        mode: Mode | None = None,
        weight: float | None = None,
        balance: float | None = None,
        batch_size: int | None = None,
        learning_rate: float = 1e-3,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        max_grad_norm: float | Literal["auto"] | None = "auto",
        encoders: list[str] | None = None,
        image_key: str | None = None,
        interval: int = 1,
        log_interval: int = 100,
        store_size: int | None = None,
        name: str | None = None,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not isinstance(objective, Objective):
            own = {"AchievementDistillation": "AchievementPhases", "HistoryObjective": "AgentModelCallback"}
            other = next((own[cls.__name__] for cls in type(objective).__mro__ if cls.__name__ in own), None)
            told = f"{other} is the callback for it" if other else "pass an instance of crl.contract.Objective, such as CURL()"
            raise ValueError(f"objective={objective!r}: {told}")
        self._mode_is_given, self._weight_is_given = mode is not None, weight is not None
        mode = objective.callback_mode if mode is None else mode
        if weight is None:
            weight = objective.callback_weight if mode == "add_gradient" else 1.0
        if mode not in ("own_optimizer", "add_gradient"):
            raise ValueError(f"mode={mode!r}: choose 'own_optimizer' or 'add_gradient'")
        if not weight >= 0:
            raise ValueError(f"weight={weight}: must be >= 0")
        if balance is not None and (mode != "add_gradient" or not balance > 0):
            raise ValueError(
                f"balance={balance}: a positive ratio, and only in mode='add_gradient' (an own Adam has no RL gradient)"
            )
        if batch_size is not None and batch_size < 2:
            raise ValueError(f"batch_size={batch_size}: a contrast needs at least 2 observations")
        if callable(learning_rate) or not learning_rate > 0:
            raise ValueError(
                f"learning_rate={learning_rate}: a positive number, which stays as it is whatever the agent's schedule does "
                "(weight=0 leaves the encoder alone)"
            )
        if max_grad_norm not in (None, "auto") and not max_grad_norm > 0:  # type: ignore[operator]
            raise ValueError(f"max_grad_norm={max_grad_norm!r}: a positive number, 'auto' or None")
        if encoders is not None and (isinstance(encoders, str) or not encoders):
            raise ValueError(f"encoders={encoders!r}: a list of names such as ['critic'], or None for all")
        if interval < 1 or log_interval < 1:
            raise ValueError(f"interval={interval}, log_interval={log_interval}: both at least 1 update")
        if store_size is not None and store_size < 2:
            raise ValueError(f"store_size={store_size}: at least 2 transitions")
        self.objective = objective
        self.mode: Mode = mode
        self.weight = weight
        self.balance = balance
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer_class = optimizer_class
        self.optimizer_kwargs = optimizer_kwargs or {}
        self.max_grad_norm = max_grad_norm
        self.encoders = encoders
        self.image_key = image_key
        self.interval = interval
        self.log_interval = log_interval
        self.store_size = store_size
        self.name = name or objective.name
        self.seed = seed
        #: by encoder name; filled when ``learn`` starts
        self.attachments: dict[str, Attachment] = {}
        #: parameters of each encoder at the end of the last ``learn``
        self._left: dict[str, list[th.Tensor]] = {}
        self._source: DataSource
        self._store: RolloutStore | None = None
        self._names_encoders = False
        self._rng: np.random.Generator | None = None
        self._generator: th.Generator

    @property
    def is_attached(self) -> bool:
        """Whether it trains encoders of a model."""
        return bool(self.attachments)

    # ---- attaching

    def _init_callback(self) -> None:
        refuse_event_callback(self.parent)
        model = self.model
        # by name: sb3-contrib is optional; subclasses are TRPOs too
        is_trpo = "TRPO" in [cls.__name__ for cls in type(model).__mro__]
        if self.mode == "add_gradient" and is_trpo and not self._mode_is_given:
            self.mode, self.weight = "own_optimizer", self.weight if self._weight_is_given else 1.0
        if self.mode == "add_gradient" and is_trpo:
            raise ValueError(
                "mode='add_gradient' needs an optimiser that steps the encoder by the agent's loss. TRPO moves its policy by "
                "a line search; its optimiser fits the value function alone, without the encoder that the policy shares: use "
                "mode='own_optimizer'"
            )
        chosen = self._resolve_image_key()
        space, key = image_space(model, chosen)
        found = find_encoders(model, self.encoders, chosen)
        self._names_encoders = len(find_encoders(model, image_key=chosen)) > 1
        check_initialisation(model, found)
        self._n_batch = self._resolve_batch_size()
        self._augment = self._resolve_augment(space, found)
        self._make_generators()
        self._source = self._make_source(space, key)
        self._source.ready(self.objective.request, self._n_batch)  # a buffer that can never answer is refused now
        objectives = self._objectives(found, Spaces(space, model.action_space))
        self.attachments = {item.name: self._attach(item, objectives[item.name]) for item in found}
        self._take_up()
        self._add_hooks()
        for name, item in self.attachments.items():
            extractor = type(item.found.encoder.extractor).__name__
            line = f"crl: {self.name} trains the {name} encoder ({extractor}), {self.mode}, weight {self.weight}"
            (print if self.verbose else self.logger.info)(line)

    def _resolve_image_key(self) -> str | None:
        """The key asked for, else that of a buffer which stores the frames of one image."""
        buffer = getattr(self.model, "replay_buffer", None)
        stored = buffer.image_key if isinstance(buffer, FrameReplayBuffer) else None
        if None not in (stored, self.image_key) and stored != self.image_key:
            raise ValueError(
                f"image_key={self.image_key!r}: the replay buffer keeps the frames of {stored!r}, name one in both"
            )
        return self.image_key or stored

    def _resolve_batch_size(self) -> int:
        agents_own = int(getattr(self.model, "batch_size", 0) or 256)  # A2C has no batch size
        if self.objective.request.kind == "episodes":
            agents_own = min(agents_own, _EPISODES)
        batch_size = self.batch_size or self.objective.batch_size or agents_own
        if batch_size < 2:
            raise ValueError(
                f"the model's batch_size is {batch_size}, a contrast needs at least 2: pass batch_size= to the callback"
            )
        if isinstance(self.model, OnPolicyAlgorithm):
            capacity = self.store_size or self.model.n_steps * self.model.n_envs
            if capacity < 2:
                raise ValueError("a rollout of this model is a single transition: pass store_size= to the callback")
            batch_size = batch_size if self.batch_size else min(batch_size, capacity)
        else:
            buffer = self.model.replay_buffer  # type: ignore[attr-defined]
            capacity = buffer.buffer_size * buffer.n_envs
        if batch_size > capacity:
            raise ValueError(f"batch_size={batch_size} is larger than what it is drawn from ({capacity} transitions)")
        return batch_size

    def _resolve_augment(self, space: spaces.Box, found: list[FoundEncoder]) -> Augmentation | None:
        augment = self.objective.augment
        if augment is None:
            augment = getattr(getattr(self.model, "replay_buffer", None), "augment", None)
        if augment is None and self.objective.needs_augmentation:
            raise ValueError(
                f"{type(self.objective).__name__} contrasts augmented views and nothing augments: pass it "
                "augment=RandomShift(4), or, off-policy, use replay_buffer_class=FrameReplayBuffer and "
                "replay_buffer_kwargs=dict(augment=RandomShift(4))"
            )
        if not self.model.policy.normalize_images and not getattr(augment, "keeps_values", True):
            raise ValueError(
                f"{augment!r} takes images for 0..255 and the model's are scaled already (normalize_images=False): crops, "
                "shifts and flips work on any range; for others let SB3 scale uint8 images"
            )
        # One image through augmentation and encoder: a size that does not fit must be found now, not at the first update
        device = self.model.device
        with th.no_grad():
            images = th.zeros(1, *space.shape, dtype=th.uint8 if space.dtype == np.uint8 else th.float32, device=device)
            views = images if augment is None else augment(images, th.Generator(device))
            for item in found:
                with evaluation_mode(item.encoder.extractor):
                    self._try_out(item, views, augment, images.shape)
        return augment

    def _try_out(self, item: FoundEncoder, views: th.Tensor, augment: Augmentation | None, shape: th.Size) -> None:
        """:raises ValueError: for an encoder that takes images of another size than augmentation makes"""
        try:
            item.encoder(views)
        except RuntimeError as error:
            if views.shape == shape:
                raise
            made, extractor = "x".join(map(str, views.shape[2:])), type(item.encoder.extractor).__name__
            raise ValueError(
                f"{augment!r} makes {made} of images of {'x'.join(map(str, shape[2:]))}, which the {item.name} encoder "
                f"({extractor}) does not take: use an augmentation that keeps the size (RandomShift), or an encoder that "
                "crops for the agent, too: PixelEncoder(crop=...)"
            ) from error

    def _make_generators(self) -> None:
        if self._rng is not None:
            return  # a further learn() goes on with the same streams
        seed = self.seed if self.seed is not None else self.model.seed
        self._rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self._generator = th.Generator(self.model.device)
        self._generator.manual_seed(self._draw_seed())

    def _draw_seed(self) -> int:
        assert self._rng is not None
        return int(self._rng.integers(2**62))

    def _make_source(self, space: spaces.Box, key: str | None) -> DataSource:
        if isinstance(self.model, OffPolicyAlgorithm):
            buffer = self.model.replay_buffer
            assert buffer is not None
            if isinstance(buffer, FrameReplayBuffer):
                buffer.check_model(self.model)
            return ReplaySource(buffer, key)
        if self._store is None or self._store.buffer.n_envs != self.model.n_envs:
            size = self.store_size or self.model.n_steps * self.model.n_envs  # type: ignore[attr-defined]
            self._store = RolloutStore(size, space, self.model.action_space, self.model.n_envs, key)
        return self._store

    def _objectives(self, found: list[FoundEncoder], action_and_image: Spaces) -> dict[str, Objective]:
        """The user's objective for the first encoder, copies for the others; built, or bound anew when they were before."""
        known = {name: item.objective for name, item in self.attachments.items()}
        if not known and not self.objective.is_built:
            known = {item.name: copy.deepcopy(self.objective) for item in found[1:]}
        objectives = {item.name: known.get(item.name, self.objective) for item in found}
        if len({id(objective) for objective in objectives.values()}) < len(found):
            raise ValueError(
                f"this {type(self.objective).__name__} was attached before, not to these {len(found)} encoders "
                f"({', '.join(objectives)}): pass a new callback and objective, or keep to the same model"
            )
        for item in found:
            objective = objectives[item.name]
            if not objective.is_built:
                with isolated_random(self.model.device, self._draw_seed()):
                    objective.build(item.encoder, action_and_image)
                objective.to(self.model.device)
            elif objective.encoder.features_dim != item.encoder.features_dim:
                raise ValueError(
                    f"{self.name} was built for {objective.encoder.features_dim} features and the {item.name} encoder has "
                    f"{item.encoder.features_dim}: attach a new objective"
                )
            else:
                self._check_same(item)
                objective.encoder = item.encoder
        return objectives

    def _check_same(self, found: FoundEncoder) -> None:
        """:raises ValueError: for an encoder that is neither the one that is trained here, nor a copy of it as it was left"""
        old, left = self.attachments.get(found.name), self._left.get(found.name)
        if old is None or left is None or old.found.encoder.extractor is found.encoder.extractor:
            return
        refuse_another_model(found.name, found.encoder.parameters(), left)

    def _attach(self, found: FoundEncoder, objective: Objective) -> Attachment:
        old = self.attachments.get(found.name)
        if old is not None and old.found.encoder.extractor is found.encoder.extractor:
            old.found, old.pending = found, 0
            return old
        parameters = [p for p in found.encoder.parameters() if p.requires_grad]
        held = {id(p) for group in found.optimizer.param_groups for p in group["params"]}
        borrowed = [p for p in parameters if id(p) in held] if self.mode == "add_gradient" else []
        owned = [p for p in parameters if not any(p is other for other in borrowed)]
        heads = [p for p in objective.parameters() if p.requires_grad]
        groups = [{"params": heads, "lr": self.learning_rate}, {"params": owned, "lr": self.learning_rate * self.weight}]
        optimizer_class = faster(self.optimizer_class, self.optimizer_kwargs)
        # an objective without heads, whose encoder the agent steps, leaves nothing: torch wants one group all the same
        groups = [group for group in groups if group["params"]] or groups[:1]
        optimizer = optimizer_class(groups, **self.optimizer_kwargs)
        clip = self.max_grad_norm
        if clip == "auto":
            clip = getattr(self.model, "max_grad_norm", None) if self.mode == "add_gradient" else None
        return Attachment(
            found,
            objective,
            optimizer,
            borrowed,
            owned,
            self.weight,
            self.balance,
            clip,
            self.log_interval,
        )

    def _add_hooks(self) -> None:
        for item in self.attachments.values():
            add_step_hooks(
                item.found.optimizer,
                before=lambda item=item: self._before_rl_update(item),  # type: ignore[misc]
                after=lambda item=item: self._after_rl_update(item),  # type: ignore[misc]
                model=self.model,
            )

    # ---- while training

    def _on_training_start(self) -> None:
        names = [key for other in _auxiliary_losses(self.locals.get("callback")) for key in other._prefixes()]
        twice = sorted({key for key in names if names.count(key) > 1})
        if twice:
            raise ValueError(f"several callbacks would log as {', '.join(twice)}: give each its own name=")
        objectives = [id(other.objective) for other in _auxiliary_losses(self.locals.get("callback"))]
        if len(set(objectives)) < len(objectives):
            raise ValueError("two callbacks have the same objective object, whose heads both would train: make one for each")

    def _prefixes(self) -> list[str]:
        """What the metrics of each encoder begin with."""
        return [self._prefix(item) for item in self.attachments.values()]

    def _prefix(self, item: Attachment) -> str:
        return f"{self.name}_{item.name}" if self._names_encoders else self.name

    def _draw(self, objective: Objective) -> ViewBatch | SequenceBatch | None:
        request = objective.request
        if not self._source.ready(request, self._n_batch):
            return None
        assert self._rng is not None
        raw = self._source.draw(request, self._n_batch, self._rng)
        return make_batch(raw, request, self.model.device, self._augment, self._generator)

    def _step(self, item: Attachment) -> bool:
        with isolated_random(self.model.device, self._draw_seed()):
            return item.step(self._draw)

    def _before_rl_update(self, item: Attachment) -> None:
        item.see_rl_update()
        if self.mode == "add_gradient" and item.pending >= self.interval:
            item.stepped = self._step(item)

    def _after_rl_update(self, item: Attachment) -> None:
        if self.mode == "add_gradient" and item.pending >= self.interval:
            item.pending = 0
            if item.stepped:
                item.objective.after_step()
            self._log(item)

    def _on_rollout_start(self) -> None:
        if self.mode == "own_optimizer":
            for item in self.attachments.values():
                self._catch_up(item)

    def _catch_up(self, item: Attachment) -> None:
        """One own step for each RL update since the last time."""
        due, item.pending = divmod(item.pending, self.interval)
        for _ in range(due):
            if self._step(item):
                item.objective.after_step()
        if due:
            self._log(item)

    def _log(self, item: Attachment) -> None:
        if item.n_rl_updates - item.logged_at < self.log_interval:
            return
        item.logged_at = item.n_rl_updates
        prefix = self._prefix(item)
        for key, value in item.flush_metrics().items():
            self.logger.record(f"repr/{prefix}_{key}", value)
        self.logger.record(f"repr/{prefix}_n_updates", item.n_updates, exclude="tensorboard")

    def _on_step(self) -> bool:
        if self._store is not None:
            self._store.add_step(self.model, self.locals)
        return True

    def _on_training_end(self) -> None:
        for item in self.attachments.values():
            if self.mode == "own_optimizer":
                self._catch_up(item)
            remove_hooks(item.found.optimizer, all_but=None)
            self._left[item.name] = [parameter.detach().clone() for parameter in item.found.encoder.parameters()]
            if item.n_rl_updates >= self.interval and not item.n_updates:
                warnings.warn(
                    f"{self.name} never trained the {item.name} encoder in {item.n_rl_updates} updates of the agent: there "
                    "was never enough data for its request. Lower batch_size=, or, on-policy, raise store_size= (episodes "
                    "longer than a rollout are not whole in one)",
                    stacklevel=2,
                )

    # ---- saving

    def _must_fit(self) -> dict[str, Any]:
        return {"objective_class": type(self.objective).__name__, "mode": self.mode}

    def _parts(self) -> dict[str, Any]:
        """Data of on-policy algorithms is not saved; it is collected anew."""
        assert self._rng is not None
        return {
            "attachments": {name: item.state_dict() for name, item in self.attachments.items()},
            "rng": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if set(state["attachments"]) != set(self.attachments):
            raise ValueError(f"saved for encoders {list(state['attachments'])}, this model has {list(self.attachments)}")
        for name, item in self.attachments.items():
            item.load_state_dict(state["attachments"][name])
        assert self._rng is not None
        self._rng.bit_generator.state = state["rng"]
        self._generator.set_state(state["generator"])


def _auxiliary_losses(callback: BaseCallback | None) -> list[AuxiliaryLossCallback]:
    """All of them in what ``learn`` was given, also in lists within lists."""
    if isinstance(callback, CallbackList):
        return [found for inner in callback.callbacks for found in _auxiliary_losses(inner)]
    return [callback] if isinstance(callback, AuxiliaryLossCallback) else []
