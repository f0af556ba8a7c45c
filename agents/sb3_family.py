"""
SB3's and sb3-contrib's own algorithms on games with discrete actions, with rl_zoo3's hyperparameters for Atari, and objectives
attached by :class:`crl.AuxiliaryLossCallback`: three families that share all but the algorithm's fields. No torch in here.
"""

# ruff: noqa: RUF009  (setting() returns a dataclass field)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from crl.agents.config import EnvFields, TrainFields, check_buffer
from crl.agents.env_defaults import Row, merge_rows
from crl.agents.env_kinds import require
from crl.agents.family import Family
from crl.agents.fields import FieldValueError, setting
from crl.agents.rainbow_family import ATARI_TRAIN, ONE_FRAME, TOY_TRAIN


@dataclass
class PolicyFields:
    """Networks: SB3's CnnPolicy."""

    encoder: Literal["nature", "pixel"] = setting(
        "nature", "SB3's NatureCNN, as crl has it, or crl's encoder for small images"
    )
    features_dim: int = setting(512, "width of the encoder's output", low=1)
    filters: int | None = setting(None, "of every layer of the pixel encoder; none for the other", low=1)
    layers: int | None = setting(None, "convolutions of the pixel encoder; none for the other", low=1)
    net_arch: list[int] = setting([], "hidden layers behind the encoder", low=1)
    precision: Literal["fp32", "bf16", "auto"] = setting("fp32", "of the convolutions")


@dataclass
class ReplayFields:
    """The replay buffer."""

    n_stack: int | None = setting(4, "frames in an observation; none: told by the channels", low=1)
    folder: str | None = setting(None, "frames in files of this folder instead of memory")


@dataclass
class ObjectiveFields:
    """What moves the encoder besides the agent's own loss."""

    name: Literal["curl", "atc"] = setting("curl", "kind of objective")
    weight: float = setting(1.0, "how strongly it pulls at the encoder; 0 leaves it out", low=0)
    mode: Literal["own_optimizer", "add_gradient"] = setting("own_optimizer", "steps of its own, or a gradient that is added")
    learning_rate: float = setting(1e-3, "of its own Adam", above=0)
    batch_size: int | None = setting(None, "observations of a step; none: the agent's", low=2)
    pad: int = setting(4, "largest shift of its views", low=0)
    k: int = setting(3, "atc: steps between the two observations of a pair", low=0)


@dataclass
class DQNFields:
    """Arguments of SB3's DQN."""

    learning_rate: float = setting(1e-4, "of Adam", above=0)
    batch_size: int = setting(32, "transitions of an update", low=1)
    buffer_size: int = setting(100_000, "transitions kept", low=1)
    learning_starts: int = setting(100_000, "random agent steps before the first update", low=0)
    train_freq: int = setting(4, "agent steps between two lots of updates", low=1)
    gradient_steps: int = setting(1, "updates in a lot", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    target_update_interval: int = setting(1000, "agent steps between two copies into the target", low=1)
    exploration_fraction: float = setting(0.1, "part of the run in which epsilon falls", above=0, high=1)
    exploration_initial_eps: float = setting(1.0, "share of random actions at first", low=0, high=1)
    exploration_final_eps: float = setting(0.01, "share of random actions from then on", low=0, high=1)


@dataclass
class QRDQNFields(DQNFields):
    """Arguments of sb3-contrib's QR-DQN (Dabney et al. 2018, arXiv:1710.10044)."""

    learning_rate: float = setting(5e-5, "of Adam", above=0)
    buffer_size: int = setting(1_000_000, "transitions kept", low=1)
    learning_starts: int = setting(50_000, "random agent steps before the first update", low=0)
    target_update_interval: int = setting(10_000, "agent steps between two copies into the target", low=1)
    exploration_fraction: float = setting(0.025, "part of the run in which epsilon falls", above=0, high=1)
    n_quantiles: int = setting(200, "of each action's return", low=1)


@dataclass
class PPOFields:
    """Arguments of SB3's PPO."""

    learning_rate: float = setting(2.5e-4, "of Adam at the start", above=0)
    clip_range: float = setting(0.1, "of the probability ratio at the start", above=0)
    linear_schedules: bool = setting(True, "both fall to 0 over the run")
    n_steps: int = setting(128, "agent steps of each environment in a rollout", low=2)
    batch_size: int = setting(256, "transitions of an update", low=2)
    n_epochs: int = setting(4, "passes over a rollout", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    gae_lambda: float = setting(0.95, "of generalised advantage estimation", low=0, high=1)
    vf_coef: float = setting(0.5, "weight of the value's loss", low=0)
    ent_coef: float = setting(0.01, "weight of the entropy", low=0)
    max_grad_norm: float = setting(0.5, "largest norm of the gradient", above=0)


@dataclass
class SB3DQNConfig:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: DQNFields = field(default_factory=DQNFields)
    policy: PolicyFields = field(default_factory=PolicyFields)
    replay: ReplayFields = field(default_factory=ReplayFields)
    objective: ObjectiveFields = field(default_factory=ObjectiveFields)
    train: TrainFields = field(default_factory=TrainFields)


@dataclass
class SB3QRDQNConfig:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: QRDQNFields = field(default_factory=QRDQNFields)
    policy: PolicyFields = field(default_factory=PolicyFields)
    replay: ReplayFields = field(default_factory=ReplayFields)
    objective: ObjectiveFields = field(default_factory=ObjectiveFields)
    train: TrainFields = field(default_factory=TrainFields)


@dataclass
class SB3PPOConfig:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: PPOFields = field(default_factory=PPOFields)
    policy: PolicyFields = field(default_factory=PolicyFields)
    objective: ObjectiveFields = field(default_factory=ObjectiveFields)
    train: TrainFields = field(default_factory=TrainFields)


#: ten million agent steps, as rl_zoo3 has them
_ATARI: dict[str, Any] = {**ATARI_TRAIN, "train.env_steps": 40_000_000, "train.eval_every": 1_000_000}
_TOY_NETWORK: dict[str, Any] = {
    "policy.encoder": "pixel",
    "policy.features_dim": 64,
    "policy.filters": 16,
    "policy.layers": 4,
    "policy.net_arch": [128],
    "objective.pad": 2,
    "objective.k": 1,
    "algorithm.gamma": 0.9,
    **TOY_TRAIN,
}
_TOY_DQN: dict[str, Any] = {
    **_TOY_NETWORK,
    "replay.n_stack": 3,
    "algorithm.learning_rate": 1e-3,
    "algorithm.batch_size": 64,
    "algorithm.buffer_size": 20_000,
    "algorithm.learning_starts": 300,
    "algorithm.train_freq": 1,
    "algorithm.target_update_interval": 200,
    "algorithm.exploration_fraction": 0.3,
}
DQN_ROWS: list[Row] = [("atari/*", _ATARI), ("toy/*", _TOY_DQN), ONE_FRAME]
QRDQN_ROWS: list[Row] = [("atari/*", _ATARI), ("toy/*", {**_TOY_DQN, "algorithm.n_quantiles": 50}), ONE_FRAME]
PPO_ROWS: list[Row] = [
    ("atari/*", {**_ATARI, "train.n_envs": 8}),
    (
        "toy/*",
        {
            **_TOY_NETWORK,
            "algorithm.learning_rate": 1e-3,
            "algorithm.clip_range": 0.2,
            "algorithm.batch_size": 128,
            "train.n_envs": 8,
            "train.env_steps": 20_000,
            "train.eval_every": 5000,
        },
    ),
]


def _env_defaults(rows: list[Row], who: str, other: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    def defaults(env_id: str) -> dict[str, Any]:
        require(env_id, who, "discrete", "images")
        return merge_rows(env_id, rows, other)

    return defaults


def check_network(policy: PolicyFields) -> None:
    """
    :raises FieldValueError: for numbers that the encoder does not take, or lacks
    """
    if [policy.filters is None, policy.layers is None] != 2 * [policy.encoder != "pixel"]:
        raise FieldValueError(
            f"policy.encoder={policy.encoder}, policy.filters={policy.filters}, policy.layers={policy.layers}: the pixel "
            "encoder needs both numbers, nature takes none"
        )


def check_off_policy(config: SB3DQNConfig | SB3QRDQNConfig) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    check_network(config.policy)
    check_buffer(config.algorithm.batch_size, config.algorithm.buffer_size)
    n_stack = config.env.kwargs.get("n_stack", config.replay.n_stack)
    if n_stack != config.replay.n_stack:
        raise FieldValueError(f"env.kwargs.n_stack={n_stack} and replay.n_stack={config.replay.n_stack}: set both alike")


def check_on_policy(config: SB3PPOConfig) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    check_network(config.policy)
    rollout = config.algorithm.n_steps * config.train.n_envs
    if rollout % config.algorithm.batch_size:
        raise FieldValueError(
            f"a rollout has algorithm.n_steps x train.n_envs = {rollout} transitions, no multiple of "
            f"algorithm.batch_size={config.algorithm.batch_size}"
        )


_UNKNOWN_STACK = {"replay.n_stack": None}
SB3_DQN = Family(
    config=SB3DQNConfig,
    columns={},
    env_defaults=_env_defaults(DQN_ROWS, "DQN", _UNKNOWN_STACK),
    check=check_off_policy,
    builder="crl.agents.assemble_sb3:build_dqn",
)
SB3_QRDQN = Family(
    config=SB3QRDQNConfig,
    columns={},
    env_defaults=_env_defaults(QRDQN_ROWS, "QR-DQN", _UNKNOWN_STACK),
    check=check_off_policy,
    builder="crl.agents.assemble_sb3:build_qrdqn",
)
SB3_PPO = Family(
    config=SB3PPOConfig,
    columns={},
    env_defaults=_env_defaults(PPO_ROWS, "PPO", {"train.n_envs": 8}),
    check=check_on_policy,
    builder="crl.agents.assemble_sb3:build_ppo",
)
