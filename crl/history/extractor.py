"""The part of an SB3 policy that holds the acting encoder of histories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from crl.history.layout import EMBEDDING, HISTORY, LENGTH
from crl.history.single_env import HistoryEnv
from crl.history.spec import HistorySpec
from crl.history.vec_env import HistoryVecEnv
from crl.networks.history_encoder import HistoryEncoder

#: images that go through a CNN at a time where no gradient is needed
_CHUNK = 512


class HistoryExtractor(BaseFeaturesExtractor):
    """
    Features are the observation and, after it, the embedding of the history, of length 1.

    With ``way="embedding"`` the observation holds both, and the encoder in here is the one that the environment's wrapper
    acts by: it is saved and loaded with the model. With ``way="history"`` it encodes in here.

    Of images, a CNN's output takes the observation's place. The agent's loss trains it, as it does any policy's; the rows of
    histories hold its output too (:meth:`see`), without a gradient back.

    :param observation_space: of :class:`HistoryVecEnv`
    :param spec: of the same wrapper
    :param base_space: of the environment inside
    :param action_space: of the environment
    :param trained: the agent's own loss trains the encoder (``way="history"`` alone); otherwise it has no gradient, and
        whoever trains one copies it to here
    :param modelled: False: no encoder, and zeros for embeddings
    :param image_class: CNN for images, an SB3 extractor that takes ``features_dim`` (SB3's ``NatureCNN``, one of
        :mod:`crl.encoders`); its output is ``spec.image_features`` wide
    :param image_kwargs: further arguments of it
    :raises ValueError: for a trained encoder in the environment's wrapper, for images without a CNN, or one without images
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        spec: HistorySpec,
        base_space: spaces.Space,
        action_space: spaces.Space,
        trained: bool = False,
        modelled: bool = True,
        image_class: type[BaseFeaturesExtractor] | None = None,
        image_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if trained and (spec.way != "history" or not modelled):
            raise ValueError("an agent's loss reaches the encoder with HistorySpec(way='history') and modelled=True alone")
        rows = spec.rows(base_space, action_space)
        layout = spec.layout(base_space, rows)
        if (image_class is not None) != layout.of_images:
            raise ValueError(
                f"image_class={image_class}: the environment shows {base_space}; give a CNN for images, and for images alone"
            )
        beside = sum(part.shape[0] for name, part in layout.own.items() if name != layout.name)
        super().__init__(observation_space, rows.observation_dim + beside + spec.embed_dim)
        self.spec = spec
        self.rows = rows
        self.trained = trained
        #: histories are of images
        self.of_images = layout.of_images
        self._image, self._own = layout.name, tuple(layout.own)
        # one module a key, as SB3's CombinedExtractor has them, so that the image's encoder is found
        self.extractors = nn.ModuleDict()
        if image_class is not None:
            image_kwargs = {"features_dim": spec.image_features, **(image_kwargs or {})}
            self.extractors[layout.name] = image_class(layout.kept, **image_kwargs)
        self.encoder: HistoryEncoder | None = None
        if modelled:
            # from the same state, but without moving it: all arms of a comparison begin with the same actor and critic
            with th.random.fork_rng(devices=[]):
                self.encoder = spec.encoder(rows)
            self.encoder.requires_grad_(trained)

    def forward(self, observations: PyTorchObs) -> th.Tensor:
        """``(batch, features_dim)``."""
        if not isinstance(observations, dict):
            return observations
        own = [self._features(name, observations[name]) for name in self._own]
        if EMBEDDING in observations:
            embedding = observations[EMBEDDING]
        elif self.encoder is None:
            embedding = own[0].new_zeros(len(own[0]), self.spec.embed_dim)
        else:
            with th.set_grad_enabled(th.is_grad_enabled() and self.trained):
                lengths = observations[LENGTH][:, 0].long()
                embedding = self.encoder.encode_prefixes(observations[HISTORY], lengths)
        return th.cat([*own, embedding], dim=1)

    def _features(self, name: str, part: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.extractors[name](part) if name in self.extractors else part
        return features

    @th.no_grad()
    def see(self, images: th.Tensor) -> th.Tensor:
        """
        What rows hold of images: output of the policy's CNN as it is now, brought to mean 0 and variance 1 over its columns,
        since its scale drifts as it learns. No gradient comes back to the CNN.

        A picture shows all of the scene, also what is constant in an episode and tells episodes apart: where food lies,
        levels, landmarks. A contrast between episodes can be solved by these alone, without a look at what others do. Of
        vectors, columns are chosen; of features there are none to choose.

        :param images: ``(n, channels, height, width)`` uint8, on any device; scaled as SB3's policies do by default
        :return: ``(n, image_features)`` float32 on the policy's device
        """
        cnn = self.extractors[self._image]
        device = next(cnn.parameters()).device
        features = th.cat([cnn(part.to(device).float() / 255.0) for part in images.split(_CHUNK)])
        return F.layer_norm(features, features.shape[1:])

    def apply(self, fn: Callable[[nn.Module], None]) -> HistoryExtractor:
        """SB3's policies draw the weights of all layers below anew through this; the encoder of histories keeps its own."""
        self.extractors.apply(fn)
        return self

    def view(self, env: gym.Env[Any, Any] | VecEnv) -> gym.Env[Any, Any] | VecEnv:
        """
        :param env: as the agent's was before it was wrapped
        :return: the same as the agent sees it
        """
        see = self.see if self.of_images else None
        if isinstance(env, VecEnv):
            wrapped = HistoryVecEnv(env, self.spec)
            wrapped.bind(self.encoder, see)
            return wrapped
        return HistoryEnv(env, self.spec, self.encoder, see)


def history_extractor(model: BaseAlgorithm) -> HistoryExtractor | None:
    """
    :param model: any
    :return: its extractor of histories; None for models without one
    """
    extractor = getattr(getattr(model, "policy", None), "features_extractor", None)
    return extractor if isinstance(extractor, HistoryExtractor) else None


def seen_by(model: BaseAlgorithm, env: Any) -> Any:
    """
    :param model: any
    :param env: an environment or parallel ones, as :func:`crl.envs.make_env` and ``make_vec_env`` make them
    :return: the same as the model sees it: with histories, if the model was trained on them
    """
    extractor = history_extractor(model)
    return env if extractor is None else extractor.view(env)
