"""Makes an agent by somebody's function."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from crl.agents.function_family import AgentFunctionError, FunctionConfig, source_file


def build_by_function(
    config: FunctionConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """
    :param config: names the function
    :param env: passed on
    :param seed: passed on
    :param device: passed on
    :param tensorboard_log: not passed on; runs set the logger themselves
    :param verbose: likewise
    :raises AgentFunctionError: when the function does not take what it is given, or returns no SB3 model
    """
    function = load_function(config.agent)
    arguments: dict[str, Any] = {"seed": seed, "device": device, **config.kwargs}
    try:
        inspect.signature(function).bind(env, **arguments)
    except TypeError as error:
        raise AgentFunctionError(
            f"agent {config.agent!r}: called as make(env, {', '.join(f'{key}=' for key in arguments)}): {error}"
        ) from error
    made = function(env, **arguments)
    model, callbacks = made if isinstance(made, tuple) else (made, [])
    if not isinstance(model, BaseAlgorithm):
        raise AgentFunctionError(
            f"agent {config.agent!r} returned {type(model).__name__}: return an SB3 model, or a model and a list of callbacks"
        )
    return model, list(callbacks)


def load_function(agent: str) -> Callable[..., Any]:
    """
    :param agent: ``file.py:function`` or ``module:function``
    """
    where, _, name = agent.rpartition(":")
    if where.endswith(".py"):
        path = source_file(where)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # so that what it defines can be pickled
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    function: Callable[..., Any] = getattr(module, name)
    return function
