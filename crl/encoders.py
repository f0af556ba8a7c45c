"""
Pixel encoders as SB3 feature extractors, for any input size.

Every encoder is a convolutional *body* and a *head*: :meth:`BodyHeadEncoder.forward_body` and
:meth:`BodyHeadEncoder.forward_head`. Policies that share the convolutions between actor and critic, and objectives that look
at feature maps, use the two halves; everybody else just calls the encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import nn

from crl.compute import autocast, check_precision, resolve_precision
from crl.networks import (
    HeadStack,
    impala_body,
    initialize,
    nature_body,
    pixel_body,
    pre_norm_dense,
    pre_norm_impala_body,
    rainbow_body,
    rescale,
)

if TYPE_CHECKING:
    from typing_extensions import Self


def check_image_space(space: spaces.Space, normalized_image: bool = False, who: str = "a pixel encoder") -> spaces.Box:
    """
    :param space: to be checked: a channels-first uint8 image box, ``(channels, height, width)`` in 0..255
    :param normalized_image: True: the images are scaled already, to bounds within [-1, 1]
    :param who: begins the error message
    :return: the same space
    :raises ValueError: says what is wrong with the space and which wrapper mends it
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{who} needs an image space (gymnasium.spaces.Box), got {space}")
    if len(space.shape) == 4:
        raise ValueError(
            f"{who} got a 4-D space {space.shape}: gymnasium's FrameStackObservation yields (k, height, width, channels). "
            "Concatenate the frames along the channels, oldest first, to (k * channels, height, width): crl.envs does so, or "
            "stack with SB3's VecFrameStack instead"
        )
    if len(space.shape) != 3:
        raise ValueError(
            f"{who} needs images (channels, height, width), got a space of shape {space.shape}: choose an environment that "
            "shows images, or wrap it so that it does (gymnasium's AddRenderObservation, make_vec_env of crl.envs)"
        )
    if not is_image_space(space, normalized_image=normalized_image):
        raise ValueError(
            f"{who} needs uint8 images in 0..255, got {space.dtype} in [{space.low.min()}, {space.high.max()}]. Declare the "
            "space as Box(0, 255, shape, uint8) (SB3 divides by 255; VecNormalize needs norm_obs=False), or, for images that "
            "are scaled already, pass "
            "policy_kwargs=dict(normalize_images=False, features_extractor_kwargs=dict(normalized_image=True))"
        )
    if normalized_image and not (space.low.min() >= -1.0 and space.high.max() <= 1.0):
        raise ValueError(
            f"{who} was told that images are scaled already, but their space is {space.dtype} in [{space.low.min()}, "
            f"{space.high.max()}]: declare the bounds that they really have, [0, 1] or [-1, 1], or declare Box(0, 255, shape, "
            "uint8) and leave normalize_images and normalized_image out (SB3 divides by 255)"
        )
    if np.argmin(space.shape) != 0 and space.shape[0] > min(space.shape[1:]):
        raise ValueError(
            f"{who} needs channels first (channels, height, width), got {space.shape}: wrap the environment in SB3's "
            "VecTransposeImage (SB3 does it by itself for uint8 images; images that are scaled already need a wrapper)"
        )
    return space


class BodyHeadEncoder(BaseFeaturesExtractor):
    """
    Base of all encoders: centre crop, conv body, head.

    :param observation_space: channels-first image space
    :param body: makes the conv body for a number of input channels
    :param features_dim: width of the output; ignored when ``head="flatten"``
    :param head: ``"layer_norm"``: linear, LayerNorm. ``"tanh"``: linear, LayerNorm, tanh. ``"linear"``: linear alone.
        ``"relu"``: linear, ReLU. ``"flatten"``: the body's output itself.
    :param crop: side of the square that the head is built for; larger input is centre-cropped to it, so that an agent
        trained on random crops of 100x100 acts on 100x100. None: the size of the observation space.
    :param pool_size: None, or the side of a grid that the body's output is average-pooled to before the head: 1 is global
        average pooling, 2 keeps four cells. Removes the large linear layer (39200x50 at 84x84).
    :param init: ``"delta_orthogonal"``, ``"orthogonal"`` or ``"default"`` (torch's). None: the encoder's own, published
        one. On-policy SB3 policies initialise extractors anew unless ``policy_kwargs=dict(ortho_init=False)``.
    :param precision: ``"fp32"``, ``"bf16"`` or ``"auto"`` (bf16 where the hardware is fast at it): of the body alone. Heads
        and everything after stay fp32.
    :param normalized_image: True when observations are scaled already (policies with ``normalize_images=False``)
    :param pixel_offset: taken off the scaled pixels before the body: 0.5 in DrQ-v2, whose encoder sees ``x / 255 - 0.5``. It
        is no weight: a saved encoder has to be loaded into one with the same offset.
    :param rescale: bring each image's map after the body to [0, 1] by its own extremes, as SPR does
    :raises ValueError: for a space that is no channels-first image, or images too small for the body
    """

    #: the published initialisation
    default_init: ClassVar[str] = "delta_orthogonal"
    #: file that :func:`load_encoder` took the weights from
    loaded_from: Path | None = None

    def __init__(
        self,
        observation_space: spaces.Box,
        body: Callable[[int], nn.Module],
        features_dim: int,
        *,
        head: str = "layer_norm",
        crop: int | None = None,
        pool_size: int | None = None,
        init: str | None = None,
        precision: str = "fp32",
        normalized_image: bool = False,
        pixel_offset: float = 0.0,
        rescale: bool = False,
    ) -> None:
        name = type(self).__name__
        check_image_space(observation_space, normalized_image, who=name)
        channels, height, width = observation_space.shape
        if crop is not None and not 1 <= crop <= min(height, width):
            raise ValueError(
                f"{name}(crop={crop}) is {'larger than the frames' if crop > 0 else 'no window'} ({height}x{width}): choose 1 "
                f"to {min(height, width)}, or render larger"
            )
        if head not in ("layer_norm", "tanh", "linear", "relu", "flatten"):
            raise ValueError(f"{name}(head={head!r}): choose 'layer_norm', 'tanh', 'linear', 'relu' or 'flatten'")
        if pool_size is not None and pool_size < 1:
            raise ValueError(f"{name}(pool_size={pool_size}): None, or at least 1")
        if features_dim < 1:
            raise ValueError(f"{name}(features_dim={features_dim}): at least 1")
        super().__init__(observation_space, features_dim)
        self.input_size = (crop, crop) if crop is not None else (height, width)
        self.explicit_init = init
        check_precision(precision)  # here, not at the first forward pass
        self.precision = precision
        self.pixel_offset = pixel_offset
        self.rescale = rescale
        self._body = body(channels)
        self._pool = nn.Identity() if pool_size is None else nn.AdaptiveAvgPool2d(pool_size)
        with th.no_grad():
            try:
                self.map_shape = tuple(self._body(th.zeros(1, channels, *self.input_size)).shape[1:])
            except RuntimeError as error:
                raise ValueError(
                    f"{name}: images of {self.input_size[0]}x{self.input_size[1]} are too small for its convolutions: render "
                    "larger, or take PixelEncoder with fewer layers"
                ) from error
            if pool_size is not None and pool_size > min(self.map_shape[1:]):
                raise ValueError(
                    f"{name}(pool_size={pool_size}) is larger than the convolutions' output "
                    f"({self.map_shape[1]}x{self.map_shape[2]}): choose 1 to {min(self.map_shape[1:])}, or None"
                )
            n_flatten = self._pool(th.zeros(1, *self.map_shape)).numel()
        layers: list[nn.Module] = [nn.Flatten()]
        if head == "flatten":
            self._features_dim = n_flatten
        else:
            layers.append(nn.Linear(n_flatten, features_dim))
        if head in ("layer_norm", "tanh"):
            layers.append(nn.LayerNorm(features_dim))
        if head == "tanh":
            layers.append(nn.Tanh())
        if head == "relu":
            layers.append(nn.ReLU())
        self._head = HeadStack(*layers)
        self.init = init or self.default_init
        initialize(self, self.init)

    @property
    def body(self) -> nn.Module:
        """The conv body: the part that policies share and route gradients to."""
        return self._body

    @property
    def head(self) -> nn.Module:
        """What follows the body (and the pooling, which has no weights)."""
        return self._head

    def make_head(self) -> EncoderHead:
        """A new, freshly initialised head for the same body (an actor's own)."""
        head = copy.deepcopy(self._head)
        for layer in head:
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                layer.reset_parameters()
        initialize(head, self.init)
        return EncoderHead(HeadStack(copy.deepcopy(self._pool), *head), self.features_dim)

    def forward_body(self, images: th.Tensor) -> th.Tensor:
        """
        :param images: ``(batch, channels, height, width)`` float, scaled; of ``input_size``, or of the observation space's
            size, which is centre-cropped to it
        :return: ``(batch, *map_shape)`` float32, in whatever memory format the convolutions leave it
        :raises ValueError: for images of a size that the head was not built for
        """
        if images.shape[-2:] != self.input_size:
            images = self._centre_crop(images)
        if self.pixel_offset:
            images = images - self.pixel_offset  # not in place: the images are the caller's
        precision = resolve_precision(self.precision, images.device)
        if precision == "fp32":
            feature_map = self._body(images)
        else:
            with autocast(precision, images.device):
                feature_map = self._body(images.contiguous(memory_format=th.channels_last)).float()
        return rescale(feature_map) if self.rescale else feature_map

    def forward_head(self, feature_map: th.Tensor) -> th.Tensor:
        """
        :param feature_map: what :meth:`forward_body` returned
        :return: ``(batch, features_dim)`` float32
        """
        return self._head(self._pool(feature_map))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Body and head."""
        return self.forward_head(self.forward_body(observations))

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """
        See :meth:`torch.nn.Module.apply`.

        :raises ValueError: when SB3 is about to overwrite loaded weights by an initialisation
        """
        # An extractor that loads weights in its constructor: on-policy policies would initialise it anew without a word
        if self.loaded_from is not None and getattr(fn, "func", fn) is BasePolicy.init_weights:
            raise ValueError(
                f"the encoder's weights come from {self.loaded_from}, and on-policy SB3 policies initialise extractors anew: "
                "pass policy_kwargs=dict(ortho_init=False) to keep them"
            )
        return super().apply(fn)

    def _centre_crop(self, images: th.Tensor) -> th.Tensor:
        (height, width), (h, w) = images.shape[-2:], self.input_size
        full = tuple(self._observation_space.shape[-2:])  # type: ignore[index]
        # Images between the two sizes come from an augmentation that crops to another size than ours
        if (height, width) != full:
            raise ValueError(
                f"{type(self).__name__} was built for {h}x{w} and got {height}x{width}. If the replay buffer augments with "
                f"RandomCrop, the encoder needs the same size: features_extractor_kwargs=dict(crop={height}); shifts keep it"
            )
        top, left = (height - h) // 2, (width - w) // 2
        return images[..., top : top + h, left : left + w]


class EncoderHead(nn.Module):
    """
    A head of its own on somebody else's body.

    :param layers: from feature map to ``(batch, features_dim)``
    :param features_dim: width of the output
    """

    def __init__(self, layers: nn.Sequential, features_dim: int) -> None:
        super().__init__()
        self.layers = layers
        self.features_dim = features_dim

    def forward(self, feature_map: th.Tensor) -> th.Tensor:
        """``(batch, filters, height, width)`` to ``(batch, features_dim)``."""
        return self.layers(feature_map)


class PixelEncoder(BodyHeadEncoder):
    """
    The encoder of CURL and DrQ: four 3x3 convolutions with 32 filters, strides 2, 1, 1, 1, then linear to 50 and LayerNorm
    (``head="tanh"`` adds DrQ's tanh; CURL's code has none).

    :param observation_space: channels-first image space
    :param features_dim: 50 as published
    :param filters: of every layer
    :param layers: number of convolutions
    :param kwargs: see :class:`BodyHeadEncoder`
    """

    def __init__(
        self, observation_space: spaces.Box, features_dim: int = 50, *, filters: int = 32, layers: int = 4, **kwargs: Any
    ) -> None:
        if filters < 1 or layers < 1:
            raise ValueError(f"PixelEncoder(filters={filters}, layers={layers}): both at least 1")
        super().__init__(observation_space, lambda channels: pixel_body(channels, filters, layers), features_dim, **kwargs)


class NatureEncoder(BodyHeadEncoder):
    """
    DQN's encoder (Mnih et al. 2015) with body and head apart: SB3's ``NatureCNN`` for crl's policies.

    :param observation_space: channels-first image space
    :param features_dim: 512 as published
    :param padding: ``"valid"`` as published, or ``"same"`` as in Dopamine, see :func:`crl.networks.nature_body`
    :param kwargs: see :class:`BodyHeadEncoder`; the head is linear and ReLU
    """

    default_init = "default"

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 512,
        *,
        padding: str = "valid",
        head: str = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, lambda channels: nature_body(channels, padding), features_dim, head=head, **kwargs)


class RainbowEncoder(BodyHeadEncoder):
    """
    The encoder of data-efficient Rainbow (van Hasselt et al. 2019): two 5x5 convolutions with stride 5, flattened
    (576 features at 84x84).

    :param observation_space: channels-first image space
    :param features_dim: used by heads other than ``"flatten"``
    :param kwargs: see :class:`BodyHeadEncoder`
    """

    default_init = "default"

    def __init__(
        self, observation_space: spaces.Box, features_dim: int = 256, *, head: str = "flatten", **kwargs: Any
    ) -> None:
        super().__init__(observation_space, rainbow_body, features_dim, head=head, **kwargs)


class ImpalaEncoder(BodyHeadEncoder):
    """
    IMPALA's residual encoder (Espeholt et al. 2018), linear to 256 and ReLU.

    :param observation_space: channels-first image space
    :param features_dim: 256 as published
    :param width: multiplies the filters (16, 32, 32)
    :param kwargs: see :class:`BodyHeadEncoder`
    """

    default_init = "default"

    def __init__(
        self, observation_space: spaces.Box, features_dim: int = 256, *, width: float = 1.0, head: str = "relu", **kwargs: Any
    ) -> None:
        if width <= 0:
            raise ValueError(f"ImpalaEncoder(width={width}): must be positive")
        super().__init__(observation_space, lambda channels: impala_body(channels, width), features_dim, head=head, **kwargs)


class PreNormImpalaEncoder(BodyHeadEncoder):
    """
    The encoder of Achievement Distillation and its PPO (Moon et al. 2023, arXiv:2307.03486): IMPALA's residual body, wider
    and with normalised inputs, and two dense layers. Its features end in ReLU, so none is negative.

    :param observation_space: channels-first image space
    :param features_dim: 1024 as published
    :param filters: of the three stacks
    :param hidden_dim: width of the dense layer between body and features
    :param kwargs: ``crop``, ``precision`` and ``normalized_image`` of :class:`BodyHeadEncoder`; the weights' initialisation is
        part of the architecture, policies of on-policy agents need ``ortho_init=False``
    :raises ValueError: for a width below 1
    """

    default_init = "default"

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 1024,
        *,
        filters: Sequence[int] = (64, 128, 128),
        hidden_dim: int = 256,
        **kwargs: Any,
    ) -> None:
        if hidden_dim < 1:
            raise ValueError(f"PreNormImpalaEncoder(hidden_dim={hidden_dim}): at least 1")
        refused = sorted(set(kwargs) - {"crop", "precision", "normalized_image"})
        if refused:
            raise ValueError(
                f"PreNormImpalaEncoder({refused[0]}=...): its head and initialisation are fixed; it takes features_dim, "
                "filters, hidden_dim, crop, precision and normalized_image"
            )
        super().__init__(
            observation_space,
            lambda channels: pre_norm_impala_body(channels, filters),
            features_dim,
            head="flatten",
            **kwargs,
        )
        self.hidden_dim = hidden_dim
        self._n_flatten = self._features_dim
        self._features_dim = features_dim
        self._head = self._new_head()

    def _new_head(self) -> HeadStack:
        first = pre_norm_dense(self._n_flatten, self.hidden_dim, norm=1.4)
        return HeadStack(nn.Flatten(), *first, *pre_norm_dense(self.hidden_dim, self.features_dim))

    def make_head(self) -> EncoderHead:
        """A new, freshly initialised head for the same body."""
        return EncoderHead(self._new_head().to(next(self.parameters()).device), self.features_dim)


#: as recipes name them (PreNormImpalaEncoder belongs to agents that have no choice)
ENCODERS: dict[str, type[BodyHeadEncoder]] = {
    "pixel": PixelEncoder,
    "nature": NatureEncoder,
    "rainbow": RainbowEncoder,
    "impala": ImpalaEncoder,
}


class ModelEncoder(nn.Module):
    """
    What an objective gets as the agent's encoder (:class:`crl.contract.Encoder`): an SB3 feature extractor with the scaling
    that the policy puts before it. Calls take raw observations in 0..255.

    :param extractor: the agent's extractor; for Dict observations the one of the image key
    :param space: image space
    :param normalize_images: of the policy: divide by 255
    :param target: the encoder of the agent's target network, if any
    """

    def __init__(
        self, extractor: nn.Module, space: spaces.Box, normalize_images: bool = True, target: ModelEncoder | None = None
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.space = space
        self.normalize_images = normalize_images
        self.features_dim: int = extractor.features_dim  # type: ignore[assignment]
        self._target = (target,)  # a tuple: the target is neither a parameter of ours nor part of our state

    @property
    def target(self) -> ModelEncoder | None:
        """The agent's target encoder."""
        return self._target[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelEncoder:
        # Copies are made for EMA keys, which have no target of their own
        return ModelEncoder(copy.deepcopy(self.extractor, memo), self.space, self.normalize_images)

    def _preprocess(self, obs: th.Tensor) -> th.Tensor:
        scaled = preprocess_obs(obs, self.space, normalize_images=self.normalize_images)
        assert isinstance(scaled, th.Tensor)
        return scaled

    def forward(self, obs: th.Tensor) -> th.Tensor:
        """``(batch, channels, height, width)`` in 0..255 to ``(batch, features_dim)``."""
        return self.extractor(self._preprocess(obs))

    def feature_map(self, obs: th.Tensor) -> th.Tensor:
        """``(batch, channels, height, width)`` in 0..255 to the last conv layer's ``(batch, filters, height', width')``."""
        if isinstance(self.extractor, BodyHeadEncoder):
            return self.extractor.forward_body(self._preprocess(obs))
        if isinstance(self.extractor, NatureCNN):
            return self.extractor.cnn[:-1](self._preprocess(obs))  # the last module flattens
        raise self._has_no_parts()

    def forward_head(self, feature_map: th.Tensor) -> th.Tensor:
        """The last conv layer's ``(batch, filters, height', width')`` to ``(batch, features_dim)``."""
        if isinstance(self.extractor, BodyHeadEncoder):
            return self.extractor.forward_head(feature_map)
        if isinstance(self.extractor, NatureCNN):
            return self.extractor.linear(feature_map.flatten(1))
        raise self._has_no_parts()

    def _has_no_parts(self) -> ValueError:
        return ValueError(
            f"{type(self.extractor).__name__} does not tell its conv body from its head, so it has no feature map: "
            "use an encoder of crl (PixelEncoder, NatureEncoder, RainbowEncoder, ImpalaEncoder) or SB3's NatureCNN"
        )


def image_extractor(extractor: nn.Module, key: str | None) -> nn.Module:
    """
    The part of an extractor that sees the image.

    :param extractor: of a policy
    :param key: the image's key in a Dict observation, None for plain images
    :raises ValueError: for a Dict extractor that is not built from one sub-module a key
    """
    if key is None:
        return extractor
    parts = getattr(extractor, "extractors", None)
    if not isinstance(parts, nn.ModuleDict) or key not in parts:
        raise ValueError(
            f"{type(extractor).__name__} has no sub-module for the image key {key!r}: use SB3's CombinedExtractor, or a "
            "subclass that keeps one module a key in `self.extractors`"
        )
    part = parts[key]
    if isinstance(extractor, CombinedExtractor) and not hasattr(part, "features_dim"):
        raise ValueError(f"the sub-module of {key!r} is a {type(part).__name__}, not an image encoder")
    return part


def save_encoder(encoder: nn.Module, path: str | Path) -> Path:
    """
    Write an encoder's weights as safetensors (nothing in such a file is ever executed).

    :param encoder: a feature extractor, e.g. ``model.policy.critic.features_extractor``
    :param path: file to write; ``.safetensors`` is added when there is no suffix
    :return: the path written
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory, and knows contiguous ones only
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in encoder.state_dict().items()}
    save_file(tensors, path, metadata={"format": "crl-encoder-1", "class": type(encoder).__name__})
    return path


def load_encoder(encoder: nn.Module, path: str | Path) -> None:
    """
    Load weights written by :func:`save_encoder`, in place. With an SB3 model, load into every copy that should start from
    them: ``model.policy.critic.features_extractor`` and ``model.policy.critic_target.features_extractor``.

    :param encoder: a feature extractor of the same architecture
    :param path: safetensors file; ``.safetensors`` is added when there is no suffix
    :raises FileNotFoundError: when there is no such file
    :raises ValueError: when it is no safetensors file, or names or shapes differ; says which
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"no encoder file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            made_by = (file.metadata() or {}).get("class", "an unknown class")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): save_encoder writes them") from error
    own = encoder.state_dict()
    wrong = [
        f"{n}: file {tuple(stored[n].shape)}, encoder {tuple(own[n].shape)}"
        for n in own
        if n in stored and stored[n].shape != own[n].shape
    ]
    wrong += [f"{n}: not in the file" for n in own if n not in stored] + [
        f"{n}: not in the encoder" for n in stored if n not in own
    ]
    if wrong:
        raise ValueError(
            f"{path} was saved from {made_by} and does not fit this {type(encoder).__name__}: {'; '.join(wrong[:5])}"
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
    encoder.load_state_dict(stored)
    if isinstance(encoder, BodyHeadEncoder):
        encoder.loaded_from = path
