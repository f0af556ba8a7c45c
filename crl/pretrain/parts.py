"""Objectives, encoders and augmentations by name, with arguments that come as text."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import yaml

from crl import augment as augmentations
from crl.agents.fields import free_value
from crl.augment import ImageAugmentation
from crl.encoders import BodyHeadEncoder, ImpalaEncoder, NatureEncoder, PixelEncoder, RainbowEncoder

ENCODERS: dict[str, type[BodyHeadEncoder]] = {
    "pixel": PixelEncoder,
    "nature": NatureEncoder,
    "rainbow": RainbowEncoder,
    "impala": ImpalaEncoder,
}
#: those that take plain arguments, by name: ``random_shift``, ``color_jitter`` ...
AUGMENTATIONS: dict[str, type[ImageAugmentation]] = {
    re.sub(r"(?<=.)([A-Z])", r"_\1", name).lower(): getattr(augmentations, name)
    for name in augmentations.__all__
    if name not in ("Compose", "ImageAugmentation", "KorniaAugmentation")
}


class PartError(ValueError):
    """A name or an argument that there is not, or a value that it does not take; the message names the right ones."""


def choose(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """
    :param kind: of thing, for the message
    :param name: asked for
    :param known: by name
    :raises PartError: for an unknown name
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise PartError(f"no {kind} {name!r}. {'Nearest' if near else 'There are'}: {', '.join(near or known)}")
    return known[name]


def check_arguments(kind: str, maker: type, arguments: Mapping[str, Any]) -> None:
    """
    :param kind: of thing, as the settings name it
    :param maker: class that takes the arguments
    :param arguments: by name
    :raises PartError: for one that the class does not take
    """
    taken = _arguments_of(maker)
    for name in arguments:
        if name not in taken:
            near = difflib.get_close_matches(name, taken, n=3, cutoff=0.4)
            raise PartError(
                f"{maker.__name__} takes no {name!r}. Nearest: "
                f"{', '.join(f'{kind}.{other}' for other in near or taken) or 'it takes nothing'}"
            )


def _arguments_of(maker: type) -> list[str]:
    """Of the constructor and, where that passes ``**kwargs`` on, of its base's."""
    names: list[str] = []
    for cls in maker.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    # what is made here, and cannot be said in a word
    return [name for name in dict.fromkeys(names) if name not in ("observation_space", "body", "augment")]


def make(kind: str, maker: type, *positional: Any, **arguments: Any) -> Any:
    """
    :param kind: of thing, as the settings name it
    :param maker: class
    :param positional: arguments that do not come from the settings
    :param arguments: from the settings, and others
    :raises PartError: for values that the class does not take; the message is the class's own
    """
    try:
        return maker(*positional, **arguments)
    except (ValueError, TypeError) as error:
        raise PartError(f"{kind}: {error}") from error


def read_value(text: str) -> Any:
    """
    A number, ``true``, ``none``, a word, a list (``[256, 128]``) or a dict (``{temperature: 0.1}``).

    :raises PartError: for a list or dict that is not closed
    """
    if not text.startswith(("[", "{")):
        return free_value(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PartError(f"{text!r} is neither a list, such as [256, 128], nor a dict, such as {{temperature: 0.1}}") from error
