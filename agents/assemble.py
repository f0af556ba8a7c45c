"""From a configuration to an agent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from crl.agents.pixel_sac import PixelSAC
from crl.augment import RandomCrop, RandomShift
from crl.encoders import ImpalaEncoder, NatureEncoder, PixelEncoder, RainbowEncoder
from crl.objectives import CURL
from crl.replay import FrameReplayBuffer

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from crl.agents.config import ObjectiveFields, PolicyFields, ReplayFields, SACConfig
    from crl.contract import Augmentation, Objective

_ENCODERS = {"pixel": PixelEncoder, "nature": NatureEncoder, "rainbow": RainbowEncoder, "impala": ImpalaEncoder}


def build_pixel_sac(
    config: SACConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """See :func:`crl.agents.recipes.build`."""
    replay = config.replay
    ent_coef: str | float = config.algorithm.ent_coef
    algorithm: dict[str, Any] = {**asdict(config.algorithm), "ent_coef": _number_or_auto(str(ent_coef))}
    model = PixelSAC(
        "PixelPolicy",
        env,
        replay_buffer_class=FrameReplayBuffer,
        replay_buffer_kwargs={
            "augment": augmentation(replay, config.policy.crop),
            "n_stack": replay.n_stack,
            "folder": replay.folder,
        },
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


def _number_or_auto(ent_coef: str) -> str | float:
    return ent_coef if ent_coef.startswith("auto") else float(ent_coef)


def augmentation(replay: ReplayFields, crop: int | None) -> Augmentation | None:
    """The augmentation that the fields name."""
    if replay.augment == "random_crop":
        assert crop is not None  # checked with the configuration
        return RandomCrop(crop, inclusive=replay.crop_inclusive)
    return RandomShift(replay.pad) if replay.augment == "random_shift" else None


def _objective(fields: ObjectiveFields) -> Objective | None:
    return None if fields.weight == 0 else CURL(keys=fields.keys)


def policy_kwargs(fields: PolicyFields) -> dict[str, Any]:
    """Arguments of the policy and, inside, of its encoder."""
    names = ("filters", "layers", "features_dim", "head", "pool_size", "init", "crop", "precision")
    encoder = {name: getattr(fields, name) for name in names}
    if fields.encoder != "pixel":
        encoder = {name: value for name, value in encoder.items() if name not in ("filters", "layers")}
    return {
        "net_arch": list(fields.net_arch),
        "features_extractor_class": _ENCODERS[fields.encoder],
        "features_extractor_kwargs": encoder,
        "encoder_gradient": fields.encoder_gradient,
        "exact_log_prob": fields.exact_log_prob,
        "mlp_init": fields.mlp_init,
        "log_std_bounds": None if fields.log_std_bounds is None else tuple(fields.log_std_bounds),
    }
