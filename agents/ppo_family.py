"""
PPO from pixels as Achievement Distillation's authors run it on Crafter (Moon et al. 2023, arXiv:2307.03486), as a family of
agents: fields with published values as defaults, and what environments change. No torch in here.
"""

# ruff: noqa: RUF009  (setting() returns a dataclass field)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crl.agents.config import EnvFields, TrainFields
from crl.agents.env_defaults import Row, merge_rows
from crl.agents.env_kinds import require
from crl.agents.family import Family
from crl.agents.fields import FieldValueError, setting


@dataclass
class AlgorithmFields:
    """Arguments of :class:`crl.agents.PixelPPO`."""

    learning_rate: float = setting(3e-4, "of Adam", above=0)
    n_steps: int = setting(512, "agent steps of a rollout, in each environment", low=1)
    batch_size: int = setting(512, "transitions of an update", low=2)
    n_epochs: int = setting(3, "passes over a rollout", low=1)
    gamma: float = setting(0.95, "discount", low=0, high=1)
    gae_lambda: float = setting(0.65, "of the advantages", low=0, high=1)
    clip_range: float = setting(0.2, "of the probability ratio", above=0)
    ent_coef: float = setting(0.01, "weight of the entropy", low=0)
    vf_coef: float = setting(0.5, "weight of the squared errors of values", low=0)
    max_grad_norm: float = setting(0.5, "largest norm of all gradients together", above=0)
    advantages: Literal["rollout", "batch", "raw"] = setting("rollout", "over what they are normalised (SB3: batch)")
    adam_eps: float = setting(1e-8, "of Adam (SB3: 1e-5)", above=0)


@dataclass
class PolicyFields:
    """Networks."""

    filters: list[int] = setting([64, 128, 128], "of the encoder's stacks", low=1)
    hidden_dim: int = setting(256, "width of the dense layer between convolutions and features", low=1)
    features_dim: int = setting(1024, "width of the encoder's output", low=1)
    precision: Literal["fp32", "bf16", "auto"] = setting("fp32", "of the conv body")
    normalize_values: bool = setting(True, "the value head predicts returns normalised by running statistics")
    value_beta: float = setting(0.99, "share of the old statistics that a minibatch keeps", low=0, high=0.999999)


@dataclass
class DistillationFields:
    """
    Achievement distillation: an auxiliary phase between rollouts. Off unless ``every`` is set. Arguments of
    :class:`crl.callbacks.AchievementPhases` and :class:`crl.objectives.achievement.AchievementDistillation`.
    """

    every: int | None = setting(None, "rollouts between two auxiliary phases; none: plain PPO", low=1)
    epochs: int = setting(6, "passes of a phase over its rollouts", low=1)
    prediction: bool = setting(True, "contrast within episodes: which sub-goal comes next")
    matching: bool = setting(True, "contrast between episodes: which sub-goals are the same")
    memory: bool = setting(True, "the policy is shown the representation of the last sub-goal")
    contrast: bool = setting(True, "false: as many steps of policy and value distillation alone (control)")
    temperature: float = setting(0.1, "of both contrasts", above=0)
    regularisation: float = setting(0.05, "of the optimal transport that matches sub-goals", above=0)
    threshold: float = setting(0.5, "of its plan: less is no match", low=0, high=1)
    targets: int = setting(16, "other episodes that each episode is matched with", low=1)
    batch_size: int = setting(512, "steps or pairs of a gradient step", low=2)
    learning_rate: float = setting(3e-4, "of the phase's own Adams", above=0)
    policy_weight: float = setting(1.0, "of the policy's distillation", low=0)
    value_weight: float = setting(1.0, "of the value function's distillation", low=0)


@dataclass
class PPOTrainFields(TrainFields):
    """The run around the agent; read by crl.runs, not by the agent."""

    env_steps: int = setting(1_000_000, "length in environment steps", low=1)
    n_envs: int = setting(8, "parallel environments", low=1)
    subprocess: bool = setting(False, "each environment in a process of its own")
    eval_every: int = setting(100_000, "environment steps between two evaluations", low=1)


@dataclass
class PPOConfig:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: AlgorithmFields = field(default_factory=AlgorithmFields)
    policy: PolicyFields = field(default_factory=PolicyFields)
    distillation: DistillationFields = field(default_factory=DistillationFields)
    train: PPOTrainFields = field(default_factory=PPOTrainFields)


#: field: (paper, cpu)
COLUMNS: dict[str, tuple[Any, Any]] = {
    # IMPALA's own widths: a thirtieth of the work
    "policy.filters": ([64, 128, 128], [16, 32, 32]),
    "policy.features_dim": (1024, 256),
}

#: later rows win; patterns as in file names
ENV_ROWS: list[Row] = [
    # what is published of Crafter is of actions that are drawn
    ("crafter/*", {"train.eval_deterministic": False}),
    (
        # small pictures and short episodes, a minute on one core
        "toy/*",
        {
            "policy.filters": [8, 16, 16],
            "policy.hidden_dim": 128,
            "policy.features_dim": 128,
            "algorithm.n_steps": 64,
            "algorithm.batch_size": 128,
            "train.env_steps": 20_000,
            "train.eval_every": 5000,
            "train.eval_episodes": 20,
            "train.threads": 1,
        },
    ),
]


def env_defaults(env_id: str) -> dict[str, Any]:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :return: fields by dotted path
    :raises ConfigError: for one of crl's environments with continuous actions, which this policy was never tried on
    """
    require(env_id, "PPO of the recipes", "discrete")
    return merge_rows(env_id, ENV_ROWS, {})


def check_together(config: PPOConfig) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    algorithm = config.algorithm
    rollout = algorithm.n_steps * config.train.n_envs
    if rollout % algorithm.batch_size:
        raise FieldValueError(
            f"algorithm.batch_size={algorithm.batch_size} has to divide a rollout, algorithm.n_steps * train.n_envs = "
            f"{algorithm.n_steps} * {config.train.n_envs} = {rollout}"
        )
    distillation = config.distillation
    if distillation.every is not None and not (distillation.prediction or distillation.matching):
        raise FieldValueError(
            "distillation.prediction=false and distillation.matching=false leave nothing to a phase: set "
            "distillation.every=none for plain PPO, or distillation.contrast=false for the control"
        )


PPO = Family(
    config=PPOConfig,
    columns=COLUMNS,
    env_defaults=env_defaults,
    check=check_together,
    builder="crl.agents.assemble_ppo:build_ppo",
)
