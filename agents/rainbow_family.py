"""
Rainbow on Atari, as a family of agents: fields with data-efficient Rainbow's values as CURL's code has them as defaults, and
what environments change. No torch in here.
"""

# ruff: noqa: RUF009  (setting() returns a dataclass field)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crl.agents.config import EnvFields, TrainFields, check_buffer
from crl.agents.env_defaults import Row, merge_rows
from crl.agents.env_kinds import require
from crl.agents.family import Family
from crl.agents.fields import FieldValueError, setting


@dataclass
class AlgorithmFields:
    """Arguments of :class:`crl.agents.Rainbow`."""

    learning_rate: float = setting(1e-4, "of Adam", above=0)
    adam_eps: float = setting(1.5e-4, "Adam's epsilon", above=0)
    batch_size: int = setting(32, "transitions of an update", low=2)
    buffer_size: int = setting(100_000, "transitions kept", low=2)
    learning_starts: int = setting(1600, "agent steps before the first update", low=0)
    random_start: bool = setting(False, "uniform actions until then; false: the agent's own from the first step")
    train_freq: int = setting(1, "agent steps between two lots of updates", low=1)
    gradient_steps: int = setting(1, "updates in a lot, for each environment", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    n_steps: int = setting(20, "length of the returns", low=1)
    target_update_interval: int = setting(2000, "agent steps between two copies into the target; 1: at every update", low=1)
    double: bool = setting(True, "the online network chooses the next action, the target network values it")
    prioritized: bool = setting(True, "draw by priorities")
    priority_exponent: float = setting(0.5, "0 draws uniformly", low=0, high=1)
    priority: Literal["loss", "kl"] = setting(
        "loss", "of a transition: its loss, or how far its prediction is from its target"
    )
    beta_start: float = setting(0.4, "exponent of the importance weights at learning_starts", low=0, high=1)
    beta_end: float = setting(1.0, "and at the end of the run", low=0, high=1)
    exploration_initial_eps: float = setting(0.0, "share of random actions at learning_starts", low=0, high=1)
    exploration_final_eps: float = setting(0.0, "and exploration_steps later", low=0, high=1)
    exploration_steps: int = setting(1, "agent steps in which it falls", low=1)
    evaluation_eps: float = setting(0.001, "share of random actions in evaluations", low=0, high=1)
    max_grad_norm: float | None = setting(10.0, "largest norm of the gradient; none: not clipped", above=0)
    clip: Literal["joint", "separate"] = setting(
        "joint", "one norm of all, or one of the network's and of the transition model's"
    )
    reset_every: int | None = setting(None, "updates between two resets (SR-SPR: 40000); none: never", low=1)
    reset_keep: float = setting(0.8, "part of their weights that the convolutions keep at a reset (BBF: 0.5)", low=0, high=1)
    metrics_interval: int = setting(100, "updates between two logs of means", low=1)


@dataclass
class PolicyFields:
    """Networks."""

    encoder: Literal["rainbow", "nature", "impala", "pixel"] = setting(
        "rainbow", "kind of conv body, whose output is flattened"
    )
    padding: Literal["valid", "same"] = setting("valid", "of the nature encoder: none, or Dopamine's zeros")
    filters: int | None = setting(None, "of every layer of the pixel encoder; none for the others", low=1)
    layers: int | None = setting(None, "convolutions of the pixel encoder; none for the others", low=1)
    pool_size: int | None = setting(None, "side of the grid that the conv body's output is pooled to; none: no pooling", low=1)
    init: Literal["default", "xavier", "orthogonal"] = setting("default", "of convolutions, and of dense layers without noise")
    rescale: bool = setting(False, "bring each image's feature map to [0, 1], as SPR does")
    precision: Literal["fp32", "bf16", "auto"] = setting("fp32", "of the conv body")
    shared_arch: list[int] = setting([], "hidden layers before value and advantage fork", low=1)
    net_arch: list[int] = setting([256], "hidden layers of each of the two", low=1)
    n_atoms: int = setting(51, "points of the return grid; 1: plain Q values with Huber's loss", low=1)
    v_min: float = setting(-10.0, "lowest return of the grid")
    v_max: float = setting(10.0, "highest return of the grid")
    dueling: bool = setting(True, "value and advantage apart")
    noisy: bool = setting(True, "dense layers with learned noise")
    sigma0: float = setting(0.1, "scale of the noise at the start", low=0)
    grad_scale: float = setting(1.0, "factor of the gradient that the dense layers send to the encoder", low=0, high=1)


@dataclass
class ReplayFields:
    """The replay buffer, and the augmentation of what the agent itself learns from."""

    n_stack: int | None = setting(4, "frames in an observation; none: told by the channels", low=1)
    augment: Literal["none", "random_shift", "shift_intensity"] = setting("none", "of observations and next observations")
    pad: int = setting(4, "largest shift", low=0)
    intensity: float = setting(0.05, "of shift_intensity: standard deviation of the factor", low=0, high=0.5)
    folder: str | None = setting(None, "frames in files of this folder instead of memory")


@dataclass
class ObjectiveFields:
    """What moves the encoder besides the agent's own loss."""

    name: Literal["curl", "spr"] = setting("curl", "kind of objective")
    weight: float = setting(1.0, "of its loss; 0 leaves it out", low=0)
    tau: float = setting(0.001, "EMA rate of its keys or targets; 1: the online network, without gradient", above=0, high=1)
    crop: int = setting(80, "curl: side of the first crop of its views", low=1)
    pad: int = setting(4, "curl: the edge is repeated so far around it", low=0)
    size: int = setting(84, "curl: side of the second crop", low=1)
    hidden: int = setting(256, "curl: width of the projection's hidden layer", low=1)
    width: int = setting(128, "curl: width of the projection", low=1)
    scale: float = setting(0.1, "curl: factor of the logits", above=0)
    k: int = setting(5, "spr: steps that are predicted", low=1)


@dataclass
class RainbowConfig:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: AlgorithmFields = field(default_factory=AlgorithmFields)
    policy: PolicyFields = field(default_factory=PolicyFields)
    replay: ReplayFields = field(default_factory=ReplayFields)
    objective: ObjectiveFields = field(default_factory=ObjectiveFields)
    train: TrainFields = field(default_factory=TrainFields)


#: a run on Atari: 100k agent steps, evaluated at the end over 100 episodes
ATARI_TRAIN: dict[str, Any] = {
    "train.env_steps": 400_000,
    "train.eval_every": 100_000,
    "train.eval_episodes": 10,
    "train.final_episodes": 100,
    "train.eval_envs": 10,
}
#: a run on the toy: 32x32, three frames, episodes of 50 steps, minutes on one core
TOY_TRAIN: dict[str, Any] = {
    "train.env_steps": 4000,
    "train.eval_every": 1000,
    "train.eval_episodes": 20,
    "train.threads": 1,
}
#: the toy that shows one frame, where others stack three
ONE_FRAME: Row = ("toy/chain", {"replay.n_stack": 1})
ENV_ROWS: list[Row] = [
    ("atari/*", ATARI_TRAIN),
    (
        "toy/*",
        {
            **TOY_TRAIN,
            "replay.n_stack": 3,
            # where the ball is has to be learned from few images: without shifts nothing is in so few steps
            "replay.augment": "random_shift",
            "replay.pad": 2,
            "objective.crop": 30,
            "objective.pad": 2,
            "objective.size": 32,
            "policy.v_min": 0.0,
            "algorithm.learning_rate": 1e-3,
            "algorithm.gamma": 0.9,
        },
    ),
    ONE_FRAME,
]
#: everywhere else
OTHER: dict[str, Any] = {"replay.n_stack": None}

#: games on which CURL's code takes a hundredth of the contrast (the paper says a twentieth)
WEAK_CONTRAST = ("atari/pong", "atari/boxing", "atari/privateeye", "atari/freeway")

#: what recipes on the toy have in common, whatever they are on games: its images are too small for the games' encoders
ON_TOY: tuple[tuple[str, str, Any], ...] = (
    ("toy/*", "policy.encoder", "pixel"),
    ("toy/*", "policy.padding", "valid"),
    ("toy/*", "policy.filters", 16),
    ("toy/*", "policy.layers", 4),
    ("toy/*", "algorithm.n_steps", 3),
    # in so few steps noise alone explores too little
    ("toy/*", "algorithm.random_start", True),
    ("toy/*", "algorithm.exploration_initial_eps", 1.0),
    # lengths of a run of 4000 steps, not of 100000
    ("toy/*", "algorithm.target_update_interval", 1),
    ("toy/*", "algorithm.buffer_size", 20_000),
    ("toy/*", "algorithm.learning_starts", 300),
    ("toy/*", "algorithm.exploration_steps", 500),
)

#: data-efficient Rainbow in Dopamine (google/dopamine, labs/atari_100k), which rliable's scores of DER are from
DER_DOPAMINE: tuple[tuple[str, Any], ...] = (
    ("objective.weight", 0.0),
    ("algorithm.buffer_size", 1_000_000),
    ("algorithm.random_start", True),
    ("algorithm.n_steps", 10),
    # weights are always the square root of how rarely a transition is drawn
    ("algorithm.beta_start", 0.5),
    ("algorithm.beta_end", 0.5),
    ("algorithm.exploration_initial_eps", 1.0),
    ("algorithm.exploration_final_eps", 0.01),
    ("algorithm.exploration_steps", 2000),
    ("algorithm.max_grad_norm", None),
    ("policy.encoder", "nature"),
    ("policy.padding", "same"),
    ("policy.init", "xavier"),
    ("policy.shared_arch", [512]),
    ("policy.net_arch", []),
)
#: DrQ in Dopamine, with the smaller epsilon of Agarwal et al. (2021, arXiv:2108.13264)
DRQ_EPS: tuple[tuple[str, Any], ...] = (
    *DER_DOPAMINE,
    ("algorithm.target_update_interval", 1),
    ("algorithm.prioritized", False),
    ("algorithm.exploration_steps", 5000),
    ("policy.n_atoms", 1),
    ("policy.noisy", False),
    ("replay.augment", "shift_intensity"),
)
#: SPR (Schwarzer et al. 2021, arXiv:2007.05929) as its README runs it, with augmentation
SPR: tuple[tuple[str, Any], ...] = (
    ("objective.name", "spr"),
    ("objective.weight", 5.0),
    ("objective.tau", 1.0),
    ("algorithm.learning_starts", 2000),
    ("algorithm.random_start", True),
    ("algorithm.gradient_steps", 2),
    ("algorithm.n_steps", 10),
    ("algorithm.target_update_interval", 1),
    ("algorithm.priority", "kl"),
    ("algorithm.clip", "separate"),
    ("policy.encoder", "nature"),
    ("policy.rescale", True),
    ("policy.sigma0", 0.5),
    ("policy.grad_scale", 2**-0.5),
    ("replay.augment", "shift_intensity"),
)


def env_defaults(env_id: str) -> dict[str, Any]:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :return: fields by dotted path
    :raises ConfigError: for an environment of crl's with continuous actions, or that shows vectors
    """
    require(env_id, "Rainbow", "discrete", "images")
    return merge_rows(env_id, ENV_ROWS, OTHER)


def check_together(config: RainbowConfig) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    algorithm, policy, replay, objective = config.algorithm, config.policy, config.replay, config.objective
    check_buffer(algorithm.batch_size, algorithm.buffer_size)
    n_stack = config.env.kwargs.get("n_stack", replay.n_stack)
    if n_stack != replay.n_stack:
        raise FieldValueError(f"env.kwargs.n_stack={n_stack} and replay.n_stack={replay.n_stack}: set both alike")
    if [policy.filters is None, policy.layers is None] != 2 * [policy.encoder != "pixel"]:
        raise FieldValueError(
            f"policy.encoder={policy.encoder}, policy.filters={policy.filters}, policy.layers={policy.layers}: the pixel "
            "encoder needs both numbers, the others have a fixed body and take none"
        )
    if policy.padding != "valid" and policy.encoder != "nature":
        raise FieldValueError(f"policy.padding={policy.padding} is for policy.encoder=nature: set policy.padding=valid")
    if not policy.v_min < policy.v_max:
        raise FieldValueError(f"policy.v_min={policy.v_min}, policy.v_max={policy.v_max}: low before high")
    if not algorithm.beta_start <= algorithm.beta_end:
        raise FieldValueError(
            f"algorithm.beta_start={algorithm.beta_start}, algorithm.beta_end={algorithm.beta_end}: low before high"
        )
    if algorithm.priority == "kl" and policy.n_atoms == 1:
        raise FieldValueError("algorithm.priority=kl compares distributions: policy.n_atoms=1 has none")
    _check_objective(objective, replay)


def _check_objective(objective: ObjectiveFields, replay: ReplayFields) -> None:
    if objective.weight == 0:
        return
    if objective.name == "curl" and objective.size > objective.crop + 2 * objective.pad:
        raise FieldValueError(
            f"objective.size={objective.size} is larger than what is left of the first crop, objective.crop={objective.crop} "
            f"and twice objective.pad={objective.pad}"
        )
    if objective.name == "spr" and replay.augment == "none":
        raise FieldValueError("objective.name=spr predicts augmented views: replay.augment=none leaves none")


RAINBOW = Family(
    config=RainbowConfig,
    columns={},
    env_defaults=env_defaults,
    check=check_together,
    builder="crl.agents.assemble_discrete:build_rainbow",
)
