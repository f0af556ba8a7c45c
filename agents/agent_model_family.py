"""
On-policy agents that share their world with others and model them (CLAM and its controls), as a family: fields with published
values as defaults where there are any, and what environments change. No torch in here.
"""

# ruff: noqa: RUF009  (setting() returns a dataclass field)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crl.agents.config import EnvFields, TrainFields
from crl.agents.env_defaults import Row, matches, merge_rows
from crl.agents.env_kinds import kind_of
from crl.agents.family import Family
from crl.agents.fields import ConfigError, FieldValueError, setting


@dataclass
class AlgorithmFields:
    """SB3's PPO, A2C or sb3-contrib's RecurrentPPO, as they are."""

    name: Literal["ppo", "a2c", "recurrent_ppo"] = setting("ppo", "algorithm")
    learning_rate: float = setting(3e-4, "of its optimiser", above=0)
    n_steps: int = setting(128, "agent steps of a rollout, in each environment", low=1)
    batch_size: int | None = setting(256, "transitions of an update; none: a2c, which takes a rollout", low=2)
    n_epochs: int | None = setting(10, "passes over a rollout; none: a2c, which makes one", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    gae_lambda: float = setting(0.95, "of the advantages", low=0, high=1)
    clip_range: float | None = setting(0.2, "of the probability ratio; none: a2c", above=0)
    ent_coef: float = setting(0.01, "weight of the entropy", low=0)
    vf_coef: float = setting(0.5, "weight of the squared errors of values", low=0)
    max_grad_norm: float = setting(0.5, "largest norm of all gradients together", above=0)
    reward_scale: float = setting(1.0, "factor of the rewards that the agent learns from; returns are told without", above=0)
    net_arch: list[int] = setting([64, 64], "hidden layers of actor and critic", low=1)


@dataclass
class HistoryFields:
    """
    What is kept of each step of an episode, and the encoder of it. Columns are named by the environment (``env.columns``);
    names may hold wildcards. Of images (``env.kwargs.pixels``) that is what the policy's CNN makes of them, and no columns.
    """

    columns: list[str] = setting([], "columns of the observation that are kept as they are")
    differences: float = setting(0.0, "factor of their changes since the last step, which are kept too; 0: they are not")
    ego: str | None = setting(None, "where the ego agent is: common beginning of two columns' names")
    others: list[str] = setting([], "likewise of others; kept are their places relative to the ego's, steps and distances")
    things: list[str] = setting([], "likewise of things, to which distances are")
    scale: float = setting(1.0, "factor of these relations", above=0)
    length: int = setting(50, "newest steps that are kept", low=1)
    embed_dim: int = setting(20, "width of the embedding", low=1)
    width: int = setting(64, "of the transformer", low=4)
    layers: int = setting(2, "of self-attention", low=0)
    heads: int = setting(4, "of all attention", low=1)
    image_encoder: Literal["nature", "pixel", "impala"] | None = setting(
        None, "conv body of the policy, whose output is kept of each step; none: observations are vectors"
    )
    image_features: int = setting(64, "width of its output", low=1)
    image_filters: int | None = setting(None, "of every layer of the pixel encoder; none: as published", low=1)
    image_layers: int | None = setting(None, "convolutions of the pixel encoder; none: as published", low=1)


@dataclass
class ModelFields:
    """How others are modelled."""

    kind: Literal["clam", "liam", "cbam", "label_positive", "random", "rl", "none"] = setting(
        "clam",
        "clam: contrast; liam: decodes what others see and do; cbam: told their id; label_positive: contrast told their id; "
        "random: encoder as drawn; rl: encoder trained by the agent's loss; none: zeros",
    )
    way: Literal["embedding", "history"] = setting(
        "embedding", "embedding: encoded as the agent acts; history: encoded inside the policy (rl always is)"
    )
    batch_size: int = setting(512, "episodes of a step", low=2)
    interval: int = setting(250, "environment steps between two steps of the encoder", low=1)
    min_episodes: int = setting(64, "stored episodes before the first one", low=2)
    min_steps: int = setting(8, "shorter episodes are not stored", low=1)
    store_size: int = setting(10_000, "episodes that are kept", low=2)
    learning_rate: float = setting(1e-3, "of the encoder's Adam", above=0)
    tau: float | None = setting(None, "rate of the acting encoder's EMA; none: the kind's own", above=0, high=1)
    temperature: float = setting(0.5, "of the contrast", above=0)
    min_crop: int = setting(8, "steps of the shortest crop", low=1)
    max_crop: int = setting(48, "steps of the longest crop", low=1)
    max_share: float = setting(1.0, "of an episode that a crop takes at most; 1: short ones are taken whole", above=0, high=1)
    mask_ratio: float = setting(0.3, "share of a crop's steps that is hidden", low=0, high=0.99)
    masked_views: Literal["first", "both", "none"] = setting("first", "of the two crops")


@dataclass
class PoolTrainFields(TrainFields):
    """The run around the agent; read by crl.runs, not by the agent."""

    env_steps: int = setting(500_000, "length in environment steps", low=1)
    n_envs: int = setting(16, "parallel environments", low=1)
    threads: int | None = setting(1, "of torch; none: torch's choice", low=1)
    eval_every: int = setting(50_000, "environment steps between two evaluations", low=1)
    eval_episodes: int = setting(96, "episodes of one evaluation", low=1)
    eval_envs: int = setting(16, "parallel environments of an evaluation, each with a fixed share of its episodes", low=1)
    # without a memory a policy that never varies can run in circles until the time limit
    eval_deterministic: bool = setting(False, "evaluations take the likeliest action; false: one drawn from the policy")


@dataclass
class AgentModelConfig:
    """All of it."""

    agent: str = setting("", "recipe")
    env: EnvFields = field(default_factory=EnvFields)
    algorithm: AlgorithmFields = field(default_factory=AlgorithmFields)
    history: HistoryFields = field(default_factory=HistoryFields)
    model: ModelFields = field(default_factory=ModelFields)
    train: PoolTrainFields = field(default_factory=PoolTrainFields)


#: what A2C has in place of PPO's (SB3's defaults; the entropy as PPO's)
A2C: tuple[tuple[str, Any], ...] = (
    ("algorithm.name", "a2c"),
    ("algorithm.learning_rate", 7e-4),
    ("algorithm.n_steps", 5),
    ("algorithm.batch_size", None),
    ("algorithm.n_epochs", None),
    ("algorithm.clip_range", None),
    ("algorithm.gae_lambda", 1.0),
)

#: of particle worlds, in place of columns and their changes
RELATIONS: dict[str, Any] = {
    "history.columns": [],
    "history.differences": 0.0,
    "history.ego": "ego_position",
    "history.others": ["partner*_from_ego"],
}
#: of a predator, whatever it sees: what its task was screened with (``scripts/screen_pools.py``)
PREDATOR: dict[str, Any] = {
    "algorithm.learning_rate": 1e-3,
    "algorithm.gamma": 0.95,
    "algorithm.reward_scale": 0.1,
}
#: of a predator: what the prey does, and the others beside it, as preys differ in how they take the ego
HUNT: dict[str, Any] = {
    "history.columns": ["ego_position_*", "partner*_from_ego_*", "partner2_velocity_*"],
    "history.differences": 0.0,
}
#: lbforaging's tasks of limited sight
_SHORT_SIGHT = "lbf/*2s-*"
# Contrast between episodes is solved by all that is constant in one: food, landmarks and levels are left out, and what others
# do is put forward.
ENV_ROWS: list[Row] = [
    ("lbf/*", {"history.ego": "ego", "history.others": ["partner*"], "history.things": ["food*"], "history.scale": 0.125}),
    (_SHORT_SIGHT, {"env.kwargs.relative": True}),
    (
        "mpe/*",
        {
            "history.columns": ["partner*_from_ego_*"],
            "history.differences": 10.0,
            # returns of -10 a touch: their squared errors would take all of the clipped gradient from the policy
            "algorithm.reward_scale": 0.02,
        },
    ),
    ("mpe/simple-spread", {**RELATIONS, "history.things": ["landmark*_from_ego"]}),
]
#: everywhere else: all that is seen
OTHER: dict[str, Any] = {"history.columns": ["*"]}

#: With images. Images have no columns to choose: what is constant in an episode is seen too. SB3's CNN is the cheapest that
#: sees a picture of 64x64 to its edges. Each step of the objective looks at all frames of its batch (a third of a second of
#: one core for 64 episodes), and a stored episode takes 0.6 MB: hence few of them. PPO's passes as in rl_zoo3 on Atari.
PIXELS: dict[str, Any] = {
    "history.columns": [],
    "history.differences": 0.0,
    "history.ego": None,
    "history.others": [],
    "history.things": [],
    "history.image_encoder": "nature",
    "model.batch_size": 64,
    "model.store_size": 500,
    "algorithm.n_epochs": 4,
}


def env_defaults(env_id: str) -> dict[str, Any]:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :return: fields by dotted path
    :raises ConfigError: for an environment without others
    """
    kind = kind_of(env_id)
    if kind is not None and not kind.pool:
        raise ConfigError(no_pool(env_id))
    return merge_rows(env_id, ENV_ROWS, OTHER)


def option_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param options: of the environment
    :return: fields by dotted path
    """
    predator = options.get("role") == "predator"
    trained = PREDATOR if predator else {}
    if options.get("pixels") is True:
        return trained | PIXELS
    # others come and go: relations know of those who are not there, changes of columns do not
    if options.get("sight") is not None:
        return trained | RELATIONS
    return trained | HUNT if predator else {}


def no_pool(env_id: str) -> str:
    """What to say of an environment without others."""
    return (
        f"{env_id} has no pool of partners to model: choose lbf/<id> (lbf/8x8-2p-2f), mpe/simple_tag or mpe/simple_spread, or "
        "an environment of yours that keeps what crl.envs.agent_pool promises"
    )


def check_together(config: AgentModelConfig) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    algorithm, history, model = config.algorithm, config.history, config.model
    of_ppo = {name: getattr(algorithm, name) for name in ("batch_size", "n_epochs", "clip_range")}
    given = [name for name, value in of_ppo.items() if (value is None) != (algorithm.name == "a2c")]
    if given:
        wanted = "none" if algorithm.name == "a2c" else "a number"
        raise FieldValueError(f"algorithm.name={algorithm.name}: set algorithm.{given[0]}={wanted}")
    if algorithm.batch_size is not None and algorithm.batch_size > algorithm.n_steps * config.train.n_envs:
        raise FieldValueError(
            f"algorithm.batch_size={algorithm.batch_size} is larger than a rollout, algorithm.n_steps * train.n_envs = "
            f"{algorithm.n_steps * config.train.n_envs}"
        )
    if history.width % history.heads:
        raise FieldValueError(f"history.width={history.width} must be a multiple of history.heads={history.heads}")
    _check_images(config)
    if not history.columns and not history.others and history.image_encoder is None:
        raise FieldValueError("history.columns and history.others are both empty: nothing is left to keep of a step")
    if history.others and matches(config.env.id, _SHORT_SIGHT) and config.env.kwargs.get("relative") is not True:
        raise FieldValueError(
            f"{config.env.id} counts places from a corner of what is seen, which moves, and history.others are told step by "
            "step: set env.kwargs.relative=true, or keep history.columns alone (history.others=[], history.ego=none)"
        )
    if history.others and history.ego is None:
        raise FieldValueError("history.others are seen relative to the ego agent: set history.ego")
    if model.min_crop > model.max_crop:
        raise FieldValueError(f"model.min_crop={model.min_crop} is longer than model.max_crop={model.max_crop}")
    if model.store_size < model.min_episodes:
        raise FieldValueError(f"model.store_size={model.store_size}: room for model.min_episodes={model.min_episodes}")


def _check_images(config: AgentModelConfig) -> None:
    history, model = config.history, config.model
    pixels = config.env.kwargs.get("pixels") is True
    if not pixels and history.image_encoder is None:
        return
    if model.kind == "rl" or model.way == "history":
        field = "model.kind=rl" if model.kind == "rl" else "model.way=history"
        raise FieldValueError(
            f"{field} encodes histories inside the policy, again for each minibatch, which is not done with images "
            "(env.kwargs.pixels=true): set model.way=embedding and another model.kind (ppo-clam, ppo-random-model, ...), or "
            "leave pixels out"
        )
    if history.image_encoder is None:
        raise FieldValueError("history.image_encoder=none: images (env.kwargs.pixels=true) need nature, pixel or impala")
    columns = ("columns", "differences", "ego", "others", "things")
    given = [name for name in columns if getattr(history, name)]
    if given:
        raise FieldValueError(
            f"history.{given[0]}={getattr(history, given[0])}: images have no columns, and what history.image_encoder="
            f"{history.image_encoder} makes of them is kept; leave history.{', history.'.join(columns)} empty"
        )
    if history.image_encoder != "pixel" and (history.image_filters is not None or history.image_layers is not None):
        raise FieldValueError(
            f"history.image_encoder={history.image_encoder} has a fixed body: set history.image_filters=none and "
            "history.image_layers=none"
        )


AGENT_MODEL = Family(
    config=AgentModelConfig,
    columns={},
    env_defaults=env_defaults,
    check=check_together,
    option_defaults=option_defaults,
    builder="crl.agents.assemble_agent_model:build_agent_model",
)
