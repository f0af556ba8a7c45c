"""Agents that log the means of what their updates measure, and wait for the device only then."""

from __future__ import annotations

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from crl.agents.running_means import RunningMeans


class LogsMeans(OffPolicyAlgorithm):
    """Comes before SB3's algorithm among the bases of an agent, which adds to ``self._means`` and ends each update here."""

    #: updates between two logs of means
    metrics_interval: int

    def _setup_model(self) -> None:
        super()._setup_model()
        self._means = RunningMeans()

    def _end_update(self) -> None:
        """Count the update; now and then, look at what the last ones measured."""
        self._n_updates += 1
        if self._n_updates % self.metrics_interval == 0:
            self.record_metrics()

    def record_metrics(self) -> None:
        """
        Hand the means of all updates since the last time to the logger.

        :raises FloatingPointError: when one of them is no finite number
        """
        for key, value in self._means.flush().items():
            self.logger.record_mean(key, value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/replay_ratio", self._n_updates / max(self.num_timesteps, 1))

    def dump_logs(self) -> None:
        """See SB3; what the last updates measured is included."""
        self.record_metrics()
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_means"]
