"""SB3's rollout buffers with returns on the scale that the value head predicts."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from crl.networks import ValueNormalizer


class NormalizesReturns:
    """
    Comes before SB3's buffer among the bases. Minibatches hold *normalised* returns; what is stored stays as it is.

    SB3's ``PPO.train`` compares the returns of a minibatch with the values that ``evaluate_actions`` gives. With a head that
    predicts normalised returns, this is all that has to change about it.
    """

    advantages: np.ndarray
    #: the policy's; None: returns are not normalised
    value_normalizer: ValueNormalizer | None = None

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """See SB3. The running statistics take each minibatch in before it is normalised, while they are in train mode."""
        for data in super().get(batch_size):  # type: ignore[misc]
            if self.value_normalizer is not None:
                self.value_normalizer.update(data.returns)
                data = data._replace(returns=self.value_normalizer.normalize(data.returns))
            yield data

    def normalize_advantages(self) -> None:
        """Over the whole rollout: mean 0, standard deviation (unbiased) 1."""
        advantages = self.advantages
        self.advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)


class NormalizedRolloutBuffer(NormalizesReturns, RolloutBuffer):
    """Of plain observations."""


class NormalizedDictRolloutBuffer(NormalizesReturns, DictRolloutBuffer):
    """Of Dict observations."""
