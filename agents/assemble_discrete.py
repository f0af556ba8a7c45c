"""From a configuration to an agent with discrete actions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from crl.agents.fields import ConfigError
from crl.agents.rainbow import Rainbow
from crl.augment import Compose, Intensity, PaddedCrop, RandomShift
from crl.encoders import ENCODERS
from crl.objectives import SPR, CURLRainbow

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from crl.agents.rainbow_family import ObjectiveFields, PolicyFields, RainbowConfig, ReplayFields
    from crl.contract import Augmentation, Objective


def check_discrete(agent: str, env_id: str, env: VecEnv) -> None:
    """
    :param agent: in the message
    :param env_id: in the message
    :param env: to learn on
    :raises ConfigError: for an environment with other actions
    """
    if not isinstance(env.action_space, spaces.Discrete):
        raise ConfigError(
            f"{agent} needs discrete actions (gymnasium.spaces.Discrete), {env_id} has {env.action_space}: choose "
            "atari/<Game>, toy/reach-discrete, or an environment of that kind"
        )


def build_rainbow(
    config: RainbowConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """See :func:`crl.agents.recipes.build`. Updates are counted for each environment, as elsewhere."""
    check_discrete(config.agent, config.env.id, env)
    fields = asdict(config.algorithm)
    adam_eps, exponent = fields.pop("adam_eps"), fields.pop("priority_exponent")
    replay: dict[str, Any] = {
        "augment": augmentation(config.replay),
        "n_stack": config.replay.n_stack,
        "folder": config.replay.folder,
    }
    if config.algorithm.prioritized:
        replay["priority_exponent"] = exponent
    model = Rainbow(
        "RainbowPolicy",
        env,
        replay_buffer_kwargs=replay,
        objective=_objective(config.objective),
        objective_weight=config.objective.weight,
        policy_kwargs={**_policy_kwargs(config.policy), "optimizer_kwargs": {"eps": adam_eps}},
        seed=seed,
        device=device,
        tensorboard_log=tensorboard_log,
        verbose=verbose,
        **{**fields, "gradient_steps": fields["gradient_steps"] * env.num_envs},
    )
    return model, []


def augmentation(replay: ReplayFields) -> Augmentation | None:
    """The augmentation that the fields name."""
    if replay.augment == "none":
        return None
    shift = RandomShift(replay.pad)
    return shift if replay.augment == "random_shift" else Compose([shift, Intensity(replay.intensity)])


def _objective(fields: ObjectiveFields) -> Objective | None:
    if fields.weight == 0:
        return None
    if fields.name == "spr":
        return SPR(k=fields.k, tau=fields.tau, average="all")
    views = PaddedCrop(fields.crop, fields.pad, fields.size)
    return CURLRainbow(fields.hidden, fields.width, fields.tau, fields.scale, augment=views)


def _policy_kwargs(fields: PolicyFields) -> dict[str, Any]:
    encoder = {name: getattr(fields, name) for name in ("pool_size", "init", "rescale", "precision")}
    if fields.encoder == "pixel":
        encoder |= {"filters": fields.filters, "layers": fields.layers}
    if fields.encoder == "nature":
        encoder["padding"] = fields.padding
    names = ("n_atoms", "v_min", "v_max", "dueling", "noisy", "sigma0", "grad_scale")
    return {
        "net_arch": list(fields.net_arch),
        "shared_arch": list(fields.shared_arch),
        "head_init": fields.init,
        "features_extractor_class": ENCODERS[fields.encoder],
        "features_extractor_kwargs": {**encoder, "head": "flatten"},
        **{name: getattr(fields, name) for name in names},
    }
