"""
Agents that are a function of somebody's: ``my_agents.py:make`` or ``package.module:make``. They go through the same runs and
benchmarks as the recipes.
"""

# ruff: noqa: RUF009  (setting() returns a dataclass field)

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crl.agents.config import EnvFields, TrainFields
from crl.agents.family import Family
from crl.agents.fields import ConfigError, setting


class AgentFunctionError(ConfigError):
    """A function that cannot be found; the message says what was looked for."""


@dataclass
class FunctionConfig:
    """
    A function ``make(env, seed, device, **kwargs)`` that returns an SB3 model, or a model and a list of callbacks. ``env`` is
    a vectorised environment of images; the model must be made on it.
    """

    agent: str = ""
    env: EnvFields = field(default_factory=EnvFields)
    kwargs: dict[str, Any] = setting({}, "further arguments of the function")
    train: TrainFields = field(default_factory=TrainFields)


def is_function(agent: str) -> bool:
    """Whether this is ``file.py:function`` or ``module:function``, and no recipe."""
    return ":" in agent


def check_function(config: FunctionConfig) -> None:
    """
    That the function is there, without running its file.

    :raises AgentFunctionError: when file, module or function do not exist
    """
    where, _, name = config.agent.rpartition(":")
    if not name.isidentifier() or not where:
        raise AgentFunctionError(f"agent {config.agent!r}: write file.py:function or module:function")
    path = source_file(where)
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise AgentFunctionError(f"agent {config.agent!r}: {path} cannot be read as Python: {error}") from error
    defined = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    # a name that is imported or assigned there may be a function too
    other = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    other |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if name not in defined and name not in other:
        raise AgentFunctionError(
            f"agent {config.agent!r}: {path} defines no {name}; it has {', '.join(defined) or 'no function'}"
        )


def source_file(where: str) -> Path:
    """
    :param where: a file, or a module
    :raises AgentFunctionError: when there is none
    """
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise AgentFunctionError(f"no file {where} to take the agent from")
        return Path(where)
    try:
        found = find_spec(where)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise AgentFunctionError(
            f"no module {where} to take the agent from; a file is written with its ending: {where}.py:make"
        )
    return Path(found.origin)


def source_hash(agent: str) -> str:
    """
    :param agent: ``file.py:function`` or ``module:function``
    :return: twelve hexadecimal digits of the file that the function stands in: a function that was changed is another agent
    :raises AgentFunctionError: when there is none
    """
    return hashlib.sha256(source_file(agent.rpartition(":")[0]).read_bytes()).hexdigest()[:12]


def changed_source(agent: str, about: Mapping[str, Any]) -> str:
    """
    :param agent: of a run
    :param about: its ``config["run"]``
    :return: ``source: run's there, today's here`` where the function's file has changed since; empty where it has not, where
        nothing is known of it, and for recipes
    :raises AgentFunctionError: when the function's file is gone
    """
    there = about.get("source")
    if there is None or not is_function(agent):
        return ""
    here = source_hash(agent)
    return "" if here == there else f"source: {there} there, {here} here"


FUNCTION = Family(
    config=FunctionConfig,
    columns={},
    env_defaults=lambda env_id: {},
    check=check_function,
    builder="crl.agents.call_function:build_by_function",
)
