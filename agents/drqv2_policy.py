"""The policy of DrQ-v2: one conv body, a trunk each for actor, critic and target critic."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3.policies import Actor as TD3Actor

from crl.agents.pixel_agent import min_q
from crl.networks import ema_update, initialize
from crl.policies import EncoderGradient, OnSharedBody, PixelCritic, PixelTD3Actor, PixelTD3Policy


class DrQv2Actor(PixelTD3Actor):
    """Trunk and deterministic policy that can be asked for actions by the conv body's output."""

    def mean(self, feature_map: th.Tensor) -> th.Tensor:
        """
        :param feature_map: the conv body's output, ``(batch, filters, height, width)``
        :return: actions without noise, ``(batch, action_dim)`` in [-1, 1]
        """
        return self.mu(self.features_extractor(feature_map))


class DrQv2TargetCritic(OnSharedBody, ContinuousCritic):
    """Trunk and Q networks of the target, on the critic's own conv body: DrQ-v2 has no target encoder."""

    def min_q(self, feature_map: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param feature_map: output of the critic's conv body, ``(batch, filters, height, width)``
        :param actions: ``(batch, action_dim)`` in [-1, 1]
        :return: the smallest Q value, ``(batch, 1)``
        """
        return min_q(self, self.features_extractor(feature_map), actions)

    def follow(self, critic: PixelCritic, tau: float) -> None:
        """
        One EMA step towards a critic.

        :param critic: with the same trunk and Q networks
        :param tau: rate in [0, 1]; 1 copies
        """
        ema_update(self.features_extractor, critic.features_extractor.head, tau)
        for target, online in zip(self.q_networks, critic.q_networks, strict=True):
            ema_update(target, online, tau)


class DrQv2Policy(PixelTD3Policy):
    """
    Policy of DrQ-v2 (Yarats et al. 2021, arXiv:2107.09645). The encoder (conv body, and the critic's trunk as its head) is the
    critic's and moved by its loss; actor and target critic have trunks of their own on the same body. There is no target actor
    and no target encoder. Linear layers are orthogonal with zero biases.

    :param observation_space: channels-first image space
    :param action_space: Box
    :param lr_schedule: learning rate
    :param net_arch: hidden layers of actor and Q networks; None is (1024, 1024), as published
    :param features_extractor_kwargs: of the encoder; what is left out is as published: ``head="tanh"``,
        ``init="orthogonal"``, ``pixel_offset=0.5``
    :param mlp_init: of the linear layers: ``"orthogonal"``, or ``"default"`` (torch's)
    :param encoder_gradient: ``"critic"``, the only route
    :param kwargs: see :class:`crl.policies.PixelTD3Policy`
    :raises ValueError: for another route
    """

    #: of the encoder, where the published one differs from DrQ's and CURL's
    published_encoder: ClassVar[dict[str, Any]] = {"head": "tanh", "init": "orthogonal", "pixel_offset": 0.5}

    actor: DrQv2Actor
    critic: PixelCritic
    critic_target: DrQv2TargetCritic

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        mlp_init: str = "orthogonal",
        encoder_gradient: EncoderGradient = "critic",
        **kwargs: Any,
    ) -> None:
        if encoder_gradient != "critic":
            raise ValueError(f"DrQv2Policy(encoder_gradient={encoder_gradient!r}): the critic moves the encoder, leave it out")
        self._mlp_init = mlp_init
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[1024, 1024] if net_arch is None else net_arch,
            features_extractor_kwargs={**self.published_encoder, **(features_extractor_kwargs or {})},
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        critic = self.make_critic()
        assert isinstance(critic, PixelCritic)
        self.critic = critic
        self.critic_target = self._make_target()
        self.actor = self._make_actor()
        self._make_optimizers(lr_schedule(1))

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """A critic with a new encoder."""
        critic = super().make_critic(features_extractor)
        for q_network in critic.q_networks:
            initialize(q_network, self._mlp_init)
        return critic

    def _make_target(self) -> DrQv2TargetCritic:
        kwargs = self._update_features_extractor(self.critic_kwargs, self.encoder.make_head())  # type: ignore[arg-type]
        target = DrQv2TargetCritic(**kwargs).to(self.device)
        target.share_body(self.encoder, moves_body=False)
        target.follow(self.critic, 1.0)
        target.set_training_mode(False)
        return target

    def _make_actor(self) -> DrQv2Actor:
        kwargs = self._update_features_extractor(self.actor_kwargs, self.encoder.make_head())  # type: ignore[arg-type]
        actor = DrQv2Actor(**kwargs).to(self.device)
        actor.share_body(self.encoder, moves_body=False)
        initialize(actor.mu, self._mlp_init)
        return actor

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> TD3Actor:
        """An actor with a new trunk on the critic's body."""
        return self._make_actor()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "mlp_init": self._mlp_init}
