"""From a configuration to PPO, with or without achievement distillation."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from crl.agents.fields import ConfigError
from crl.agents.pixel_ppo import PixelPPO

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from crl.agents.ppo_family import PolicyFields, PPOConfig


def build_ppo(
    config: PPOConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """See :func:`crl.agents.recipes.build`."""
    check_actions(config, env)
    common: dict[str, Any] = {"seed": seed, "device": device, "tensorboard_log": tensorboard_log, "verbose": verbose}
    if config.distillation.every is not None:
        # only those who distil pay for its import
        build = import_module("crl.agents.achievement_distillation").build_distilling_ppo
        model, callbacks = build(config, env, **common)
        return model, callbacks
    return PixelPPO("PixelPolicy", env, policy_kwargs=policy_kwargs(config), **algorithm_kwargs(config), **common), []


def check_actions(config: PPOConfig, env: VecEnv) -> None:
    """
    :param config: of the agent
    :param env: to learn on
    :raises ConfigError: for an environment whose actions are not discrete
    """
    if not isinstance(env.action_space, spaces.Discrete):
        raise ConfigError(
            f"{config.agent} needs discrete actions (gymnasium.spaces.Discrete), {config.env.id} has {env.action_space}: "
            "choose crafter/reward, toy/chain, toy/reach-discrete, or an environment of that kind"
        )


def algorithm_kwargs(config: PPOConfig) -> dict[str, Any]:
    """Arguments of :class:`crl.agents.PixelPPO`."""
    fields = asdict(config.algorithm)
    del fields["adam_eps"]
    return fields


def policy_kwargs(config: PPOConfig) -> dict[str, Any]:
    """Arguments of :class:`crl.agents.normalized_value_policy.NormalizedValuePolicy`."""
    return {
        "features_extractor_kwargs": encoder_kwargs(config.policy),
        "value_beta": config.policy.value_beta if config.policy.normalize_values else None,
        "optimizer_kwargs": {"eps": config.algorithm.adam_eps},
    }


def encoder_kwargs(fields: PolicyFields) -> dict[str, Any]:
    """Arguments of :class:`crl.encoders.PreNormImpalaEncoder`."""
    names = ("filters", "hidden_dim", "features_dim", "precision")
    return {name: getattr(fields, name) for name in names}
