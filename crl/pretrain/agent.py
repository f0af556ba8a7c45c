"""An SB3 agent that starts from a pre-trained encoder, frozen or fine-tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from crl.callbacks.find_encoders import find_encoders
from crl.encoders import load_encoder
from crl.pretrain.folder import PretrainFolder
from crl.pretrain.parts import ENCODERS


def pretrained_policy_kwargs(folder: str | Path) -> dict[str, Any]:
    """
    :param folder: of a pre-training
    :return: ``policy_kwargs`` with which an SB3 policy builds an encoder of the same architecture
    :raises crl.runs.folder.RunFolderError: when this is no pre-training
    """
    encoder = PretrainFolder(folder).config()["encoder"]
    return {"features_extractor_class": ENCODERS[encoder["name"]], "features_extractor_kwargs": dict(encoder["kwargs"])}


def load_pretrained(
    model: BaseAlgorithm, path: str | Path, frozen: bool = False, encoders: list[str] | None = None
) -> list[str]:
    """
    Load a pre-trained encoder into all encoders of an SB3 or sb3-contrib model, those of its target networks included. Call it
    after the model was made: on-policy policies initialise extractors anew when they are made.

    The actor of crl's own policies (``PixelSACPolicy`` ...) looks at the critic's convolutions through a head of its own; that
    head starts afresh.

    :param model: with encoders of the same architecture, see :func:`pretrained_policy_kwargs`
    :param path: folder of a pre-training, or a file that :func:`crl.encoders.save_encoder` wrote
    :param frozen: no gradient moves the loaded weights. (``model.load`` makes a model anew: call this again after it.)
    :param encoders: names of those to load into (``"critic"``, ``"actor"``, ``"q_net"`` ...); None: all
    :return: names of the encoders that were loaded
    :raises FileNotFoundError: when there is no such file
    :raises ValueError: when the architectures differ, or the model has no encoder of a name
    """
    path = PretrainFolder(path).encoder_file if Path(path).is_dir() else Path(path)
    found = find_encoders(model, encoders)
    for item in found:
        for encoder in (item.encoder, item.encoder.target):
            if encoder is None:
                continue
            load_encoder(encoder.extractor, path)
            if frozen:
                encoder.extractor.requires_grad_(False)
    return [item.name for item in found]
