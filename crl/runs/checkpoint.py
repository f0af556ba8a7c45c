"""Checkpoints: complete or not there, verified, and the last two kept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from crl.callbacks.stateful import StatefulCallback
from crl.replay import FrameReplayBuffer
from crl.runs.frame_log import DamagedLogError, FrameLog
from crl.runs.state import capture_envs, capture_episodes, capture_random, restore_envs, restore_random

KEPT = 2
_MANIFEST = "manifest.json"


class NoCheckpointError(RuntimeError):
    """There is none that is whole."""


class Checkpoints:
    """
    Writes and reads the checkpoints of one run.

    A checkpoint is written to a temporary folder, ended by a manifest with the hash of every file, and renamed: what has its
    final name is whole. Frames go to a log beside it (:class:`FrameLog`), before the manifest that refers to them.

    :param folder: ``<run>/checkpoints``
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = FrameLog(folder / "frames")

    # ---- writing

    def save(self, model: BaseAlgorithm, callbacks: Sequence[BaseCallback], extra: dict[str, Any]) -> Path:
        """
        :param model: between two rollouts
        :param callbacks: those that have a state are saved, see :class:`crl.callbacks.stateful.StatefulCallback`
        :param extra: further plain state of the run
        :return: the checkpoint's folder
        :raises OSError: when the disk is full, say; earlier checkpoints are untouched
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"step{model.num_timesteps:012d}"
        temporary = self.folder / f".writing-{final.name}"
        for unfinished in self.folder.glob(".writing-*"):  # of a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        temporary.mkdir()
        try:
            self._write(temporary, model, callbacks, extra)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(final)
            raise
        shutil.rmtree(final, ignore_errors=True)  # of the same step, from before a resume
        os.replace(temporary, final)
        _sync_folder(self.folder)
        self._prune()
        return final

    def _write(self, folder: Path, model: BaseAlgorithm, callbacks: Sequence[BaseCallback], extra: dict[str, Any]) -> None:
        # to memory first: of a full disk torch says "unexpected pos", the system "No space left on device"
        archive = io.BytesIO()
        model.save(archive)
        (folder / "model.zip").write_bytes(archive.getbuffer())
        assert model.env is not None
        state: dict[str, Any] = {
            "random": capture_random(model),
            "envs": capture_envs(model.env),
            "episodes": capture_episodes(model.env),
            "extra": extra,
            "auxiliary": [c.state_dict() for c in callbacks if isinstance(c, StatefulCallback) and c.is_attached],
        }
        buffer = getattr(model, "replay_buffer", None)
        manifest: dict[str, Any] = {"step": model.num_timesteps, "frames": None}
        if isinstance(buffer, FrameReplayBuffer):
            state["replay"] = buffer.book_keeping()
            if buffer.frames is not None:
                manifest["frames"] = self.log.append(buffer)
        elif buffer is not None:
            model.save_replay_buffer(folder / "replay.pkl")  # type: ignore[attr-defined]
        archive = io.BytesIO()
        th.save(state, archive)
        (folder / "state.pt").write_bytes(archive.getbuffer())
        manifest["files"] = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        for path in folder.iterdir():
            _sync(path)
        (folder / _MANIFEST).write_text(json.dumps(manifest))
        _sync(folder / _MANIFEST)

    def _prune(self) -> None:
        found = self.found()
        for path in found[:-KEPT]:
            shutil.rmtree(path)
        records = [json.loads((path / _MANIFEST).read_text())["frames"] for path in found[-KEPT:]]
        self.log.prune([record for record in records if record is not None])

    # ---- reading

    def found(self) -> list[Path]:
        """Folders of all checkpoints, the oldest first, whether they are sound or not."""
        return sorted(path for path in self.folder.glob("step*") if (path / _MANIFEST).is_file())

    def load_last(
        self, cls: type[BaseAlgorithm], env: VecEnv, device: str, problems: list[str]
    ) -> tuple[BaseAlgorithm, dict[str, Any]]:
        """
        The newest checkpoint that is sound.

        :param cls: of the model
        :param env: made as for the run
        :param device: to load to
        :param problems: gets a line for each checkpoint that had to be passed over
        :return: the model, ready to go on, and ``extra``, ``auxiliary`` and ``episodes_go_on``
        :raises NoCheckpointError: when none is sound
        """
        for path in reversed(self.found()):
            try:
                return self._load(path, cls, env, device)
            except Exception as error:  # a broken file can break its reader in any way
                problems.append(f"{path.name} is damaged ({error or type(error).__name__}); trying the one before it")
        raise NoCheckpointError(
            f"no sound checkpoint in {self.folder}" + (f": {'; '.join(problems)}" if problems else ": none was written yet")
        )

    def drop_later(self, path: Path) -> None:
        """
        Remove what a resumed run writes anew. Damaged checkpoints would otherwise count among those that are kept, and push
        sound ones out.

        :param path: of the checkpoint from which the run goes on
        """
        for later in self.found():
            if later.name > path.name:
                shutil.rmtree(later)

    def _load(self, path: Path, cls: type[BaseAlgorithm], env: VecEnv, device: str) -> tuple[BaseAlgorithm, dict[str, Any]]:
        manifest = json.loads((path / _MANIFEST).read_text())
        for name, digest in manifest["files"].items():
            if not (path / name).is_file() or _sha256(path / name) != digest:
                raise DamagedLogError(f"{name} is missing or changed")
        # our own file, verified above: it holds environments' states, which are plain objects but no tensors
        state = th.load(path / "state.pt", map_location="cpu", weights_only=False)
        model = cls.load(path / "model.zip", env=env, device=device, force_reset=False)
        buffer = getattr(model, "replay_buffer", None)
        if isinstance(buffer, FrameReplayBuffer):
            frames = manifest["frames"]
            buffer.restore(state["replay"], [] if frames is None else self.log.read(frames, buffer.frame_shape))
        elif (path / "replay.pkl").is_file():
            model.load_replay_buffer(path / "replay.pkl")  # type: ignore[attr-defined]
        goes_on = restore_envs(model, state["envs"], state.get("episodes"))
        restore_random(model, state["random"])
        return model, {"extra": state["extra"], "auxiliary": state["auxiliary"], "episodes_go_on": goes_on, "path": path}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    """``hashlib.file_digest`` came with Python 3.11."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # Windows cannot open folders
        _sync(path)
