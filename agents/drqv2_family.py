"""DrQ-v2 as a family of agents: fields with published values as defaults, what environments change. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crl.agents.config import EncoderFields, EnvFields, ReplayFields, TrainFields, check_buffer, check_images
from crl.agents.env_defaults import Row, merge_rows
from crl.agents.env_kinds import require
from crl.agents.family import Family
from crl.agents.fields import setting


@dataclass
class AlgorithmFields:
    """Arguments of :class:`crl.agents.DrQv2`."""

    learning_rate: float = setting(1e-4, "of actor, critic and encoder", above=0)
    batch_size: int = setting(256, "transitions of an update", low=2)
    buffer_size: int = setting(1_000_000, "transitions kept", low=2)
    learning_starts: int = setting(2000, "random agent steps before the first update", low=0)
    train_freq: int = setting(2, "agent steps between two lots of updates", low=1)
    gradient_steps: int = setting(1, "updates in a lot, for each environment", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    tau: float = setting(0.01, "EMA rate of the target's trunk and Q networks", low=0, high=1)
    n_steps: int = setting(3, "length of the returns", low=1)
    std_start: float = setting(1.0, "standard deviation of the noise at agent step 0", low=0)
    std_end: float = setting(0.1, "standard deviation of the noise from std_steps on", low=0)
    std_steps: int = setting(500_000, "agent steps in which the noise falls", low=1)
    noise_clip: float = setting(0.3, "of the noise in updates", low=0)
    metrics_interval: int = setting(100, "updates between two looks at gradients and activity", low=1)


@dataclass
class PolicyFields(EncoderFields):
    """Networks."""

    head: Literal["layer_norm", "tanh", "linear", "relu", "flatten"] = setting("tanh", "what follows the conv body")
    init: Literal["delta_orthogonal", "orthogonal", "default"] | None = setting("orthogonal", "of the encoder")
    pixel_offset: float = setting(0.5, "taken off the pixels in 0..1 before the conv body", low=0, high=1)


@dataclass
class DrQv2ReplayFields(ReplayFields):
    """The replay buffer and its augmentation."""

    augment: Literal["random_crop", "random_shift", "none"] = setting("random_shift", "of observations, by up to pad pixels")


@dataclass
class DrQv2Config:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: AlgorithmFields = field(default_factory=AlgorithmFields)
    policy: PolicyFields = field(default_factory=PolicyFields)
    replay: DrQv2ReplayFields = field(default_factory=DrQv2ReplayFields)
    train: TrainFields = field(default_factory=TrainFields)


#: field: (paper, cpu)
COLUMNS: dict[str, tuple[Any, Any]] = {
    # a million transitions at 84x84 take 22 GB
    "algorithm.buffer_size": (1_000_000, 100_000),
    # of the conv body alone
    "policy.precision": ("fp32", "auto"),
}

#: tasks by difficulty, as the authors' repository sorts them; all others are medium
EASY = (
    "ball-in-cup-catch",
    "cartpole-balance",
    "cartpole-balance-sparse",
    "cartpole-swingup",
    "finger-spin",
    "hopper-stand",
    "pendulum-swingup",
    "walker-stand",
    "walker-walk",
)
HARD = ("humanoid-stand", "humanoid-walk", "humanoid-run")

_EASY_FIELDS = {"algorithm.std_steps": 100_000, "train.env_steps": 1_100_000}
_HARD_FIELDS = {
    "algorithm.std_steps": 2_000_000,
    "algorithm.learning_rate": 8e-5,
    "policy.features_dim": 100,
    "train.env_steps": 30_100_000,
}

#: later rows win; patterns as in file names. std_steps counts agent steps, train.env_steps environment steps, as published
ENV_ROWS: list[Row] = [
    ("dmc/*", {"env.kwargs.size": 84, "env.kwargs.action_repeat": 2, "train.env_steps": 3_100_000}),
    *((f"dmc/{task}", _EASY_FIELDS) for task in EASY),
    *((f"dmc/{task}", _HARD_FIELDS) for task in HARD),
    ("dmc/walker-*", {"algorithm.batch_size": 512, "algorithm.n_steps": 1}),
    ("dmc/quadruped-run", {"algorithm.buffer_size": 100_000}),
    ("gym/*", {"env.kwargs.size": 84}),
    (
        # 32x32, episodes of 50 steps, minutes on one core
        "toy/*",
        {
            "replay.pad": 2,
            "policy.filters": 16,
            "policy.net_arch": [256, 256],
            "algorithm.batch_size": 128,
            "algorithm.buffer_size": 100_000,
            # episodes are short; at a rate of 1e-3 the actor saturates and stays there
            "algorithm.gamma": 0.95,
            "algorithm.learning_starts": 300,
            "algorithm.train_freq": 1,
            "algorithm.std_steps": 4000,
            "train.env_steps": 6000,
            "train.eval_every": 1000,
            "train.eval_episodes": 20,
            "train.threads": 1,
        },
    ),
]
#: everywhere else: the channels tell how many frames an observation has
OTHER: dict[str, Any] = {"replay.n_stack": None}


def env_defaults(env_id: str) -> dict[str, Any]:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :return: fields by dotted path
    :raises ConfigError: for an environment with discrete actions
    """
    require(env_id, "DrQ-v2", "continuous")
    return merge_rows(env_id, ENV_ROWS, OTHER)


def check_together(config: DrQv2Config) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    check_images(config.env, config.policy, config.replay)
    check_buffer(config.algorithm.batch_size, config.algorithm.buffer_size)


DRQV2 = Family(
    config=DrQv2Config,
    columns=COLUMNS,
    env_defaults=env_defaults,
    check=check_together,
    builder="crl.agents.assemble:build_drqv2",
)
