"""From a configuration to an agent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from crl.agents.drqv2 import DrQv2
from crl.agents.fields import ConfigError
from crl.agents.pixel_sac import PixelSAC
from crl.augment import RandomCrop, RandomShift
from crl.encoders import ENCODERS
from crl.objectives import CURL
from crl.replay import FrameReplayBuffer

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from crl.agents.config import EncoderFields, ReplayFields
    from crl.agents.drqv2_family import DrQv2Config
    from crl.agents.sac_family import ObjectiveFields, PolicyFields, SACConfig
    from crl.contract import Augmentation, Objective


def build_pixel_sac(
    config: SACConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """See :func:`crl.agents.recipes.build`."""
    ent_coef: str | float = config.algorithm.ent_coef
    algorithm: dict[str, Any] = {**algorithm_kwargs(config, env), "ent_coef": _number_or_auto(str(ent_coef))}
    model = PixelSAC(
        "PixelPolicy",
        env,
        replay_buffer_class=FrameReplayBuffer,
        replay_buffer_kwargs=replay_buffer_kwargs(config.replay, config.policy.crop),
        objective=_objective(config.objective),
        objective_weight=config.objective.weight,
        balance=config.objective.balance if config.algorithm.joint else None,
        objective_learning_rate=config.objective.learning_rate,
        policy_kwargs=policy_kwargs(config.policy),
        seed=seed,
        device=device,
        tensorboard_log=tensorboard_log,
        verbose=verbose,
        **algorithm,
    )
    return model, []


def build_drqv2(
    config: DrQv2Config, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """See :func:`crl.agents.recipes.build`."""
    policy = encoder_policy_kwargs(config.policy)
    policy["features_extractor_kwargs"]["pixel_offset"] = config.policy.pixel_offset
    model = DrQv2(
        "PixelPolicy",
        env,
        replay_buffer_kwargs=replay_buffer_kwargs(config.replay, config.policy.crop),
        policy_kwargs=policy,
        seed=seed,
        device=device,
        tensorboard_log=tensorboard_log,
        verbose=verbose,
        **algorithm_kwargs(config, env),
    )
    return model, []


def algorithm_kwargs(config: SACConfig | DrQv2Config, env: VecEnv) -> dict[str, Any]:
    """
    Arguments of an algorithm with continuous actions. Updates are counted for each environment: a step of two of them brings
    two transitions and is followed by twice the updates, so that the replay ratio does not depend on their number.

    :param config: of the agent
    :param env: to learn on
    :raises ConfigError: for an environment with other actions
    """
    if not isinstance(env.action_space, spaces.Box):
        raise ConfigError(
            f"{config.agent} needs continuous actions (gymnasium.spaces.Box), {config.env.id} has {env.action_space}: choose "
            "dmc/<domain>-<task>, toy/reach, or an environment of that kind"
        )
    fields = asdict(config.algorithm)
    return {**fields, "gradient_steps": fields["gradient_steps"] * env.num_envs}


def _number_or_auto(ent_coef: str) -> str | float:
    return ent_coef if ent_coef.startswith("auto") else float(ent_coef)


def augmentation(replay: ReplayFields, crop: int | None) -> Augmentation | None:
    """The augmentation that the fields name."""
    if replay.augment == "random_crop":
        assert crop is not None  # checked with the configuration
        return RandomCrop(crop, inclusive=replay.crop_inclusive)
    return RandomShift(replay.pad) if replay.augment == "random_shift" else None


def replay_buffer_kwargs(replay: ReplayFields, crop: int | None) -> dict[str, Any]:
    """Arguments of the replay buffer."""
    return {"augment": augmentation(replay, crop), "n_stack": replay.n_stack, "folder": replay.folder}


def _objective(fields: ObjectiveFields) -> Objective | None:
    if fields.weight == 0:
        return None
    if fields.temperature is None:
        return CURL(keys=fields.keys)
    return CURL(keys=fields.keys, loss="info_nce", loss_kwargs={"temperature": fields.temperature})


def policy_kwargs(fields: PolicyFields) -> dict[str, Any]:
    """Arguments of SAC's policy and, inside, of its encoder."""
    return {
        **encoder_policy_kwargs(fields),
        "encoder_gradient": fields.encoder_gradient,
        "exact_log_prob": fields.exact_log_prob,
        "log_std_bounds": None if fields.log_std_bounds is None else tuple(fields.log_std_bounds),
    }


def encoder_policy_kwargs(fields: EncoderFields) -> dict[str, Any]:
    """Arguments that the policies of all families take and, inside, of their encoder."""
    names = ("filters", "layers", "features_dim", "head", "pool_size", "init", "crop", "precision")
    encoder = {name: getattr(fields, name) for name in names}
    if fields.encoder != "pixel":
        encoder = {name: value for name, value in encoder.items() if name not in ("filters", "layers")}
    return {
        "net_arch": list(fields.net_arch),
        "features_extractor_class": ENCODERS[fields.encoder],
        "features_extractor_kwargs": encoder,
        "mlp_init": fields.mlp_init,
    }
