"""Policy and value of an SB3 actor-critic, from the encoder's output instead of from observations."""

from __future__ import annotations

import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from crl.networks import ValueNormalizer


class ActorCriticHeads:
    """
    What follows the encoder in SB3's ``ActorCriticPolicy``, for losses that have encoded their observations already.

    :param model: PPO or A2C with discrete actions, and one encoder for actor and critic
    :raises ValueError: for other models, says what does not fit
    """

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        policy = model.policy
        if not isinstance(policy, ActorCriticPolicy) or not policy.share_features_extractor:
            raise ValueError(
                f"achievement distillation needs an actor and critic on one encoder (SB3's PPO or A2C with "
                f"share_features_extractor=True), not {type(policy).__name__} of {type(model).__name__}"
            )
        if hasattr(policy, "lstm_actor"):
            raise ValueError("achievement distillation does not know policies with an LSTM: take SB3's PPO, and GoalMemory")
        if not isinstance(model.action_space, spaces.Discrete):
            raise ValueError(f"achievement distillation needs discrete actions, the model's are {model.action_space}")
        self.policy = policy
        normalizer = getattr(policy, "value_normalizer", None)
        #: of values, where the head predicts normalised returns
        self.normalizer: ValueNormalizer | None = normalizer if isinstance(normalizer, ValueNormalizer) else None

    def __call__(self, latents: th.Tensor, memory: th.Tensor | None) -> tuple[th.Tensor, th.Tensor]:
        """
        :param latents: ``(batch, features_dim)``, the encoder's output
        :param memory: ``(batch, width)``, the memory input; None for policies without
        :return: log-probabilities ``(batch, n_actions)``, and what the value head says ``(batch,)``
        """
        features = latents if memory is None else th.cat([latents, memory.to(latents.device)], dim=1)
        latent_pi, latent_vf = self.policy.mlp_extractor(features)
        # not by the policy's distribution, which would keep the graph (and could then not be copied)
        log_probs = F.log_softmax(self.policy.action_net(latent_pi), dim=1)
        return log_probs, self.policy.value_net(latent_vf).flatten()

    def value_error(self, values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """
        Mean squared error. Running statistics of normalised returns take the batch in first, as in an update of the agent.

        :param values: ``(batch,)``, what the head says
        :param returns: ``(batch,)``, on their own scale
        :return: scalar with graph
        """
        returns = returns.to(values.device)
        if self.normalizer is not None:
            self.normalizer.update(returns)
            returns = self.normalizer.normalize(returns)
        return F.mse_loss(values, returns)
