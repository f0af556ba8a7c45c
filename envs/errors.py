"""What can be wrong with an environment's name or options. All are ValueErrors, raised before a simulator is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class UnknownEnvironmentError(ValueError):
    """No environment of this id; the message names the nearest ones."""


class EnvironmentOptionError(ValueError):
    """An option that this environment does not have, or a value that it cannot take; the message says which it can."""


class NotPixelsError(ValueError):
    """An environment whose observations hold no image; the message says what to do."""


def check_names(env_id: str, maker: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """
    :param env_id: for the message
    :param maker: its keyword-only parameters are the options there are
    :param options: as given
    :raises EnvironmentOptionError: for one that there is not
    """
    names = [name for name, p in inspect.signature(maker).parameters.items() if p.kind is p.KEYWORD_ONLY]
    wrong = [name for name in options if name not in names]
    if wrong:
        raise EnvironmentOptionError(f"{env_id} has no option {', '.join(wrong)}; it has {', '.join(names)}")


def check_positive(**values: Any) -> None:
    """
    :param values: option by name
    :raises EnvironmentOptionError: for one that is not an integer of at least 1
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise EnvironmentOptionError(f"{name}={value!r}: a whole number, at least 1")
