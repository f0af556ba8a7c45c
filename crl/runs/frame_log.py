"""Frames of a replay buffer on disk: appended, never rewritten, and only as far as a checkpoint says they count."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from crl.replay import FrameReplayBuffer

#: frames in one file; old files are removed as wholes
_FRAMES_PER_FILE = 2048


class DamagedLogError(RuntimeError):
    """Frames that a checkpoint refers to are missing or changed."""


class FrameLog:
    """
    For each environment files of consecutive frames. A checkpoint stores, for each file, how many frames of it count and their
    hash: what lies behind is of no meaning, so a run that dies while appending has lost nothing. Frames of a complete
    checkpoint are never overwritten; files are removed when no kept checkpoint refers to them.

    :param folder: of the files
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # running hashes of the files that are still growing, so that appending does not mean reading again
        self._hashes: dict[str, Any] = {}
        self._lengths: dict[str, int] = {}

    def _name(self, env: int, index: int) -> str:
        return f"env{env}-{index:06d}.u8"

    def append(self, buffer: FrameReplayBuffer) -> dict[str, Any]:
        """
        Write the buffer's new frames.

        :param buffer: with at least one transition
        :return: what the checkpoint must store
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        assert buffer.frames is not None
        record: dict[str, Any] = {"envs": []}
        for env in range(buffer.n_envs):
            first, head = buffer.live_range(env)
            files = {}
            for index in range(first // _FRAMES_PER_FILE, -(-head // _FRAMES_PER_FILE)):
                files[self._name(env, index)] = self._append_file(buffer, env, index, first, head)
            record["envs"].append({"first": first, "head": head, "files": files})
        return record

    def _append_file(self, buffer: FrameReplayBuffer, env: int, index: int, first: int, head: int) -> dict[str, Any]:
        assert buffer.frames is not None
        name = self._name(env, index)
        start = index * _FRAMES_PER_FILE
        if name not in self._hashes:
            # a new file may begin after its nominal first frame: those before are no longer in the buffer
            self._hashes[name] = [hashlib.blake2b(digest_size=16), max(start, first)]
            self._lengths[name] = 0
        digest, begin = self._hashes[name]
        have = begin + self._lengths[name]
        end = min(head, start + _FRAMES_PER_FILE)
        if end > have:
            data = buffer.frames.export(env, have, end).tobytes()
            with (self.folder / name).open("r+b" if self._lengths[name] else "wb") as file:
                file.seek(self._lengths[name] * buffer.frames.frame_bytes)
                file.write(data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            digest.update(data)
            self._lengths[name] = end - begin
        return {"begin": begin, "length": self._lengths[name], "blake2b": digest.hexdigest()}

    def read(self, record: dict[str, Any], frame_shape: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
        """
        Frames of a checkpoint, verified; the log goes on after them.

        :param record: from :meth:`append`
        :param frame_shape: ``(channels, height, width)``
        :return: for each environment the number of the first frame, and the frames
        :raises DamagedLogError: when something is missing or changed
        """
        size = int(np.prod(frame_shape))
        self._hashes, self._lengths = {}, {}
        out = []
        for env in record["envs"]:
            parts = []
            for name, entry in env["files"].items():
                path = self.folder / name
                if not path.is_file() or path.stat().st_size < entry["length"] * size:
                    raise DamagedLogError(f"{path} is shorter than the checkpoint says")
                with path.open("rb") as file:
                    data = file.read(entry["length"] * size)
                digest = hashlib.blake2b(data, digest_size=16)
                if digest.hexdigest() != entry["blake2b"]:
                    raise DamagedLogError(f"{path} has changed since the checkpoint")
                self._hashes[name], self._lengths[name] = [digest, entry["begin"]], entry["length"]
                frames = np.frombuffer(data, dtype=np.uint8).reshape(entry["length"], *frame_shape)
                parts.append(frames[max(0, env["first"] - entry["begin"]) :])
            out.append((env["first"], np.concatenate(parts)))
        return out

    def prune(self, records: list[dict[str, Any]]) -> None:
        """
        :param records: of the checkpoints that are kept; files that none of them names are removed
        """
        named = {name for record in records for env in record["envs"] for name in env["files"]}
        for path in self.folder.glob("env*.u8"):
            if path.name not in named:
                path.unlink()
                self._hashes.pop(path.name, None)
                self._lengths.pop(path.name, None)
