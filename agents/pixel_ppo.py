"""PPO with normalised values, and advantages that are normalised over the rollout."""

from __future__ import annotations

from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy

from crl.agents.normalized_rollouts import NormalizedDictRolloutBuffer, NormalizedRolloutBuffer, NormalizesReturns
from crl.agents.normalized_value_policy import NormalizedValuePolicy

#: over what advantages are normalised
ADVANTAGES = ("rollout", "batch", "raw")


class PixelPPO(PPO):
    """
    PPO as Moon et al. (2023, arXiv:2307.03486) run it on Crafter. ``train()`` is SB3's own: the value head predicts normalised
    returns, and the rollout buffer gives returns on that scale.

    What differs from theirs: SB3 bootstraps with the value of the last observation where the time limit cuts an episode off
    (theirs counts step 10,000 as death), and shuffles minibatches with numpy.

    :param policy: ``"PixelPolicy"`` (:class:`NormalizedValuePolicy`) or a subclass
    :param env: with discrete actions, or others that SB3's PPO takes
    :param advantages: ``"rollout"``: advantages of a rollout are normalised once, together. ``"batch"``: each minibatch for
        itself, as in SB3. ``"raw"``: not at all.
    :param kwargs: see SB3's PPO, with the published values as defaults; ``normalize_advantage`` is ``advantages``
    :raises ValueError: for a policy that normalises no values, or an option that does not go with that
    """

    policy: NormalizedValuePolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"PixelPolicy": NormalizedValuePolicy}

    def __init__(
        self, policy: str | type[NormalizedValuePolicy], env: Any, advantages: str = "rollout", **kwargs: Any
    ) -> None:
        if advantages not in ADVANTAGES:
            raise ValueError(f"advantages={advantages!r}: choose one of {', '.join(ADVANTAGES)}")
        if kwargs.pop("normalize_advantage", None) is not None:
            raise ValueError("normalize_advantage: say advantages='rollout', 'batch' or 'raw' instead")
        if kwargs.get("clip_range_vf") is not None:
            raise ValueError("clip_range_vf: values are predicted on a moving scale, on which old ones cannot be clipped to")
        self.advantages = advantages
        published = {
            "learning_rate": 3e-4,
            "n_steps": 512,
            "batch_size": 512,
            "n_epochs": 3,
            "gamma": 0.95,
            "gae_lambda": 0.65,
            "ent_coef": 0.01,
        }
        super().__init__(policy, env, **{**published, **kwargs, "normalize_advantage": advantages == "batch"})

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = NormalizedDictRolloutBuffer if is_dict else NormalizedRolloutBuffer
        super()._setup_model()
        if not isinstance(self.policy, NormalizedValuePolicy):
            raise ValueError(
                f"PixelPPO needs NormalizedValuePolicy ('PixelPolicy') or a subclass, not {type(self.policy).__name__}"
            )
        if not isinstance(self.rollout_buffer, NormalizesReturns):
            raise ValueError(
                f"PixelPPO needs a rollout buffer that normalises returns, not {type(self.rollout_buffer).__name__}: leave "
                "rollout_buffer_class out, or put crl.agents.normalized_rollouts.NormalizesReturns before SB3's class"
            )
        self.rollout_buffer.value_normalizer = self.policy.value_normalizer

    def train(self) -> None:
        """One PPO update on the rollout; see SB3."""
        if self.advantages == "rollout":
            assert isinstance(self.rollout_buffer, NormalizesReturns)
            self.rollout_buffer.normalize_advantages()
        super().train()
        if self.policy.value_normalizer is not None:
            mean, std = self.policy.value_normalizer.mean_and_std()
            self.logger.record("train/return_mean", mean.item())
            self.logger.record("train/return_std", std.item())
