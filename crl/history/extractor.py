"""The part of an SB3 policy that holds the acting encoder of histories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from crl.history.single_env import HistoryEnv
from crl.history.spec import HistorySpec
from crl.history.vec_env import HistoryVecEnv
from crl.networks.history_encoder import HistoryEncoder


class HistoryExtractor(BaseFeaturesExtractor):
    """
    Features are the observation and, after it, the embedding of the history, of length 1.

    With ``way="embedding"`` the observation holds both, and the encoder in here is the one that the environment's wrapper
    acts by: it is saved and loaded with the model. With ``way="history"`` it encodes in here.

    :param observation_space: of :class:`HistoryVecEnv`
    :param spec: of the same wrapper
    :param base_space: of the environment inside, ``(n,)``
    :param action_space: of the environment
    :param trained: the agent's own loss trains the encoder (``way="history"`` alone); otherwise it has no gradient, and
        whoever trains one copies it to here
    :param modelled: False: no encoder, and zeros for embeddings
    :raises ValueError: for a trained encoder in the environment's wrapper
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        spec: HistorySpec,
        base_space: spaces.Space,
        action_space: spaces.Space,
        trained: bool = False,
        modelled: bool = True,
    ) -> None:
        if trained and (spec.way != "history" or not modelled):
            raise ValueError("an agent's loss reaches the encoder with HistorySpec(way='history') and modelled=True alone")
        rows = spec.rows(base_space, action_space)
        super().__init__(observation_space, rows.observation_dim + spec.embed_dim)
        self.spec = spec
        self.rows = rows
        self.trained = trained
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
        own = observations["observation"]
        if self.encoder is None:
            return th.cat([own, own.new_zeros(len(own), self.spec.embed_dim)], dim=1)
        with th.set_grad_enabled(th.is_grad_enabled() and self.trained):
            lengths = observations["length"][:, 0].long()
            embedding = self.encoder.encode_prefixes(observations["history"], lengths)
        return th.cat([own, embedding], dim=1)

    def apply(self, fn: Callable[[nn.Module], None]) -> HistoryExtractor:
        """SB3's policies draw the weights of all layers below anew through this; the encoder keeps its own."""
        return self

    def view(self, env: gym.Env[Any, Any] | VecEnv) -> gym.Env[Any, Any] | VecEnv:
        """
        :param env: as the agent's was before it was wrapped
        :return: the same as the agent sees it
        """
        if isinstance(env, VecEnv):
            wrapped = HistoryVecEnv(env, self.spec)
            wrapped.bind(self.encoder)
            return wrapped
        return HistoryEnv(env, self.spec, self.encoder)


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
