"""What off-policy agents on one pixel encoder have in common, whatever their algorithm: looks, logs, the actor's step."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import ContinuousCritic

from crl.agents.encoder_report import activity_report
from crl.agents.logged_means import LogsMeans
from crl.agents.network_input import network_input
from crl.encoders import BodyHeadEncoder
from crl.policies import PixelCritic
from crl.replay import FrameReplayBuffer


def all_q(critic: ContinuousCritic, q_input: th.Tensor) -> th.Tensor:
    """
    :param critic: with its Q networks
    :param q_input: features and actions, ``(batch, features_dim + action_dim)``
    :return: values of every Q network, ``(n_critics, batch, 1)``
    """
    return th.stack([q_network(q_input) for q_network in critic.q_networks])


def min_q(critic: ContinuousCritic, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    :param critic: with its Q networks
    :param features: ``(batch, features_dim)``
    :param actions: ``(batch, action_dim)`` in [-1, 1]
    :return: the smallest of their values, ``(batch, 1)``
    """
    return all_q(critic, th.cat([features, actions], dim=1)).amin(dim=0)


class PixelAgent(LogsMeans):
    """
    Comes before SB3's algorithm among the bases of an agent whose policy has one encoder, the critic's. The policy that
    ``"PixelPolicy"`` stands for is the one that the agent needs.
    """

    policy: Any
    actor: Any
    critic: PixelCritic

    def _setup_model(self) -> None:
        super()._setup_model()
        needed = self.policy_aliases["PixelPolicy"]
        if not isinstance(self.policy, needed):
            got = type(self.policy).__name__
            raise ValueError(f"{type(self).__name__} needs {needed.__name__} ('PixelPolicy') or a subclass, not {got}")
        if isinstance(self.replay_buffer, FrameReplayBuffer):
            self.replay_buffer.check_model(self)

    @property
    def encoder(self) -> BodyHeadEncoder:
        """The one encoder, the critic's."""
        encoder: BodyHeadEncoder = self.policy.encoder
        return encoder

    # ---- parts of an update

    def _network_input(self, images: th.Tensor) -> th.Tensor:
        return network_input(images, self.encoder, self.policy.normalize_images)

    def _value(self, feature_map: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """What the critic as it is now says of the actor's actions, ``(batch, 1)``; its head is run without a graph."""
        with th.no_grad():
            features = self.encoder.forward_head(feature_map)
        return min_q(self.critic, features, actions)

    def _step_actor(self, loss: th.Tensor) -> None:
        """One step on gradients of the actor's own parameters."""
        # grad() and not backward(): gradients of the Q networks would be worked out for nobody
        parameters = [p for group in self.actor.optimizer.param_groups for p in group["params"]]
        for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.actor.optimizer.step()
        self.actor.optimizer.zero_grad()
        self._means.add({"train/actor_loss": loss})

    # ---- logging

    @property
    def _looks(self) -> bool:
        """Whether this update looks closer at gradients and activity."""
        return self._n_updates % self.metrics_interval == 0

    def _report_activity(self, features: th.Tensor, feature_map: th.Tensor, q_input: th.Tensor) -> None:
        """See :func:`crl.agents.encoder_report.activity_report`."""
        q_network = self.critic.q_networks[0]
        self._means.add(activity_report(features.detach(), feature_map.detach(), q_network, q_input.detach()))
