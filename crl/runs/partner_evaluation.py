"""Returns of an agent with each partner of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from crl.envs import EnvironmentOptionError, make_env
from crl.runs.evaluation import Evaluation, evaluate


def evaluate_per_partner(
    model: BaseAlgorithm,
    config: dict[str, Any],
    episodes: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Evaluation]:
    """
    Each script of the environment's pool, trained with or not, plays all episodes with the agent. Worlds are the same for all.

    :param model: any agent
    :param config: of the run, see :func:`crl.runs.evaluation.evaluate`
    :param episodes: with each partner
    :param stop: asked at every step whether to give up
    :return: by the partner's name, in the order of ids
    :raises EnvironmentOptionError: when the environment has no pool of partners
    :raises EvaluationStopped: when ``stop`` says so
    """
    env = make_env(config["env"]["id"], **config["env"]["kwargs"])
    names: tuple[str, ...] | None = getattr(env.unwrapped, "pool_names", None)
    env.close()
    if names is None:
        raise EnvironmentOptionError(f"{config['env']['id']} has no pool of partners: lbf/ and mpe/ environments have")

    def with_partner(name: str) -> dict[str, Any]:
        return {**config, "env": {**config["env"], "kwargs": {**config["env"]["kwargs"], "partner": name}}}

    return {name: evaluate(model, with_partner(name), episodes, stop=stop) for name in names}
