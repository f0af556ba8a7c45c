"""Saving and restoring an environment through whatever is wrapped around it."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium import wrappers

#: gymnasium's wrappers that can be restored, and the attributes in which they remember something
_REMEMBER: dict[type, tuple[str, ...]] = {
    wrappers.TimeLimit: ("_elapsed_steps",),
    wrappers.OrderEnforcing: ("_has_reset",),
    # it compares what the first calls return, and would miss the reset of an episode that is taken up
    wrappers.PassiveEnvChecker: ("checked_reset", "checked_step", "checked_data_reuse", "_previous_data"),
    wrappers.ClipAction: (),
    wrappers.RescaleAction: (),
    wrappers.TransformReward: (),
}


def _remembered(env: gym.Env[Any, Any]) -> tuple[str, ...] | None:
    """Attributes that hold the state of one of gymnasium's wrappers, or of a subclass that only acts otherwise (rl_zoo3's)."""
    if isinstance(env, gym.Wrapper):
        for cls in type(env).__mro__:
            if cls in _REMEMBER:
                return _REMEMBER[cls]
            if "__init__" in vars(cls):  # it may remember more
                break
    return None


def saves_state(env: gym.Env[Any, Any]) -> bool:
    """Whether :func:`get_state` can answer, asking each layer but taking no state."""
    if hasattr(env, "get_state"):
        # our wrappers have the method whatever they hold; anything else's word is taken
        if isinstance(env, gym.Wrapper) and type(env).__module__.startswith("crl.envs."):
            return saves_state(env.env)
        return True
    return isinstance(env, gym.Wrapper) and _remembered(env) is not None and saves_state(env.env)


def get_state(env: gym.Env[Any, Any]) -> Any:
    """
    :param env: with a method ``get_state`` of its own, perhaps inside of gymnasium's wrappers
    :return: what :func:`set_state` takes
    :raises AttributeError: when a layer's state cannot be saved; names it
    """
    if hasattr(env, "get_state"):
        return env.get_state()
    names = _remembered(env)
    if isinstance(env, gym.Wrapper) and names is not None:
        # not every version of gymnasium has all of them
        remembered = {name: copy.deepcopy(getattr(env, name)) for name in names if hasattr(env, name)}
        return {"wrapper": remembered, "env": get_state(env.env)}
    raise AttributeError(f"{type(env).__name__} cannot be saved in mid-episode: it has no get_state and set_state")


def set_state(env: gym.Env[Any, Any], state: Any) -> None:
    """
    :param env: put together as the one that the state is of
    :param state: from :func:`get_state`
    :raises AttributeError: when a layer's state cannot be restored; names it
    """
    if hasattr(env, "set_state"):
        env.set_state(state)
    elif isinstance(env, gym.Wrapper) and _remembered(env) is not None:
        for name, value in state["wrapper"].items():
            setattr(env, name, copy.deepcopy(value))
        set_state(env.env, state["env"])
    else:
        raise AttributeError(f"{type(env).__name__} cannot be restored in mid-episode: it has no get_state and set_state")
