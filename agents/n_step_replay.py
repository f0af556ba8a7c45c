"""Agents that hand their n-step returns on to a replay buffer of crl."""

from __future__ import annotations

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


class NStepReplay(OffPolicyAlgorithm):
    """Comes before SB3's algorithm among the bases of an agent: its buffer computes returns with the agent's own settings."""

    def _setup_model(self) -> None:
        returns = {"n_steps": self.n_steps, "gamma": self.gamma}
        told = {**returns, **self.replay_buffer_kwargs}
        if any(told[name] != value for name, value in returns.items()):
            raise ValueError(
                f"replay_buffer_kwargs has n_steps={told['n_steps']} and gamma={told['gamma']}, the model n_steps="
                f"{self.n_steps} and gamma={self.gamma}: give them to {type(self).__name__} alone, which hands them on"
            )
        self.replay_buffer_kwargs = told
        # SB3 would warn that it hands n_steps to no buffer but its own: done above
        n_steps, self.n_steps = self.n_steps, 1
        super()._setup_model()
        self.n_steps = n_steps
