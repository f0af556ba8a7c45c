"""
The fields of a SAC-from-pixels agent, with CURL's published values as defaults. No torch in here: a wrong value is answered
before anything heavy is imported.
"""

# ruff: noqa: RUF009  (setting() returns a dataclass field)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crl.agents.fields import setting


@dataclass
class EnvFields:
    """Where the agent learns."""

    id: str = setting("", "environment id")
    kwargs: dict[str, Any] = setting({}, "options of the environment, as crl.envs.make_env takes them")


@dataclass
class AlgorithmFields:
    """Arguments of :class:`crl.agents.PixelSAC`."""

    learning_rate: float = setting(1e-3, "of actor, critic and encoder", above=0)
    batch_size: int = setting(512, "transitions of an update", low=2)
    buffer_size: int = setting(100_000, "transitions kept", low=2)
    learning_starts: int = setting(1000, "random agent steps before the first update", low=0)
    train_freq: int = setting(1, "agent steps between two lots of updates", low=1)
    gradient_steps: int = setting(1, "updates in a lot", low=1)
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
class PolicyFields:
    """Networks."""

    encoder: Literal["pixel", "nature", "rainbow", "impala"] = setting("pixel", "kind of conv body")
    encoder_gradient: Literal["critic", "actor", "objective"] = setting("critic", "whose gradient moves the conv body")
    filters: int | None = setting(32, "of every layer of the pixel encoder; none for the others", low=1)
    layers: int | None = setting(4, "convolutions of the pixel encoder; none for the others", low=1)
    features_dim: int = setting(50, "width of the encoder's output", low=1)
    head: Literal["layer_norm", "tanh", "linear", "relu", "flatten"] = setting("layer_norm", "what follows the conv body")
    pool_size: int | None = setting(None, "side of the grid that the conv body's output is pooled to; none: no pooling", low=1)
    init: Literal["delta_orthogonal", "orthogonal", "default"] | None = setting(None, "none: the encoder's published one")
    crop: int | None = setting(None, "side of the square that the encoder sees; none: the whole image", low=1)
    precision: Literal["fp32", "bf16", "auto"] = setting("fp32", "of the conv body")
    net_arch: list[int] = setting([1024, 1024], "hidden layers of actor and critic", low=1)
    mlp_init: Literal["orthogonal", "default"] = setting("orthogonal", "of the hidden layers")
    log_std_bounds: tuple[float, float] | None = setting((-10.0, 2.0), "tanh-rescaled to; none: clamped as SB3 does")
    exact_log_prob: bool = setting(False, "of squashed actions, without the 1e-6 of SB3 and CURL")


@dataclass
class ReplayFields:
    """The replay buffer and its augmentation."""

    n_stack: int | None = setting(3, "frames in an observation; none: told by the channels", low=1)
    augment: Literal["random_crop", "random_shift", "none"] = setting(
        "random_crop", "of observations; random_crop: to policy.crop; none: the encoder's centre crop alone"
    )
    crop_inclusive: bool = setting(False, "random_crop may reach the last row and column (false: published off-by-one)")
    pad: int = setting(4, "largest shift of random_shift", low=0)
    folder: str | None = setting(None, "frames in files of this folder instead of memory")


@dataclass
class ObjectiveFields:
    """What moves the encoder besides the critic."""

    name: Literal["curl"] = setting("curl", "kind of objective")
    weight: float = setting(1.0, "of its loss; 0 leaves it out", low=0)
    balance: float | None = setting(None, "ratio of its encoder gradient's norm to the critic's; joint only", above=0)
    learning_rate: float | None = setting(None, "of its heads and own steps; none: algorithm.learning_rate", above=0)
    keys: Literal["target", "own", "online"] = setting("target", "where CURL's keys come from")


@dataclass
class TrainFields:
    """The run around the agent; read by crl.runs, not by the agent."""

    env_steps: int = setting(100_000, "length in environment steps, action repeat counted", low=1)
    n_envs: int = setting(1, "parallel environments", low=1)
    threads: int | None = setting(None, "of torch; none: torch's choice", low=1)
    eval_every: int = setting(10_000, "environment steps between two evaluations", low=1)
    eval_episodes: int = setting(10, "episodes of one evaluation", low=1)


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
