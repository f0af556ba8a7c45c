"""What recipes change for an environment: reading tables from id to fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

#: pattern of ids as in file names, and fields by dotted path
Row = tuple[str, dict[str, Any]]


def matches(env_id: str, pattern: str) -> bool:
    """
    :param env_id: as ``crl.envs.make_env`` takes it, which does not mind capitals and underscores
    :param pattern: as in file names
    """
    return fnmatch(env_id.lower().replace("_", "-"), pattern)


def merge_rows(env_id: str, rows: Iterable[Row], other: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param env_id: whether there is such an environment is for ``crl.envs`` to say
    :param rows: later ones win
    :param other: fields of environments that no row matches
    :return: fields by dotted path
    """
    merged: dict[str, Any] = {}
    for fields in [fields for pattern, fields in rows if matches(env_id, pattern)] or [dict(other)]:
        merged |= fields
    return merged
