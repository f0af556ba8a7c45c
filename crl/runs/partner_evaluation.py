"""Returns of an agent with each partner of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from crl import intervals
from crl.envs import EnvironmentOptionError, make_env
from crl.runs.evaluation import Evaluation, evaluate


class WithPartner(NamedTuple):
    """
    :param name: of the partner
    :param trained_with: it is one of those that the agent meets in its environment; else it is a stranger
    :param evaluation: of the episodes with it
    """

    name: str
    trained_with: bool
    evaluation: Evaluation

    @property
    def mean(self) -> intervals.Estimate:
        """Return, with the interval of a bootstrap over episodes."""
        return intervals.mean(np.array(self.evaluation.returns), np.random.default_rng(0))


def evaluate_per_partner(
    model: BaseAlgorithm,
    config: dict[str, Any],
    episodes: int,
    stop: Callable[[], bool] = lambda: False,
) -> list[WithPartner]:
    """
    Each script of the environment's pool, trained with or not, plays all episodes with the agent. Worlds are the same for all.

    :param model: any agent
    :param config: of the run, see :func:`crl.runs.evaluation.evaluate`
    :param episodes: with each partner
    :param stop: asked at every step whether to give up
    :return: in the order of ids
    :raises EnvironmentOptionError: when the environment has no pool of partners
    :raises EvaluationStopped: when ``stop`` says so
    """
    env = make_env(config["env"]["id"], **config["env"]["kwargs"])
    names: tuple[str, ...] | None = getattr(env.unwrapped, "pool_names", None)
    met = getattr(env.unwrapped, "partner_ids", ())
    env.close()
    if names is None:
        raise EnvironmentOptionError(f"{config['env']['id']} has no pool of partners: lbf/ and mpe/ environments have")

    def with_partner(name: str) -> dict[str, Any]:
        return {**config, "env": {**config["env"], "kwargs": {**config["env"]["kwargs"], "partner": name}}}

    return [
        WithPartner(name, index in met, evaluate(model, with_partner(name), episodes, stop=stop))
        for index, name in enumerate(names)
    ]
