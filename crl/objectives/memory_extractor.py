"""A feature extractor for an image and the representation of the sub-goal that was reached last."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

#: keys of observations with a goal memory
IMAGE, MEMORY = "image", "memory"


def memory_space(image: spaces.Box, width: int) -> spaces.Dict:
    """
    :param image: channels-first image space
    :param width: of the encoder's output
    :return: space of observations with a goal memory
    """
    return spaces.Dict({IMAGE: image, MEMORY: spaces.Box(-1.0, 1.0, (width,), np.float32)})


def memory_width(space: spaces.Space) -> int:
    """
    :param space: of a policy's observations
    :return: width of its goal memory; 0: it has none
    """
    if not isinstance(space, spaces.Dict) or set(space.spaces) != {IMAGE, MEMORY}:
        return 0
    return int(np.prod(space[MEMORY].shape or (0,)))


class MemoryExtractor(BaseFeaturesExtractor):
    """
    The encoder's output for the image, with the goal memory behind it.

    :param observation_space: of :func:`memory_space`
    :param encoder_class: of the image
    :param encoder_kwargs: of the encoder
    :raises ValueError: for other observations, or an encoder of another width than the memory's
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        encoder_class: type[BaseFeaturesExtractor],
        encoder_kwargs: dict[str, Any] | None = None,
    ) -> None:
        width = memory_width(observation_space)
        if not width:
            raise ValueError(
                f"MemoryExtractor needs observations of GoalMemory, {IMAGE!r} and {MEMORY!r}; got {observation_space}"
            )
        super().__init__(observation_space, 2 * width)
        encoder = encoder_class(observation_space[IMAGE], **(encoder_kwargs or {}))
        if encoder.features_dim != width:
            raise ValueError(
                f"the memory has width {width}, {encoder_class.__name__} gives {encoder.features_dim}: make "
                f"GoalMemory(env, features_dim={encoder.features_dim})"
            )
        # as SB3's CombinedExtractor has them, so that objectives find the image's encoder
        self.extractors = nn.ModuleDict({IMAGE: encoder, MEMORY: nn.Flatten()})

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """``(batch, 2 * width)`` float32."""
        return th.cat([self.extractors[IMAGE](observations[IMAGE]), self.extractors[MEMORY](observations[MEMORY])], dim=1)
