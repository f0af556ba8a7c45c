"""
What ``crl tune`` searches over, as a few words: ``objective.temperature=0.05..1.0:log``, ``policy.features_dim=50,100``,
``algorithm.batch_size=64..256:step=32``. Whether a range is of whole numbers, the recipe's field says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crl.agents.recipes import flatten, resolve

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: how long a run is and how it is evaluated: trials that differ in these cannot be compared
_PROTOCOL = tuple(f"train.{name}" for name in ("env_steps", "eval_every", "eval_episodes", "final_episodes", "threads"))


class SearchError(ValueError):
    """A search that makes no sense; the message says what would."""


@dataclass(frozen=True)
class Range:
    """
    :param low: smallest value
    :param high: largest value
    :param log: search on a logarithmic scale
    :param step: distance of values; None takes 1 for whole numbers, and none for others
    :param whole: whole numbers
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def distribution(self) -> BaseDistribution:
        """As Optuna takes it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def ends(self) -> tuple[Any, Any]:
        """Smallest and largest value."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@dataclass(frozen=True)
class Choice:
    """
    :param values: as the command line gives them
    """

    values: tuple[str, ...]

    def distribution(self) -> BaseDistribution:
        """As Optuna takes it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.values


Space = dict[str, Range | Choice]


def parse_search(items: Sequence[str], agent: str, env_id: str, fixed: Mapping[str, Any]) -> Space:
    """
    Both ends of a range and every choice are tried on the recipe, so that a wrong field or value is found before the first
    trial.

    :param items: ``field=low..high``, ``field=low..high:log``, ``field=low..high:step=s``, ``field=a,b``
        (``field=64,64;128,128`` where values hold commas)
    :param agent: recipe
    :param env_id: environment
    :param fixed: fields that all trials share
    :raises SearchError: for an item that is none, or that names a field twice
    :raises crl.agents.fields.ConfigError: for unknown fields and values that they do not take
    """
    if not items:
        raise SearchError("--search: name at least one field, for example --search objective.temperature=0.05..1.0:log")
    space: Space = {}
    for item in items:
        name, separator, text = item.partition("=")
        if not separator or not name or not text:
            raise SearchError(f"--search {item!r}: write field=low..high, field=low..high:log, or field=a,b")
        if name in space or name in fixed:
            raise SearchError(f"--search {item!r}: {name} is given twice")
        if name in _PROTOCOL:
            raise SearchError(f"--search {item!r}: {name} says how trials are measured, and must be the same in all: --set")
        space[name] = _range(item, name, text, agent, env_id, fixed) if ".." in text else _choice(item, text)
        for value in space[name].ends():
            resolve(agent, env_id, {**fixed, name: value})
    return space


def _choice(item: str, text: str) -> Choice:
    values = tuple(text.split(";") if ";" in text else text.split(","))
    if len(values) < 2 or len(set(values)) < len(values) or not all(values):
        raise SearchError(f"--search {item!r}: at least two values, each once and none empty; or a range, low..high")
    return Choice(values)


def _range(item: str, name: str, text: str, agent: str, env_id: str, fixed: Mapping[str, Any]) -> Range:
    ends, _, how = text.partition(":")
    try:
        low, high = (float(part) for part in ends.split(".."))
        step = float(how.removeprefix("step=")) if how.startswith("step=") else None
    except ValueError:
        raise SearchError(f"--search {item!r}: low..high are two numbers, such as 0.05..1.0") from None
    if how not in ("", "log") and step is None:
        raise SearchError(f"--search {item!r}: after the range may stand :log or :step=<number>")
    if not low < high or (how == "log" and not low > 0) or (step is not None and not 0 < step <= high - low):
        raise SearchError(f"--search {item!r}: low below high; above 0 for :log; a step that fits in between")
    try:
        resolved = flatten(resolve(agent, env_id, {**fixed, name: low}))[name]
    except ValueError:
        resolve(agent, env_id, {**fixed, name: ends.split("..")[0]})  # says what the field takes
        raise
    if isinstance(resolved, bool) or not isinstance(resolved, int | float):
        raise SearchError(f"--search {item!r}: {name} is no number, give its values: {name}=a,b")
    whole = isinstance(resolved, int)
    if whole and not all(number.is_integer() for number in (low, high, step or 1.0)):
        raise SearchError(f"--search {item!r}: {name} takes whole numbers")
    return Range(low, high, how == "log", step, whole)
