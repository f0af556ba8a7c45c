"""An encoder learns from stored transitions by an objective; can be stopped and taken up again bitwise."""

from __future__ import annotations

import io
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import get_device

from crl.augment import RandomShift
from crl.callbacks.attachment import Attachment, isolated_random
from crl.callbacks.find_encoders import FoundEncoder
from crl.compute import set_threads
from crl.contract import Augmentation, Objective, SequenceBatch, Spaces, ViewBatch
from crl.encoders import BodyHeadEncoder, ModelEncoder, save_encoder
from crl.networks import faster
from crl.objectives import OBJECTIVES
from crl.pretrain.data import DataError, load_transitions
from crl.pretrain.folder import PretrainFolder
from crl.pretrain.parts import AUGMENTATIONS, ENCODERS, PartError, check_arguments, choose, make, read_value
from crl.replay import ReplaySource, make_batch
from crl.runs.folder import Table, write_atomically
from crl.runs.run import RunError, check_device
from crl.runs.run_callback import EventWriter, Stopped
from crl.runs.stages import Stage, silent
from crl.runs.stop import StopRequest

_GROUPS = ("objective", "encoder", "augment")


def new_pretraining(
    data: str,
    objective: str = "curl",
    encoder: str = "pixel",
    augment: str = "auto",
    settings: dict[str, str] | None = None,
    updates: int = 10_000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 1,
    device: str = "auto",
    threads: int | None = None,
    stack: int = 1,
    size: int | None = None,
    image_key: str | None = None,
    log_every: int = 100,
    checkpoint_every: int = 1000,
    out: str | Path | None = None,
) -> PretrainFolder:
    """
    Check a configuration and make the folder; nothing is trained yet.

    :param data: see :func:`crl.pretrain.data.load_transitions`
    :param objective: name in ``crl.objectives.OBJECTIVES``
    :param encoder: ``"pixel"``, ``"nature"``, ``"rainbow"`` or ``"impala"``
    :param augment: ``"auto"``: the replay buffer's own, else shifts by 4; ``"none"``; or the name of an augmentation in snake
        case, ``"random_crop"``
    :param settings: arguments of the three as text, by dotted name: ``{"encoder.features_dim": "128"}``
    :param updates: steps of Adam
    :param batch_size: observations, windows or episodes in one
    :param learning_rate: of encoder and heads (1e-3 in CURL and ATC)
    :param seed: of weights, batches and augmentation
    :param device: to train on
    :param threads: of torch's CPU kernels
    :param stack: see :func:`crl.pretrain.data.load_transitions`
    :param size: see :func:`crl.pretrain.data.load_transitions`
    :param image_key: see :func:`crl.pretrain.data.load_transitions`
    :param log_every: updates between two rows of the log
    :param checkpoint_every: updates between checkpoints
    :param out: folder; None takes ``runs/pretrain/<objective>/<data>/seed<k>``
    :raises ValueError: for anything wrong, in words
    """
    check_device(device)
    groups = _group(settings or {})
    check_arguments("objective", choose("objective", objective, OBJECTIVES), groups["objective"])
    check_arguments("encoder", choose("encoder", encoder, ENCODERS), groups["encoder"])
    if augment not in ("auto", "none"):
        choose("augmentation", augment, {**AUGMENTATIONS, "auto": None, "none": None})
        check_arguments("augment", AUGMENTATIONS[augment], groups["augment"])
    elif groups["augment"]:
        raise PartError(f"augment.{next(iter(groups['augment']))}: name the augmentation, for example --augment random_shift")
    # another working directory must find the data again
    source = str(Path(data).resolve()) if Path(data).exists() else data
    config: dict[str, dict[str, Any]] = {
        "pretrain": {
            "data": source,
            "updates": updates,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "device": device,
            "threads": threads,
            "stack": stack,
            "size": size,
            "image_key": image_key,
            "log_every": log_every,
            "checkpoint_every": checkpoint_every,
        },
        "objective": {"name": objective, "kwargs": groups["objective"]},
        "encoder": {"name": encoder, "kwargs": groups["encoder"]},
        "augment": {"name": augment, "kwargs": groups["augment"]},
    }
    name = data.removeprefix("minari:").strip("/").replace("/", "-").removesuffix(".pkl") or "data"
    folder = PretrainFolder(out if out is not None else Path("runs/pretrain") / objective / name / f"seed{seed}")
    folder.check_free()
    buffer, space, key = load_transitions(source, stack, size, image_key)
    config["pretrain"]["transitions"] = buffer.size() * buffer.n_envs
    # what is used, not what was asked for: an encoder has to be built alike by the agent that starts from it
    built = Pretraining(config, buffer, space, key)
    config["encoder"]["kwargs"] = built.encoder_kwargs
    config["augment"]["used"] = repr(built.augment)
    config["pretrain"]["versions"] = {name: version(name) for name in ("crl", "torch", "stable-baselines3", "numpy")}
    folder.create(config)
    folder.update_summary(state="running", updates=0)
    return folder


def _group(settings: dict[str, str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {name: {} for name in _GROUPS}
    for path, value in settings.items():
        group, separator, name = path.partition(".")
        if group not in groups or not separator or not name:
            raise PartError(f"{path!r}: settings are objective.<name>, encoder.<name> and augment.<name>")
        groups[group][name] = read_value(value)
    return groups


class Pretraining:
    """
    Encoder, objective, optimiser and data, ready for the first update.

    :param config: as :func:`new_pretraining` makes it
    :param buffer: stored transitions
    :param space: of its images
    :param key: of the image in Dict observations
    :raises ValueError: for parts that do not fit each other or the data
    """

    def __init__(self, config: dict[str, Any], buffer: ReplayBuffer, space: spaces.Box, key: str | None) -> None:
        fields = config["pretrain"]
        set_threads(fields["threads"])
        self.device = get_device(fields["device"])
        self.batch_size: int = fields["batch_size"]
        self.rng = np.random.default_rng(np.random.SeedSequence(fields["seed"]))
        self.generator = th.Generator(self.device)
        self.generator.manual_seed(self._draw_seed())
        self.source = ReplaySource(buffer, key)
        objective = make("objective", OBJECTIVES[config["objective"]["name"]], **config["objective"]["kwargs"])
        self.augment = self._augmentation(config["augment"], objective, getattr(buffer, "augment", None))
        self.encoder_kwargs = self._encoder_kwargs(config["encoder"]["kwargs"], space)
        with isolated_random(self.device, self._draw_seed()):
            cls = ENCODERS[config["encoder"]["name"]]
            self.encoder: BodyHeadEncoder = make("encoder", cls, space, **self.encoder_kwargs).to(self.device)
        wrapped = ModelEncoder(self.encoder, space)
        with isolated_random(self.device, self._draw_seed()):
            try:
                objective.build(wrapped, Spaces(space, buffer.action_space))
            except ValueError as error:  # an objective that needs an agent's target, or other actions
                raise PartError(f"objective: {error}") from error
            objective.to(self.device)
        heads = [p for p in objective.parameters() if p.requires_grad]
        owned = list(self.encoder.parameters())
        groups = [{"params": group} for group in (heads, owned) if group]
        optimizer = faster(th.optim.Adam, {})(groups, lr=fields["learning_rate"])
        found = FoundEncoder("pretrained", wrapped, optimizer)
        self.attachment = Attachment(found, objective, optimizer, [], owned, 1.0, None, None, fields["log_every"])
        if not self.source.ready(objective.request, self.batch_size):
            raise DataError(
                f"{buffer.size() * buffer.n_envs} transitions hold no {self.batch_size} {objective.request.kind}: lower "
                "--batch-size, or collect more"
            )

    @staticmethod
    def _augmentation(asked: dict[str, Any], objective: Objective, of_buffer: Augmentation | None) -> Augmentation | None:
        if asked["name"] == "none":
            if objective.needs_augmentation:
                raise PartError(
                    f"{type(objective).__name__} contrasts augmented views: --augment none leaves it nothing to do"
                )
            return None
        if asked["name"] == "auto":
            return of_buffer or RandomShift(4)
        return make("augment", AUGMENTATIONS[asked["name"]], **asked["kwargs"])

    def _encoder_kwargs(self, asked: dict[str, Any], space: spaces.Box) -> dict[str, Any]:
        """As asked, with ``crop`` where the augmentation makes smaller images."""
        if self.augment is None:
            return asked
        try:
            views = self.augment(th.zeros(1, *space.shape, dtype=th.uint8), th.Generator().manual_seed(0))
        except ValueError as error:
            raise PartError(f"augment: {error}") from error
        side = views.shape[-1]
        return {"crop": side, **asked} if tuple(views.shape[-2:]) != tuple(space.shape[-2:]) else asked

    def _draw_seed(self) -> int:
        return int(self.rng.integers(2**62))

    def _draw(self, objective: Objective) -> ViewBatch | SequenceBatch:
        raw = self.source.draw(objective.request, self.batch_size, self.rng)
        return make_batch(raw, objective.request, self.device, self.augment, self.generator)

    def step(self) -> None:
        """One update of encoder and heads."""
        with isolated_random(self.device, self._draw_seed()):
            self.attachment.step(self._draw)
        self.attachment.objective.after_step()

    @property
    def n_updates(self) -> int:
        """Steps so far."""
        return self.attachment.n_updates

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on but the data."""
        return {
            "encoder": self.encoder.state_dict(),
            "attachment": self.attachment.state_dict(),
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`state_dict`
        """
        self.encoder.load_state_dict(state["encoder"])
        self.attachment.load_state_dict(state["attachment"])
        self.rng.bit_generator.state = state["rng"]
        self.generator.set_state(state["generator"])


def pretrain(folder: PretrainFolder, stop: StopRequest | None = None, stage: Stage = silent) -> dict[str, Any]:
    """
    Train to the end, from the last checkpoint where there is one.

    :param folder: from :func:`new_pretraining`
    :param stop: listens to signals already; None listens from here on
    :param stage: see :data:`crl.runs.stages.Stage`
    :return: the summary
    :raises Stopped: after a signal; everything has been saved
    :raises RunError: when the loss is no number any more, or the checkpoint is damaged
    :raises ValueError: when the data are no longer there, or others
    """
    config, stop = folder.config(), stop or StopRequest()
    if folder.summary().get("state") == "finished":
        return folder.summary()
    fields = config["pretrain"]
    with folder.held(), stop:
        buffer, space, key = load_transitions(fields["data"], fields["stack"], fields["size"], fields["image_key"])
        if buffer.size() * buffer.n_envs != fields["transitions"]:
            raise DataError(
                f"{fields['data']} holds {buffer.size() * buffer.n_envs} transitions, and held {fields['transitions']} when "
                "this pre-training began: begin anew in another folder"
            )
        work = Pretraining(config, buffer, space, key)
        _restore(folder, work)
        Table(folder.progress_file).cut("update", work.n_updates)
        events = EventWriter(str(folder.path / "tensorboard"), work.n_updates)
        try:
            return _run(folder, work, fields, events, stop, stage)
        except FloatingPointError as error:
            folder.update_summary(state="failed", error=str(error), updates=work.n_updates)
            raise RunError(f"{error} (at update {work.n_updates})") from error
        finally:
            events.close()


def _run(
    folder: PretrainFolder, work: Pretraining, fields: dict[str, Any], events: EventWriter, stop: StopRequest, stage: Stage
) -> dict[str, Any]:
    began, began_at, total = time.monotonic(), work.n_updates, fields["updates"]
    earlier = float(folder.summary().get("seconds", 0.0))
    advance = stage("pre-training", total - began_at)
    while work.n_updates < total:
        work.step()
        advance()
        n, last = work.n_updates, work.n_updates == total
        due = last or stop.signal is not None or n % fields["checkpoint_every"] == 0
        if due or n % fields["log_every"] == 0:
            _log(folder, work, events)
        if due:
            _save(folder, work)
            folder.update_summary(updates=n, seconds=round(earlier + time.monotonic() - began, 1))
        if stop.signal is not None and not last:
            folder.update_summary(stopped_by=stop.name)
            raise Stopped(stop.name)
    rate = (work.n_updates - began_at) / max(time.monotonic() - began, 1e-9)
    folder.update_summary(
        state="finished", stopped_by=None, updates_per_second=round(rate, 3), encoder=folder.encoder_file.name
    )
    return folder.summary()


def _log(folder: PretrainFolder, work: Pretraining, events: EventWriter) -> None:
    means = work.attachment.flush_metrics()
    if not means:
        return
    Table(folder.progress_file).append({"update": work.n_updates, **means})
    shown = {f"repr/{work.attachment.objective.name}_{key}": value for key, value in means.items()}
    events.write(shown, dict.fromkeys(shown, ()), work.n_updates)


def _save(folder: PretrainFolder, work: Pretraining) -> None:
    """The checkpoint, and the encoder as agents load it; both whole or as they were."""
    archive = io.BytesIO()
    th.save(work.state_dict(), archive)
    write_atomically(folder.checkpoint_file, archive.getvalue())
    temporary = folder.encoder_file.with_name(".writing.safetensors")
    os.replace(save_encoder(work.encoder, temporary), folder.encoder_file)


def _restore(folder: PretrainFolder, work: Pretraining) -> None:
    if not folder.checkpoint_file.is_file():
        return
    try:
        state = th.load(folder.checkpoint_file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can break its reader in any way
        raise RunError(
            f"{folder.checkpoint_file} is damaged ({type(error).__name__}): begin anew in another folder; "
            f"{folder.encoder_file.name} is the encoder of the last checkpoint"
        ) from error
    work.load_state_dict(state)
