"""Dataclasses from JSON that anyone may have written: every field's type is checked, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from overnet.errors import InputError

_Made = TypeVar("_Made")


def from_json(kind: type[_Made], value: object, *, name: str) -> _Made:
    """Make a dataclass out of parsed JSON.

    Args:
        kind: a dataclass of texts, numbers, booleans, literals, dataclasses, lists, dictionaries by text, and None.
        value: what ``json.loads`` gave.
        name: the file's name, for messages.

    Raises:
        InputError: a field is missing, unknown, of another type, or no finite number.
    """
    made: _Made = _made(kind, value, name, "")
    return made


def _made(kind: Any, value: Any, name: str, place: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, name, place)
    if origin in (typing.Union, types.UnionType):
        (other,) = [each for each in typing.get_args(kind) if each is not type(None)]
        return None if value is None else _made(other, value, name, place)
    if origin is typing.Literal:
        if value in typing.get_args(kind):
            return value
    elif origin is list and isinstance(value, list):
        (member,) = typing.get_args(kind)
        return [_made(member, each, name, f"{place}[{index}]") for index, each in enumerate(value)]
    elif origin is dict and isinstance(value, dict):
        member = typing.get_args(kind)[1]
        return {key: _made(member, each, name, f"{place}.{_readable(key)}") for key, each in value.items()}
    elif _is_scalar(kind, value):
        return kind(value)
    raise InputError(f"{name}: {place.lstrip('.')} is not what belongs there")


def _readable(key: str) -> str:
    """Foreign text that keeps a message on one short line."""
    return "".join(character if character.isprintable() else "?" for character in key[:40])


def _is_scalar(kind: Any, value: Any) -> bool:
    if kind in (str, bool):
        return isinstance(value, kind)
    if kind not in (int, float) or isinstance(value, bool):  # in Python, True is a 1
        return False
    return isinstance(value, int) or (kind is float and isinstance(value, float) and math.isfinite(value))


def _object(kind: Any, value: Any, name: str, place: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{name}: {place.lstrip('.') or 'the file'} is no object")
    hints = typing.get_type_hints(kind)
    members = {each.name: each for each in dataclasses.fields(kind)}
    for key in value:
        if key not in members:
            raise InputError(f"{name}: {place.lstrip('.')}.{_readable(key)} is unknown".replace(": .", ": "))
    for key, member in members.items():
        optional = member.default is not dataclasses.MISSING or member.default_factory is not dataclasses.MISSING
        if key not in value and not optional:
            raise InputError(f"{name}: {place}.{key} is missing".replace(": .", ": "))
    return kind(**{key: _made(hints[key], each, name, f"{place}.{key}") for key, each in value.items()})
