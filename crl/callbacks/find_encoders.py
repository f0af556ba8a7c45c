"""Finds the online encoders of any SB3 or sb3-contrib model, their optimisers and their target copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from crl.encoders import BodyHeadEncoder, ModelEncoder, check_image_space, image_extractor

#: attribute names of extractors, as SB3 uses them, to the names that users see
_NAMES = {"features_extractor": "shared", "pi_features_extractor": "pi", "vf_features_extractor": "vf"}


@dataclass(frozen=True)
class FoundEncoder:
    """
    One online encoder of a model.

    :param name: ``"critic"``, ``"actor"``, ``"q_net"``, ``"shared"``, ``"pi"``, ``"vf"`` ...
    :param encoder: as objectives see it
    :param optimizer: whose step moves its convolutions. Where two hold it (TD3 with a shared extractor), the critic's,
        since that one steps at every update.
    """

    name: str
    encoder: ModelEncoder
    optimizer: th.optim.Optimizer


def image_space(model: BaseAlgorithm, image_key: str | None = None) -> tuple[spaces.Box, str | None]:
    """
    :param model: any SB3 model
    :param image_key: of Dict observations with several images, the one that is meant
    :return: its image space and, for Dict observations, the key of the image
    :raises ValueError: when there is no image, none of this key, more than one to choose from, or a space that SB3 would not
        treat as an image
    """
    space = model.observation_space
    scaled_already = not model.policy.normalize_images
    if not isinstance(space, spaces.Dict):
        if image_key is not None:
            raise ValueError(f"image_key={image_key!r}: the observations are no dictionary, {space}")
        return check_image_space(space, scaled_already, who=f"{type(model).__name__}'s observation"), None
    keys = [key for key, sub in space.spaces.items() if is_image_space(sub, normalized_image=scaled_already)]
    if not keys or (image_key is not None and image_key not in keys):
        wanted = "no image" if image_key is None else f"no image {image_key!r}"
        raise ValueError(f"{wanted} in a Dict observation of {list(space.spaces)}: images are {keys or 'none'}")
    if image_key is None and len(keys) > 1:
        raise ValueError(f"a Dict observation with several images, {keys}: choose one by image_key=")
    key = image_key or keys[0]
    return check_image_space(space[key], scaled_already, who=f"the observation {key!r}"), key


def find_encoders(model: BaseAlgorithm, only: list[str] | None = None, image_key: str | None = None) -> list[FoundEncoder]:
    """
    All online encoders of a model, each once.

    :param model: any SB3 or sb3-contrib model with a pixel encoder
    :param only: names to choose; None takes all
    :param image_key: see :func:`image_space`
    :raises ValueError: when the model has no trainable image encoder, or no encoder of a chosen name
    """
    space, key = image_space(model, image_key)
    policy = model.policy
    modules = dict(policy.named_modules())
    optimizers = _optimizers(policy)
    found: list[FoundEncoder] = []
    seen: set[int] = set()
    taken: list[str] = []
    for path, module in modules.items():
        inside_another = any(path.startswith(f"{outer}.") for outer in taken)
        if not isinstance(module, BaseFeaturesExtractor) or inside_another or id(module) in seen:
            continue
        taken.append(path)
        seen.add(id(module))
        owner, _, attribute = path.rpartition(".")
        if owner.endswith("_target") or not any(True for _ in module.parameters()):
            continue
        part = image_extractor(module, key)
        optimizer = _owner(part, optimizers)
        if optimizer is None:
            continue
        copy = modules.get(f"{owner}_target.{attribute}") if owner else None
        target = None if copy is None else ModelEncoder(image_extractor(copy, key), space, policy.normalize_images)
        encoder = ModelEncoder(part, space, policy.normalize_images, target)
        found.append(FoundEncoder(_name(path, policy), encoder, optimizer))
    if not found:
        raise ValueError(
            f"{type(model).__name__} with {type(policy).__name__} has no image encoder to train: use 'CnnPolicy' "
            "('MultiInputPolicy' for Dict observations), or policy_kwargs=dict(features_extractor_class=PixelEncoder)"
        )
    names = [item.name for item in found]
    unknown = [name for name in only or [] if name not in names]
    if unknown:
        raise ValueError(f"encoders={only}: this model has no {unknown}; it has {names}")
    return [item for item in found if only is None or item.name in only]


def check_initialisation(model: BaseAlgorithm, encoders: list[FoundEncoder]) -> None:
    """
    :raises ValueError: when SB3's on-policy ``ortho_init`` has overwritten an initialisation that was asked for
    """
    # not by class: MaskablePPO's policy re-initialises alike and is no ActorCriticPolicy
    if not getattr(model.policy, "ortho_init", False):
        return
    for item in encoders:
        extractor = item.encoder.extractor
        if isinstance(extractor, BodyHeadEncoder) and extractor.explicit_init not in (None, "orthogonal"):
            raise ValueError(
                f"init={extractor.explicit_init!r} was asked for the encoder, but on-policy SB3 policies initialise "
                "extractors anew (orthogonal): pass policy_kwargs=dict(ortho_init=False) to keep it"
            )


def _name(path: str, policy: nn.Module) -> str:
    owner, _, attribute = path.rpartition(".")
    if owner:
        return owner.rpartition(".")[2]
    if attribute == "features_extractor" and getattr(policy, "share_features_extractor", True) is False:
        return "pi"  # on-policy SB3 keeps the actor's extractor under both names
    return _NAMES.get(attribute, attribute)


def _optimizers(policy: nn.Module) -> list[th.optim.Optimizer]:
    """Every optimiser that hangs on the policy or one of its parts, critics' before actors'."""
    found: dict[int, th.optim.Optimizer] = {}
    parts = sorted(policy.named_modules(), key=lambda item: item[0].startswith("actor"))
    for _, module in parts:
        for value in vars(module).values():
            if isinstance(value, th.optim.Optimizer):
                found[id(value)] = value
    return list(found.values())


def _owner(module: nn.Module, optimizers: list[th.optim.Optimizer]) -> th.optim.Optimizer | None:
    """The optimiser of the first layer: a head may belong to another one than the convolutions."""
    first = next(module.parameters())
    for optimizer in optimizers:
        if any(parameter is first for group in optimizer.param_groups for parameter in group["params"]):
            return optimizer
    return None
