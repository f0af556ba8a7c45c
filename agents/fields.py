"""Fields of a configuration: what values they take, and what to say about wrong ones. Pure Python."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says why and what would do."""


class UnknownFieldError(ConfigError):
    """A field that does not exist; the message names the nearest ones."""


class FieldValueError(ConfigError):
    """A value that a field does not take; the message names what it takes."""


def setting(default: Any, doc: str, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """
    A dataclass field with its meaning and range.

    :param default: value, or an empty mapping
    :param doc: one line
    :param low: smallest allowed number
    :param high: largest allowed number
    :param above: numbers must be larger than this
    """
    metadata = {"doc": doc, "low": low, "high": high, "above": above}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema)


def _is_group(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def field_paths(schema: type, prefix: str = "") -> list[str]:
    """Dotted paths of all settings of a nested dataclass."""
    paths = []
    for field in dataclasses.fields(schema):
        hint = _hints(schema)[field.name]
        paths += field_paths(hint, f"{prefix}{field.name}.") if _is_group(hint) else [prefix + field.name]
    return paths


def set_field(config: Any, path: str, value: Any) -> None:
    """
    :param config: a nested dataclass, changed in place
    :param path: dotted, ``algorithm.batch_size``
    :param value: of the declared type, or a string to be read as one
    :raises UnknownFieldError: when there is no such field
    :raises FieldValueError: when the value does not fit
    """
    *outer, last = path.split(".")
    owner: Any = config
    for depth, name in enumerate(outer):
        if isinstance(owner, Mapping):
            raise _unknown(config, path)
        if not _has_field(owner, name):
            raise _unknown(config, path)
        owner = getattr(owner, name)
        if isinstance(owner, dict) and depth == len(outer) - 1:
            owner[last] = free_value(value)
            return
    if not _has_field(owner, last):
        raise _unknown(config, path)
    field = next(field for field in dataclasses.fields(owner) if field.name == last)
    hint = _hints(type(owner))[last]
    if _is_group(hint):
        inner = ", ".join(field_paths(hint, f"{path}."))
        raise UnknownFieldError(f"{path!r} is a group of fields, set one of them: {inner}")
    setattr(owner, last, _check_range(path, coerce(path, value, hint), field.metadata))


def takes_list(schema: type, path: str) -> bool:
    """
    :param schema: a nested dataclass
    :param path: dotted
    :return: whether the field's values are lists; False where there is no such field
    """
    hint: Any = schema
    for name in path.split("."):
        if not _is_group(hint) or name not in _hints(hint):
            return False
        hint = _hints(hint)[name]
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return any(get_origin(option) in (list, tuple) for option in options)


def _has_field(owner: Any, name: str) -> bool:
    return _is_group(type(owner)) and name in _hints(type(owner))


def _unknown(config: Any, path: str) -> UnknownFieldError:
    known = field_paths(type(config))
    last = path.rsplit(".", 1)[-1]
    # somebody who writes batch_size means algorithm.batch_size
    by_name = [name for name in known if name.rsplit(".", 1)[-1] == last]
    by_name += [
        name
        for tail in difflib.get_close_matches(last, [name.rsplit(".", 1)[-1] for name in known], n=3, cutoff=0.75)
        for name in known
        if name.rsplit(".", 1)[-1] == tail
    ]
    near = list(dict.fromkeys([*by_name, *difflib.get_close_matches(path, known, n=3, cutoff=0.5)]))[:4]
    return UnknownFieldError(f"no field {path!r}. Nearest: {', '.join(near or known[:4])}")


def coerce(path: str, value: Any, hint: Any) -> Any:
    """
    :param path: of the field, for the message
    :param value: typed, or a string
    :param hint: the declared type: int, float, bool, str, Literal, a union with None, tuple, list or dict
    :return: the value in that type
    :raises FieldValueError: when it is no such value
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            if type(None) in get_args(hint):
                return None
            raise FieldValueError(f"{path}={value!r}: takes {describe(hint)}")
        for option in get_args(hint):
            if option is type(None):
                continue
            try:
                return coerce(path, value, option)
            except FieldValueError:
                continue  # the next type of the union; when none is left, the error below
        raise FieldValueError(f"{path}={value!r}: takes {describe(hint)}")
    if origin is Literal:
        return _literal(path, value, hint)
    if origin in (list, tuple):
        return _sequence(path, value, hint)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise FieldValueError(f"{path}={value!r}: set its entries one by one, {path}.<name>=<value>")
        return dict(value)
    return _scalar(path, value, hint)


def _literal(path: str, value: Any, hint: Any) -> Any:
    allowed = get_args(hint)
    for option in allowed:
        if value == option and isinstance(value, type(option)):
            return option
    near = difflib.get_close_matches(str(value), [str(option) for option in allowed], n=1)
    hint_text = f"; did you mean {near[0]!r}?" if near else ""
    raise FieldValueError(f"{path}={value!r}: choose one of {', '.join(map(str, allowed))}{hint_text}")


def _sequence(path: str, value: Any, hint: Any) -> list[Any]:
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("[]() ").split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise FieldValueError(f"{path}={value!r}: takes {describe(hint)}")
    inner = [option for option in get_args(hint) if option is not Ellipsis]
    if get_origin(hint) is tuple and len(value) != len(inner):
        raise FieldValueError(f"{path}={value!r}: takes {describe(hint)}")
    options = inner if get_origin(hint) is tuple else inner * len(value)
    return [coerce(path, part, option) for part, option in zip(value, options, strict=True)]


def _scalar(path: str, value: Any, hint: Any) -> Any:
    wrong = FieldValueError(f"{path}={value!r}: takes {describe(hint)}")
    if hint is bool:
        words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise wrong
    if isinstance(value, bool):
        raise wrong
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    try:
        number = float(value.replace("_", "") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise wrong from None
    if hint is int:
        if not number.is_integer():  # 1e5 is a whole number, nan and inf are none
            raise wrong
        return int(number)
    if number != number or number in (float("inf"), float("-inf")):
        raise wrong
    return number


def free_value(value: Any) -> Any:
    """A value without a declared type (an environment's option): numbers, booleans and none are read from strings."""
    if not isinstance(value, str):
        return value
    words = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in words:
        return words[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _check_range(path: str, value: Any, limits: Mapping[str, Any]) -> Any:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        low, high, above = limits["low"], limits["high"], limits["above"]
        too_low = (low is not None and number < low) or (above is not None and number <= above)
        if too_low or (high is not None and number > high):
            parts = [f"at least {low}" if low is not None else "", f"above {above}" if above is not None else ""]
            parts.append(f"at most {high}" if high is not None else "")
            raise FieldValueError(f"{path}={value!r}: must be {' and '.join(part for part in parts if part)}")
    return value


def describe(hint: Any) -> str:
    """A declared type in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(hint))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin is list:
        return f"a list of {describe(get_args(hint)[0])}s, separated by commas"
    if origin is tuple:
        return f"{len(get_args(hint))} numbers, separated by a comma"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a word",
        type(None): "none",
        dict: "entries",
    }
    return names.get(hint, str(hint))
