"""An actor-critic policy whose value head predicts normalised returns."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from crl.encoders import PreNormImpalaEncoder
from crl.networks import ValueNormalizer


class NormalizedValuePolicy(ActorCriticPolicy):
    """
    SB3's actor-critic policy with one encoder and two linear heads, as Moon et al. (2023, arXiv:2307.03486) run PPO.

    Values are on two scales. What is acted and bootstrapped with, ``forward`` and ``predict_values``, are returns;
    ``evaluate_actions``, which losses are made of, gives what the head predicts: *normalised* returns.

    :param observation_space: see SB3; Dict observations need an extractor for them
    :param action_space: see SB3
    :param lr_schedule: see SB3
    :param features_extractor_class: the encoder
    :param value_beta: share of the running statistics that an update keeps; None: values are not normalised
    :param kwargs: see SB3's ActorCriticPolicy; ``net_arch`` and ``ortho_init`` are fixed
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        features_extractor_class: type[BaseFeaturesExtractor] = PreNormImpalaEncoder,
        value_beta: float | None = 0.99,
        **kwargs: Any,
    ) -> None:
        for name in ("net_arch", "ortho_init"):
            if kwargs.pop(name, None):
                raise ValueError(f"{type(self).__name__}({name}=...): heads are one linear layer each, initialised by itself")
        self.value_beta = value_beta
        if kwargs.get("optimizer_kwargs") is None:
            # SB3 would take 1e-5
            kwargs["optimizer_kwargs"] = {"eps": 1e-8}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            ortho_init=False,
            features_extractor_class=features_extractor_class,
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        heads: list[tuple[Any, float]] = [(self.action_net, 0.01), (self.value_net, 0.1)]
        for head, gain in heads:
            nn.init.orthogonal_(head.weight, gain)
            nn.init.zeros_(head.bias)
        self.value_normalizer = None if self.value_beta is None else ValueNormalizer(self.value_beta)

    def _returns(self, values: th.Tensor) -> th.Tensor:
        return values if self.value_normalizer is None else self.value_normalizer.denormalize(values)

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param obs: see SB3
        :param deterministic: the likeliest actions
        :return: actions, values as returns ``(batch, 1)``, and the actions' log-probabilities
        """
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, self._returns(values), log_prob

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """Values as returns, ``(batch, 1)``."""
        return self._returns(super().predict_values(obs))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = {**super()._get_constructor_parameters(), "value_beta": self.value_beta}
        del parameters["net_arch"], parameters["ortho_init"]
        return parameters
