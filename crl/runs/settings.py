"""Values of fields as the command line gives them: ``field=value``, or a file of them. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


class SettingError(ValueError):
    """Something after ``--set`` that is none; the message says what would do."""


def is_file(item: str) -> bool:
    """Whether the item names a file of values rather than being one."""
    return "=" not in item and item.endswith((".yaml", ".yml"))


def read_settings(path: str | Path) -> dict[str, Any]:
    """
    :param path: of a YAML file, a mapping of fields to values by dotted path, such as ``crl tune`` writes
    :raises SettingError: for a file that is none
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"--set {path}: cannot be read as a file of values ({error})") from error
    if not isinstance(data, dict) or any(isinstance(value, dict) for value in data.values()):
        raise SettingError(f"--set {path}: it holds lines such as 'objective.weight: 0.5', fields by dotted path")
    return {str(name): value for name, value in data.items()}


def settings(items: Sequence[str], example: str = "objective.weight=0.5") -> dict[str, Any]:
    """
    :param items: ``field=value``, or the path of a YAML file of such
    :param example: for the message
    :return: by field; later ones win
    :raises SettingError: for an item that is neither
    """
    found: dict[str, Any] = {}
    for item in items:
        if is_file(item):
            found |= read_settings(item)
            continue
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise SettingError(f"--set {item!r}: write field=value, for example --set {example}, or the path of a .yaml file")
        found[name] = value
    return found
