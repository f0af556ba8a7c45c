"""
Recipes: named agents, each one readable definition. :func:`resolve` makes a complete configuration of one for an environment
without loading torch or SB3; :func:`build` makes the agent.

Every agent belongs to a :class:`crl.agents.family.Family`. Where the published agent and the one for a few CPU cores differ, a
column of the family says so; what the columns do not name is as published (the defaults of the family's fields). Controls
differ from their parent in exactly one named field.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crl.agents.agent_model_family import A2C, AGENT_MODEL
from crl.agents.config import ADDED_FIELDS
from crl.agents.drqv2_family import DRQV2
from crl.agents.env_defaults import matches
from crl.agents.family import Family
from crl.agents.fields import ConfigError, FieldValueError, field_paths, free_value, set_field
from crl.agents.function_family import FUNCTION, is_function
from crl.agents.ppo_family import PPO
from crl.agents.rainbow_family import DER_DOPAMINE, DRQ_EPS, ON_TOY, RAINBOW, SPR, WEAK_CONTRAST
from crl.agents.sac_family import SAC
from crl.agents.sb3_family import SB3_DQN, SB3_PPO, SB3_QRDQN

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv


class UnknownRecipeError(ConfigError):
    """No agent of this name; the message names the nearest ones."""


@dataclass(frozen=True)
class Recipe:
    """
    :param text: one line for lists
    :param family: None inherits the parent's
    :param column: ``"paper"`` or ``"cpu"``; None inherits the parent's
    :param parent: recipe that this one is a variant of
    :param changes: fields in which it differs
    :param env_changes: pattern of environment ids, field, value: those that only some environments have
    """

    text: str
    family: Family | None = None
    column: str | None = None
    parent: str | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    env_changes: tuple[tuple[str, str, Any], ...] = ()


RECIPES: dict[str, Recipe] = {
    "curl-sac": Recipe("CURL for CPUs: SAC and contrast share one encoder pass, batch 128", SAC, column="cpu"),
    "curl-sac-paper": Recipe("CURL as published: batch 512, float32, steps of its own for the contrast", SAC, column="paper"),
    "rad-sac": Recipe(
        "curl-sac without the contrast: random crops alone", parent="curl-sac", changes=(("objective.weight", 0.0),)
    ),
    "sac": Recipe("rad-sac without augmentation", parent="rad-sac", changes=(("replay.augment", "none"),)),
    "contrast-sac": Recipe(
        "curl-sac with an encoder that the contrast alone moves",
        parent="curl-sac",
        changes=(("policy.encoder_gradient", "objective"),),
    ),
    "frozen-sac": Recipe(
        "contrast-sac without the contrast: a random encoder", parent="contrast-sac", changes=(("objective.weight", 0.0),)
    ),
    "drq-sac": Recipe(
        "DrQ: targets and critic's loss over two random shifts each (K=2, M=2)",
        SAC,
        column="cpu",
        changes=(
            ("objective.weight", 0.0),
            ("algorithm.online_views", 2),
            ("algorithm.target_views", 2),
            # the rest is as published too: one rate for the whole target critic, one Adam setting for all
            ("algorithm.encoder_tau", 0.01),
            ("algorithm.ent_coef_learning_rate", None),
            ("algorithm.ent_coef_beta1", 0.9),
            ("algorithm.reuse_features", False),
            ("policy.head", "tanh"),
            ("policy.init", "orthogonal"),
            ("policy.exact_log_prob", True),
            ("replay.augment", "random_shift"),
        ),
        env_changes=(
            ("dmc/*", "env.kwargs.size", 84),
            ("gym/*", "env.kwargs.size", 84),
            ("dmc/cheetah-run", "algorithm.learning_rate", 1e-3),
        ),
    ),
    "drqv2": Recipe("DrQ-v2: deterministic actor, n-step returns, random shifts; smaller buffer", DRQV2, column="cpu"),
    "drqv2-paper": Recipe("DrQ-v2 as published: a million transitions, float32", DRQV2, column="paper"),
    "curl-rainbow": Recipe(
        "CURL on Atari: data-efficient Rainbow with the contrast in every transition's loss",
        RAINBOW,
        env_changes=(
            *ON_TOY,
            ("toy/*", "algorithm.batch_size", 64),
            *((game, "objective.weight", 0.01) for game in WEAK_CONTRAST),
        ),
    ),
    "der": Recipe(
        "data-efficient Rainbow: curl-rainbow without the contrast",
        parent="curl-rainbow",
        changes=(("objective.weight", 0.0),),
    ),
    "der-dopamine": Recipe(
        "data-efficient Rainbow as Dopamine has it: larger padded network, 10-step returns",
        RAINBOW,
        changes=DER_DOPAMINE,
        env_changes=ON_TOY,
    ),
    "drq-eps": Recipe(
        "DrQ(eps) on Atari as Dopamine has it: dueling double DQN on shifted images",
        RAINBOW,
        changes=DRQ_EPS,
        env_changes=ON_TOY,
    ),
    "spr": Recipe(
        "SPR: Rainbow on shifted images that predicts its own future latent states",
        RAINBOW,
        changes=SPR,
        # with the published 1.5e-4 it ends where it began, after 2500 steps
        env_changes=(*ON_TOY, ("toy/*", "algorithm.adam_eps", 1e-8)),
    ),
    "spr-no-prediction": Recipe(
        "spr without its loss: Rainbow on shifted images", parent="spr", changes=(("objective.weight", 0.0),)
    ),
    "curl-dqn": Recipe("SB3's DQN with rl_zoo3's values for Atari, and CURL by callback", SB3_DQN),
    "atc-dqn": Recipe("curl-dqn with ATC in place of CURL", parent="curl-dqn", changes=(("objective.name", "atc"),)),
    "dqn": Recipe("SB3's DQN: curl-dqn without CURL", parent="curl-dqn", changes=(("objective.weight", 0.0),)),
    "curl-qrdqn": Recipe("sb3-contrib's QR-DQN with rl_zoo3's values for Atari, and CURL by callback", SB3_QRDQN),
    "qrdqn": Recipe(
        "sb3-contrib's QR-DQN: curl-qrdqn without CURL", parent="curl-qrdqn", changes=(("objective.weight", 0.0),)
    ),
    "curl-ppo": Recipe("SB3's PPO with rl_zoo3's values for Atari, and CURL by callback", SB3_PPO),
    "atc-ppo": Recipe("curl-ppo with ATC in place of CURL", parent="curl-ppo", changes=(("objective.name", "atc"),)),
    "ppo": Recipe("SB3's PPO: curl-ppo without CURL", parent="curl-ppo", changes=(("objective.weight", 0.0),)),
    "ppo-crafter": Recipe("PPO as achievement distillation's authors run it on Crafter; needs a GPU", PPO, column="paper"),
    "ppo-crafter-small": Recipe("ppo-crafter with IMPALA's narrower encoder, for CPUs", PPO, column="cpu"),
    "ppo-ad": Recipe(
        "Achievement distillation as published: ppo-crafter with an auxiliary phase after every 8 updates",
        parent="ppo-crafter",
        changes=(("distillation.every", 8),),
    ),
    "ppo-ad-small": Recipe(
        "ppo-ad on ppo-crafter-small's encoder, for CPUs", parent="ppo-crafter-small", changes=(("distillation.every", 8),)
    ),
    "ppo-ad-small-no-memory": Recipe(
        "ppo-ad-small without the last sub-goal as an input", parent="ppo-ad-small", changes=(("distillation.memory", False),)
    ),
    "ppo-ad-small-intra": Recipe(
        "ppo-ad-small-no-memory without the contrast between episodes",
        parent="ppo-ad-small-no-memory",
        changes=(("distillation.matching", False),),
    ),
    "ppo-ad-small-control": Recipe(
        "ppo-ad-small whose phases take as many steps, of policy and value distillation alone",
        parent="ppo-ad-small",
        changes=(("distillation.contrast", False),),
    ),
    "ppo-clam": Recipe(
        "CLAM: PPO that is told who the others are by a contrast between crops of its episodes with them", AGENT_MODEL
    ),
    "ppo-liam": Recipe(
        "ppo-clam whose encoder learns to decode what the others see and do",
        parent="ppo-clam",
        changes=(("model.kind", "liam"),),
    ),
    "ppo-cbam": Recipe(
        "ppo-clam whose encoder is told the others' id in training", parent="ppo-clam", changes=(("model.kind", "cbam"),)
    ),
    "ppo-label-positive": Recipe(
        "ppo-clam whose positives are all episodes with the same others",
        parent="ppo-clam",
        changes=(("model.kind", "label_positive"),),
    ),
    "ppo-random-model": Recipe(
        "ppo-clam without the contrast: a random encoder", parent="ppo-clam", changes=(("model.kind", "random"),)
    ),
    "ppo-history": Recipe(
        "ppo-clam whose encoder PPO's own loss trains, and nothing else", parent="ppo-clam", changes=(("model.kind", "rl"),)
    ),
    "ppo-nam": Recipe("ppo-clam without any model of others", parent="ppo-clam", changes=(("model.kind", "none"),)),
    "ppo-oracle": Recipe(
        "ppo-nam that is told which partner it has", parent="ppo-nam", changes=(("env.kwargs.oracle", True),)
    ),
    "a2c-clam": Recipe("ppo-clam with A2C in place of PPO", parent="ppo-clam", changes=A2C),
    "recurrent-ppo-clam": Recipe(
        "ppo-clam with sb3-contrib's RecurrentPPO in place of PPO",
        parent="ppo-clam",
        changes=(("algorithm.name", "recurrent_ppo"),),
    ),
}


def list_recipes() -> dict[str, str]:
    """Names of all recipes, and what they are."""
    return {name: recipe.text for name, recipe in RECIPES.items()}


def resolve(agent: str, env_id: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    The complete configuration of an agent on an environment. Needs neither torch nor SB3.

    Later layers win: published defaults, the recipe's column, the environment's table, what options of the environment change,
    the recipe's changes, overrides.

    :param agent: name of a recipe; or ``file.py:function`` or ``module:function``, see
        :class:`crl.agents.function_family.FunctionConfig`
    :param env_id: as ``crl.envs.make_env`` takes it
    :param overrides: dotted path to value; strings are read as the field's type (``{"objective.weight": "0.5"}``)
    :return: nested plain dict: ``agent``, ``env`` (``id``, ``kwargs``), ``train``, and the other groups of the family, such
        as ``algorithm``, ``policy``, ``replay``; writes to YAML as it is
    :raises UnknownRecipeError: for an unknown agent
    :raises UnknownFieldError: for an unknown field
    :raises FieldValueError: for a value that the field does not take, or that contradicts another field
    :raises ConfigError: for an environment that the agent cannot learn on
    """
    family, line = family_of(agent), _ancestors(agent)
    config = family.config(agent=agent)
    column = 0 if next((recipe.column for recipe in line if recipe.column), "paper") == "paper" else 1
    layers: list[Mapping[str, Any]] = [{path: values[column] for path, values in family.columns.items()}]
    layers.append(family.env_defaults(env_id))
    for recipe in line:
        layers += [dict(recipe.changes)]
        layers += [{path: value} for pattern, path, value in recipe.env_changes if matches(env_id, pattern)]
    layers.append(overrides or {})
    layers.insert(2, family.option_defaults(env_options(*layers)))
    config.env.id = env_id
    for fields in layers:
        for path, value in fields.items():
            if path in ("agent", "env.id"):
                raise FieldValueError(f"{path} is named on its own, not as a field: crl train <agent> <env>")
            set_field(config, path, value)
    family.check(config)
    return plain(asdict(config))


def env_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param layers: fields by dotted path, later ones win
    :return: options of the environment that are among them, by name
    """
    prefix = "env.kwargs."
    fields = [(path, value) for layer in layers for path, value in layer.items() if path.startswith(prefix)]
    return {path.removeprefix(prefix): free_value(value) for path, value in fields}


def family_of(agent: str) -> Family:
    """
    :param agent: name of a recipe
    :return: the family that it belongs to
    :raises UnknownRecipeError: for an unknown agent
    """
    if is_function(agent):
        return FUNCTION
    if agent not in RECIPES:
        near = difflib.get_close_matches(agent, RECIPES, n=3, cutoff=0.3)
        raise UnknownRecipeError(
            f"no agent {agent!r}. Nearest: {', '.join(near or RECIPES)}; or a function of yours, file.py:make"
        )
    return next(recipe.family for recipe in _ancestors(agent) if recipe.family)


def _ancestors(agent: str) -> list[Recipe]:
    """The recipe and those it is a variant of, the oldest first."""
    if is_function(agent):
        return []
    recipe = RECIPES[agent]
    return [*([] if recipe.parent is None else _ancestors(recipe.parent)), recipe]


def parse(config: Mapping[str, Any]) -> Any:
    """
    :param config: what :func:`resolve` returned, perhaps by way of YAML
    :return: the same with types, in the dataclass of the agent's family
    :raises ConfigError: as :func:`resolve`
    """
    if "agent" not in config:
        raise ConfigError("the configuration lacks agent")
    family = family_of(str(config["agent"]))
    parsed = family.config()
    known = field_paths(family.config)
    flat = {**{path: value for path, value in ADDED_FIELDS.items() if path in known}, **flatten(config)}
    missing = [path for path in known if path not in ("env.kwargs", "kwargs") and path not in flat]
    if missing:
        raise ConfigError(f"the configuration lacks {', '.join(missing)}")
    for path, value in flat.items():
        set_field(parsed, path, value)
    family.check(parsed)
    return parsed


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def plain(value: Any) -> Any:
    """Tuples as lists, so that YAML shows nothing of Python."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def build(
    config: Mapping[str, Any],
    env: VecEnv,
    *,
    seed: int,
    device: str,
    tensorboard_log: str | None = None,
    verbose: int = 0,
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """
    :param config: from :func:`resolve`
    :param env: made for ``config["env"]``
    :param seed: of networks, exploration and replay
    :param device: ``"cpu"``, ``"cuda"``, ``"auto"``
    :param tensorboard_log: folder for events, or None
    :param verbose: see SB3
    :return: the agent, and callbacks to pass to its ``learn``
    :raises ConfigError: for a configuration that does not fit
    """
    parsed = parse(config)
    module, _, function = family_of(parsed.agent).builder.partition(":")
    builder = getattr(import_module(module), function)
    agent, callbacks = builder(parsed, env, seed, device, tensorboard_log, verbose)
    return agent, callbacks
