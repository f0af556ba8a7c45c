"""
SAC from pixels, as a family of agents: fields with CURL's published values as defaults, and what environments change. No torch
in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crl.agents.config import EncoderFields, EnvFields, ReplayFields, TrainFields, check_buffer, check_images
from crl.agents.env_defaults import merge_rows
from crl.agents.env_kinds import require
from crl.agents.family import Family
from crl.agents.fields import FieldValueError, setting


@dataclass
class AlgorithmFields:
    """Arguments of :class:`crl.agents.PixelSAC`."""

    learning_rate: float = setting(1e-3, "of actor, critic and encoder", above=0)
    batch_size: int = setting(512, "transitions of an update", low=2)
    buffer_size: int = setting(100_000, "transitions kept", low=2)
    learning_starts: int = setting(1000, "random agent steps before the first update", low=0)
    train_freq: int = setting(1, "agent steps between two lots of updates", low=1)
    gradient_steps: int = setting(1, "updates in a lot, for each environment", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    tau: float = setting(0.01, "EMA rate of the target Q networks", low=0, high=1)
    encoder_tau: float = setting(0.05, "EMA rate of the target encoder", low=0, high=1)
    actor_period: int = setting(2, "updates between two of actor and temperature", low=1)
    target_period: int = setting(2, "updates between two EMA steps", low=1)
    ent_coef: str = setting("auto_0.1", "entropy temperature: 'auto_<start>' learns it, a number fixes it")
    ent_coef_learning_rate: float | None = setting(1e-4, "of the temperature; none: learning_rate", above=0)
    ent_coef_beta1: float = setting(0.5, "first beta of the temperature's Adam", low=0, high=0.9999)
    ent_coef_loss: Literal["alpha", "log_alpha"] = setting("alpha", "what the temperature's loss multiplies (SB3: log_alpha)")
    critic_before_actor: bool = setting(True, "false: SB3's order")
    critic_loss_factor: float = setting(1.0, "of the sum of both squared errors (SB3: 0.5)", above=0)
    joint: bool = setting(False, "objective and critic share one pass and one step of the encoder")
    reuse_features: bool = setting(False, "the actor looks at conv features from before the critic's step")
    online_views: int = setting(1, "views of each observation, over which the critic's loss is summed (DrQ's M)", low=1)
    target_views: int = setting(1, "views of each next observation, over which the target is averaged (DrQ's K)", low=1)
    metrics_interval: int = setting(100, "updates between two looks at gradients and activity", low=1)


@dataclass
class PolicyFields(EncoderFields):
    """Networks."""

    encoder_gradient: Literal["critic", "actor", "objective"] = setting("critic", "whose gradient moves the conv body")
    log_std_bounds: tuple[float, float] | None = setting((-10.0, 2.0), "tanh-rescaled to; none: clamped as SB3 does")
    exact_log_prob: bool = setting(False, "of squashed actions, without the 1e-6 of SB3 and CURL")


@dataclass
class ObjectiveFields:
    """What moves the encoder besides the critic."""

    name: Literal["curl"] = setting("curl", "kind of objective")
    weight: float = setting(1.0, "of its loss; 0 leaves it out", low=0)
    balance: float | None = setting(None, "ratio of its encoder gradient's norm to the critic's; joint only", above=0)
    learning_rate: float | None = setting(None, "of its heads and own steps; none: algorithm.learning_rate", above=0)
    keys: Literal["target", "own", "online"] = setting("target", "where CURL's keys come from")
    temperature: float | None = setting(
        None, "of InfoNCE on cosine similarities; none: CURL's bilinear product, whose matrix learns the scale", above=0
    )


@dataclass
class SACConfig:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: AlgorithmFields = field(default_factory=AlgorithmFields)
    policy: PolicyFields = field(default_factory=PolicyFields)
    replay: ReplayFields = field(default_factory=ReplayFields)
    objective: ObjectiveFields = field(default_factory=ObjectiveFields)
    train: TrainFields = field(default_factory=TrainFields)


#: field: (paper, cpu)
COLUMNS: dict[str, tuple[Any, Any]] = {
    "algorithm.batch_size": (512, 128),
    # critic, objective and actor share a pass and one Adam steps the encoder, instead of three Adams and five passes
    "algorithm.joint": (False, True),
    "algorithm.reuse_features": (False, True),
    # a tenth of the critic's gradient, whatever the scale of rewards
    "objective.balance": (None, 0.1),
    # of the conv body alone: heads and Q networks in bf16 lose the last bits of values of hundreds
    "policy.precision": ("fp32", "auto"),
    # the published crop never shows the last row and column
    "replay.crop_inclusive": (False, True),
}
#: later rows win; patterns as in file names
ENV_ROWS: list[tuple[str, dict[str, Any]]] = [
    # CURL renders 100x100 and learns on crops of 84x84; action repeats are crl.envs' (PlaNet's)
    ("dmc/*", {"env.kwargs.size": 100, "policy.crop": 84, "replay.augment": "random_crop"}),
    ("dmc/cheetah-run", {"algorithm.learning_rate": 2e-4}),
    ("gym/*", {"env.kwargs.size": 100, "policy.crop": 84, "replay.augment": "random_crop"}),
    (
        # 32x32, episodes of 50 steps, minutes on one core
        "toy/*",
        {
            "replay.augment": "random_shift",
            "replay.pad": 2,
            "policy.filters": 16,
            "policy.net_arch": [256, 256],
            "algorithm.batch_size": 128,
            "algorithm.learning_starts": 300,
            "algorithm.ent_coef_learning_rate": 1e-3,
            "algorithm.actor_period": 1,
            "train.env_steps": 4000,
            "train.eval_every": 1000,
            "train.eval_episodes": 20,
            "train.threads": 1,
        },
    ),
]
#: everywhere else: whole images, shifted
OTHER: dict[str, Any] = {"replay.augment": "random_shift", "replay.n_stack": None}


def env_defaults(env_id: str) -> dict[str, Any]:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :return: fields by dotted path
    :raises ConfigError: for an environment with discrete actions
    """
    require(env_id, "SAC", "continuous")
    return merge_rows(env_id, ENV_ROWS, OTHER)


def check_together(config: SACConfig) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    algorithm, policy, replay, objective = config.algorithm, config.policy, config.replay, config.objective
    check_images(config.env, policy, replay)
    check_buffer(algorithm.batch_size, algorithm.buffer_size)
    if policy.log_std_bounds is not None and not policy.log_std_bounds[0] < policy.log_std_bounds[1]:
        raise FieldValueError(f"policy.log_std_bounds={list(policy.log_std_bounds)}: low before high")
    _check_ent_coef(algorithm.ent_coef)
    if max(algorithm.online_views, algorithm.target_views) > 1 and replay.augment == "none":
        raise FieldValueError(
            "algorithm.online_views and target_views above 1 need views that differ: replay.augment=none leaves one"
        )
    if objective.weight == 0:
        return
    if replay.augment == "none":
        raise FieldValueError("objective.weight above 0 contrasts augmented views: replay.augment=none leaves none")
    if objective.balance is not None and not algorithm.joint:
        raise FieldValueError("objective.balance works with algorithm.joint=true only: set objective.balance=none")
    if algorithm.joint and policy.encoder_gradient == "actor":
        raise FieldValueError("policy.encoder_gradient=actor needs algorithm.joint=false: the critic's step moves no encoder")


def _check_ent_coef(ent_coef: str) -> None:
    number = ent_coef.removeprefix("auto").removeprefix("_") if ent_coef != "auto" else "1"
    try:
        good = float(number) > 0
    except ValueError:
        good = False
    if not good:
        raise FieldValueError(f"algorithm.ent_coef={ent_coef!r}: 'auto', 'auto_<start>' as auto_0.1, or a positive number")


SAC = Family(
    config=SACConfig,
    columns=COLUMNS,
    env_defaults=env_defaults,
    check=check_together,
    builder="crl.agents.assemble:build_pixel_sac",
)
