"""
Recipes: named agents, each one readable definition. :func:`resolve` makes a complete configuration of one for an environment
without loading torch or SB3; :func:`build` makes the agent.

Where the published agent and the one for a few CPU cores differ, a column says so; what the columns do not name is as
published (the defaults of :mod:`crl.agents.config`). Controls differ from their parent in exactly one named field.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from crl.agents.config import SACConfig
from crl.agents.env_defaults import env_defaults
from crl.agents.fields import ConfigError, FieldValueError, field_paths, set_field

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv


class UnknownRecipeError(ConfigError):
    """No agent of this name; the message names the nearest ones."""


#: field: (paper, cpu)
COLUMNS: dict[str, tuple[Any, Any]] = {
    "algorithm.batch_size": (512, 128),
    # critic, objective and actor share a pass and one Adam steps the encoder, instead of three Adams and five passes
    "algorithm.joint": (False, True),
    "algorithm.reuse_features": (False, True),
    # a tenth of the critic's gradient, whatever the scale of rewards (see the README for how it was chosen)
    "objective.balance": (None, 0.1),
    # of the conv body alone: heads and Q networks in bf16 lose the last bits of values of hundreds
    "policy.precision": ("fp32", "auto"),
    # the published crop never shows the last row and column
    "replay.crop_inclusive": (False, True),
}


@dataclass(frozen=True)
class Recipe:
    """
    :param text: one line for lists
    :param column: ``"paper"`` or ``"cpu"``; None inherits the parent's
    :param parent: recipe that this one is a variant of
    :param changes: fields in which it differs
    :param env_changes: pattern of environment ids, field, value: those that only some environments have
    """

    text: str
    column: str | None = None
    parent: str | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    env_changes: tuple[tuple[str, str, Any], ...] = ()


RECIPES: dict[str, Recipe] = {
    "curl-sac": Recipe("CURL for CPUs: SAC and contrast share one encoder pass, batch 128", column="cpu"),
    "curl-sac-paper": Recipe("CURL as published: batch 512, float32, steps of its own for the contrast", column="paper"),
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
}


def list_recipes() -> dict[str, str]:
    """Names of all recipes, and what they are."""
    return {name: recipe.text for name, recipe in RECIPES.items()}


def resolve(agent: str, env_id: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    The complete configuration of an agent on an environment. Needs neither torch nor SB3.

    Later layers win: published defaults, the recipe's column, the environment's table, the recipe's changes, overrides.

    :param agent: name of a recipe
    :param env_id: as ``crl.envs.make_env`` takes it
    :param overrides: dotted path to value; strings are read as the field's type (``{"objective.weight": "0.5"}``)
    :return: nested plain dict: ``agent``, ``env`` (``id``, ``kwargs``), ``algorithm``, ``policy``, ``replay``, ``objective``,
        ``train``; writes to YAML as it is
    :raises UnknownRecipeError: for an unknown agent
    :raises UnknownFieldError: for an unknown field
    :raises FieldValueError: for a value that the field does not take, or that contradicts another field
    :raises ConfigError: for an environment that the agent cannot learn on
    """
    if agent not in RECIPES:
        near = difflib.get_close_matches(agent, RECIPES, n=3, cutoff=0.3)
        raise UnknownRecipeError(f"no agent {agent!r}. Nearest: {', '.join(near or RECIPES)}")
    line = _ancestors(agent)
    config = SACConfig(agent=agent)
    column = 0 if next(recipe.column for recipe in line if recipe.column) == "paper" else 1
    layers: list[Mapping[str, Any]] = [{path: values[column] for path, values in COLUMNS.items()}, env_defaults(env_id)]
    plain_id = env_id.lower().replace("_", "-")
    for recipe in line:
        layers += [dict(recipe.changes)]
        layers += [{path: value} for pattern, path, value in recipe.env_changes if fnmatch(plain_id, pattern)]
    layers.append(overrides or {})
    config.env.id = env_id
    for fields in layers:
        for path, value in fields.items():
            if path in ("agent", "env.id"):
                raise FieldValueError(f"{path} is named on its own, not as a field: crl train <agent> <env>")
            set_field(config, path, value)
    check_together(config)
    return plain(asdict(config))


def _ancestors(agent: str) -> list[Recipe]:
    """The recipe and those it is a variant of, the oldest first."""
    recipe = RECIPES[agent]
    return [*([] if recipe.parent is None else _ancestors(recipe.parent)), recipe]


def parse(config: Mapping[str, Any]) -> SACConfig:
    """
    :param config: what :func:`resolve` returned, perhaps by way of YAML
    :return: the same with types
    :raises ConfigError: as :func:`resolve`
    """
    parsed = SACConfig()
    flat = flatten(config)
    missing = [path for path in field_paths(SACConfig) if path != "env.kwargs" and path not in flat]
    if missing:
        raise ConfigError(f"the configuration lacks {', '.join(missing)}")
    for path, value in flat.items():
        set_field(parsed, path, value)
    check_together(parsed)
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


def check_together(config: SACConfig) -> None:
    """
    Fields that are right one by one and wrong together.

    :raises FieldValueError: says which
    """
    algorithm, policy, replay, objective = config.algorithm, config.policy, config.replay, config.objective
    size = config.env.kwargs.get("size")
    if replay.augment == "random_crop" and policy.crop is None:
        raise FieldValueError("replay.augment=random_crop needs policy.crop, the size to crop to")
    if size is not None and policy.crop is not None:
        largest = size - 1 if replay.augment == "random_crop" and not replay.crop_inclusive else size
        if policy.crop > largest:
            raise FieldValueError(f"policy.crop={policy.crop} is too large for images of {size}x{size}: at most {largest}")
    if policy.log_std_bounds is not None and not policy.log_std_bounds[0] < policy.log_std_bounds[1]:
        raise FieldValueError(f"policy.log_std_bounds={list(policy.log_std_bounds)}: low before high")
    if algorithm.batch_size > algorithm.buffer_size:
        raise FieldValueError(
            f"algorithm.batch_size={algorithm.batch_size} is larger than algorithm.buffer_size={algorithm.buffer_size}"
        )
    n_stack = config.env.kwargs.get("n_stack", replay.n_stack)
    if n_stack != replay.n_stack:
        raise FieldValueError(f"env.kwargs.n_stack={n_stack} and replay.n_stack={replay.n_stack}: set both alike")
    _check_ent_coef(algorithm.ent_coef)
    if policy.encoder != "pixel" and (policy.filters is not None or policy.layers is not None):
        raise FieldValueError(
            f"policy.encoder={policy.encoder} has a fixed body: set policy.filters=none and policy.layers=none"
        )
    if max(algorithm.online_views, algorithm.target_views) > 1 and replay.augment == "none":
        raise FieldValueError(
            "algorithm.online_views and target_views above 1 need views that differ: replay.augment=none leaves one"
        )
    if objective.weight == 0:
        return
    if replay.augment == "none":
        raise FieldValueError("objective.weight above 0 contrasts augmented views: replay.augment=none leaves none")
    if objective.balance is not None and not algorithm.joint:
        raise FieldValueError("objective.balance works with algorithm.joint=true only")
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
    from crl.agents.assemble import build_pixel_sac

    return build_pixel_sac(parse(config), env, seed, device, tensorboard_log, verbose)
