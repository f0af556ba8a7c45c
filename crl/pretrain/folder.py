"""What lies where in a pre-training's folder. Pure Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from crl.runs.folder import RunFolder, RunFolderError

#: what a pre-training's configuration is made of
PARTS = ("pretrain", "objective", "encoder", "augment")


class PretrainFolder(RunFolder):
    """
    ``config.yaml``, ``progress.csv``, TensorBoard events, ``checkpoint.pt``, ``encoder.safetensors``, ``summary.json``.

    :param path: of the folder
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.checkpoint_file = self.path / "checkpoint.pt"
        self.encoder_file = self.path / "encoder.safetensors"

    def config(self) -> dict[str, Any]:
        """
        :raises RunFolderError: when this is no pre-training
        """
        config = _read(self.config_file)
        lacking = [part for part in PARTS if not isinstance(config.get(part), dict)]
        if lacking:
            raise RunFolderError(
                f"{self.path} is no pre-training: its config.yaml lacks {', '.join(lacking)}. 'crl pretrain' makes one"
            )
        return config


def is_pretraining(path: str | Path) -> bool:
    """Whether a folder holds a pre-training (and not a run, or nothing)."""
    try:
        return isinstance(_read(Path(path) / "config.yaml").get("pretrain"), dict)
    except RunFolderError:
        return False


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise RunFolderError(f"{file.parent} is no pre-training: it has no config.yaml. 'crl pretrain' makes one")
    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise RunFolderError(f"{file} cannot be read: {error}") from error
    return config if isinstance(config, dict) else {}
