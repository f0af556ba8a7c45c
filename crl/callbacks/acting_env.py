"""The environment as an agent sees it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from crl.callbacks.find_encoders import find_encoders
from crl.history import history_extractor, seen_by
from crl.objectives.goal_memory import SingleGoalMemory
from crl.objectives.memory_extractor import memory_width


def acting_env(model: BaseAlgorithm, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """
    What to let an agent act in that is not its training environment: for policies with a goal memory, the environment with the
    memory around it, filled by the agent's own encoder; for policies that see histories, with those; for all others the
    environment as it is.

    :param model: any agent
    :param env: as the training environment is made
    """
    if history_extractor(model) is not None:
        seen: gym.Env[Any, Any] = seen_by(model, env)
        return seen
    if not memory_width(model.observation_space):
        return env
    return SingleGoalMemory(env, find_encoders(model)[0].encoder)
