"""From a configuration to an algorithm of SB3 or sb3-contrib as it is, with an objective attached by callback."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule

from crl.agents.assemble_discrete import check_discrete
from crl.agents.fields import ConfigError
from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.encoders import ENCODERS
from crl.objectives import ATC, CURL
from crl.replay import FrameReplayBuffer

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from crl.agents.sb3_family import ObjectiveFields, PolicyFields, SB3DQNConfig, SB3PPOConfig, SB3QRDQNConfig

Made = tuple[BaseAlgorithm, list[BaseCallback]]


def build_dqn(config: SB3DQNConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int) -> Made:
    """See :func:`crl.agents.recipes.build`."""
    return _off_policy(DQN, config, env, seed, device, tensorboard_log, verbose)


def build_qrdqn(
    config: SB3QRDQNConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> Made:
    """
    See :func:`crl.agents.recipes.build`.

    :raises ConfigError: without sb3-contrib
    """
    try:
        from sb3_contrib import QRDQN
    except ModuleNotFoundError as error:
        raise ConfigError(f"{config.agent} needs sb3-contrib: pip install 'crl[contrib]'") from error
    return _off_policy(QRDQN, config, env, seed, device, tensorboard_log, verbose)


def _off_policy(
    algorithm: type[Any],
    config: SB3DQNConfig | SB3QRDQNConfig,
    env: VecEnv,
    seed: int,
    device: str,
    tensorboard_log: str | None,
    verbose: int,
) -> Made:
    check_discrete(config.agent, config.env.id, env)
    fields, policy = asdict(config.algorithm), _policy_kwargs(config.policy)
    if "n_quantiles" in fields:
        policy["n_quantiles"] = fields.pop("n_quantiles")
    model = algorithm(
        "CnnPolicy",
        env,
        replay_buffer_class=FrameReplayBuffer,
        replay_buffer_kwargs={"n_stack": config.replay.n_stack, "folder": config.replay.folder},
        policy_kwargs=policy,
        seed=seed,
        device=device,
        tensorboard_log=tensorboard_log,
        verbose=verbose,
        **fields,
    )
    return model, _callbacks(config.objective)


def build_ppo(config: SB3PPOConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int) -> Made:
    """See :func:`crl.agents.recipes.build`."""
    check_discrete(config.agent, config.env.id, env)
    fields = asdict(config.algorithm)
    if fields.pop("linear_schedules"):
        fields |= {name: LinearSchedule(fields[name], 0.0, 1.0) for name in ("learning_rate", "clip_range")}
    model = PPO(
        "CnnPolicy",
        env,
        policy_kwargs=_policy_kwargs(config.policy),
        seed=seed,
        device=device,
        tensorboard_log=tensorboard_log,
        verbose=verbose,
        **fields,
    )
    return model, _callbacks(config.objective)


def _policy_kwargs(fields: PolicyFields) -> dict[str, Any]:
    encoder: dict[str, Any] = {"features_dim": fields.features_dim, "precision": fields.precision}
    if fields.encoder == "pixel":
        encoder |= {"filters": fields.filters, "layers": fields.layers}
    return {
        "net_arch": list(fields.net_arch),
        # the layers of SB3's NatureCNN, with a precision that saved models keep
        "features_extractor_class": ENCODERS[fields.encoder],
        "features_extractor_kwargs": encoder,
    }


def _callbacks(fields: ObjectiveFields) -> list[BaseCallback]:
    if fields.weight == 0:
        return []
    shift = RandomShift(fields.pad)
    objective = CURL(augment=shift) if fields.name == "curl" else ATC(k=fields.k, augment=shift)
    callback = AuxiliaryLossCallback(
        objective, fields.mode, fields.weight, batch_size=fields.batch_size, learning_rate=fields.learning_rate
    )
    return [callback]
