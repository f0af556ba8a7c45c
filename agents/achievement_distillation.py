"""From a configuration to PPO with achievement distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from crl.agents.assemble_ppo import algorithm_kwargs, encoder_kwargs, policy_kwargs
from crl.agents.fields import ConfigError
from crl.agents.pixel_ppo import PixelPPO
from crl.callbacks import AchievementPhases
from crl.callbacks.achievement_phases import bind_memory
from crl.callbacks.find_encoders import find_encoders
from crl.encoders import PreNormImpalaEncoder
from crl.objectives.achievement import AchievementDistillation
from crl.objectives.goal_memory import GoalMemory
from crl.objectives.memory_extractor import MemoryExtractor

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from crl.agents.ppo_family import PPOConfig


def build_distilling_ppo(config: PPOConfig, env: VecEnv, **common: Any) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """
    :param config: with ``distillation.every`` set
    :param env: reports sub-goals
    :param common: seed, device and logging of the model
    :return: the agent, around whose environment there is a goal memory if it has one, and the callback that distils
    """
    fields = config.distillation
    assert fields.every is not None
    if not env.has_attr("subgoal_names"):
        raise ConfigError(
            "what is distilled are sub-goals, and this environment reports none: take crafter/reward, toy/chain, or one with "
            "subgoal_names (crl.envs.subgoals)"
        )
    policy = policy_kwargs(config)
    if fields.memory:
        # another agent's memory stays with that agent (crl probe builds a fresh one beside the trained one)
        env = GoalMemory(env.venv if isinstance(env, GoalMemory) else env, config.policy.features_dim)
        encoder = {"encoder_class": PreNormImpalaEncoder, "encoder_kwargs": encoder_kwargs(config.policy)}
        policy |= {"features_extractor_class": MemoryExtractor, "features_extractor_kwargs": encoder}
    model = PixelPPO("PixelPolicy", env, policy_kwargs=policy, **algorithm_kwargs(config), **common)
    if fields.memory:
        bind_memory(model.get_env(), find_encoders(model)[0].encoder)
    return model, [
        AchievementPhases(
            AchievementDistillation(fields.temperature, fields.regularisation, fields.threshold),
            every=fields.every,
            epochs=fields.epochs,
            prediction=fields.prediction,
            matching=fields.matching,
            contrast=fields.contrast,
            policy_weight=fields.policy_weight,
            value_weight=fields.value_weight,
            targets=fields.targets,
            batch_size=fields.batch_size,
            learning_rate=fields.learning_rate,
        )
    ]
