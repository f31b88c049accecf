"""Dataclasses read from JSON that may be damaged or hostile: each error is one line that names the field."""

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from overnet.errors import InputError, one_line, printable

_Made = TypeVar("_Made")

# No figure of this project is larger; arithmetic with larger ones overflows.
_LARGEST_NUMBER = float(1 << 63)


@dataclasses.dataclass(frozen=True)
class Range:
    """Limits of a number, both allowed: ``Annotated[int, Range(1, 9)]``."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A regular expression that a text has to match completely: ``Annotated[str, Pattern("[a-z]+")]``."""

    expression: str


def parse_object(content: str | bytes, *, name: str, error: type[InputError] = InputError) -> dict[str, Any]:
    """Parse JSON text whose top level is an object.

    Args:
        content: the complete text; bytes are UTF-8.
        name: where it comes from, for messages.
        error: the class of the error to raise.

    Raises:
        InputError: the text is not JSON, is nested too deeply, states a field twice, or is not an object.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as reason:
        raise error(f"{name}: not JSON, or damaged ({one_line(reason)})") from reason
    if not isinstance(value, dict):
        raise error(f"{name}: not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a field is there twice")
    return content


def from_json(kind: type[_Made], value: object, *, name: str, error: type[InputError] = InputError) -> _Made:
    """Build a dataclass from parsed JSON and check the type of every field.

    Args:
        kind: a dataclass whose fields are strings, paths, numbers, booleans, literals, lists, tuples, dictionaries with
            string keys, other such dataclasses, or one of these or None. `Range` and `Pattern` limit numbers and
            strings.
        value: the result of ``json.loads`` or `parse_object`. An instance of a field's dataclass is taken as it is.
        name: where it comes from, for messages.
        error: the class of the error to raise.

    Raises:
        InputError: a field is missing, unknown, of another type, out of range, not finite or above 2^63.
    """
    made: _Made = checked(kind, value, "", name=name, error=error)
    return made


def checked(kind: Any, value: object, place: str, *, name: str, error: type[InputError] = InputError) -> Any:
    """Check a value of any type that a field may have for `from_json`; `place` is its name in messages."""
    return _Reader(name, error).read(kind, value, place)


class _Reader:
    """Reads one value; `place` is the path of the field in it, such as ``results[0].case``."""

    def __init__(self, name: str, error: type[InputError]) -> None:
        self._name, self._error = name, error

    def read(self, kind: Any, value: Any, place: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if dataclasses.is_dataclass(kind):
            return value if isinstance(value, typing.cast(type, kind)) else self._object(kind, value, place)
        if origin in (typing.Union, types.UnionType):
            (other,) = [each for each in arguments if each is not type(None)]
            return None if value is None else self.read(other, value, place)
        if origin is Annotated:
            made = self.read(arguments[0], value, place)
            for limit in arguments[1:]:
                if isinstance(limit, Range) and not limit.low <= made <= limit.high:
                    self._refuse(place, f"is out of range ({limit.low:g} to {limit.high:g})")
                if isinstance(limit, Pattern) and not re.fullmatch(limit.expression, made):
                    self._refuse(place, "does not have the expected form")
            return made
        if origin is typing.Literal:
            if value not in arguments:
                self._refuse(place, f"is not one of {', '.join(map(str, arguments))}")
            return value
        if origin in (dict, list, tuple):
            return self._collection(origin, arguments, value, place)
        return self._scalar(kind, value, place)

    def _collection(self, origin: Any, arguments: tuple[Any, ...], value: Any, place: str) -> Any:
        if origin is dict:
            if not isinstance(value, dict):
                self._refuse(place, "is not an object")
            return {key: self.read(arguments[1], each, f"{place}.{_short(key)}") for key, each in value.items()}
        fixed = origin is tuple and arguments[-1] is not ...
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(arguments)):
            self._refuse(place, f"is not a list of {len(arguments)}" if fixed else "is not a list")
        members = arguments if fixed else (arguments[0],) * len(value)
        return origin(
            self.read(member, each, f"{place}[{index}]")
            for index, (member, each) in enumerate(zip(members, value, strict=True))
        )

    def _scalar(self, kind: Any, value: Any, place: str) -> Any:
        if kind in (str, Path) and not isinstance(value, str):
            self._refuse(place, "is not text")
        if kind is bool and not isinstance(value, bool):
            self._refuse(place, "is not true or false")
        if kind is int and (not isinstance(value, int) or isinstance(value, bool)):  # in Python, True is a 1
            self._refuse(place, "is not a whole number")
        if kind is float and (not isinstance(value, int | float) or isinstance(value, bool)):
            self._refuse(place, "is not a number")
        if kind in (int, float):
            if isinstance(value, float) and not math.isfinite(value):
                self._refuse(place, "is not a finite number")
            if abs(value) > _LARGEST_NUMBER:
                self._refuse(place, "is out of range")
            return kind(value)
        return Path(value) if kind is Path else value

    def _object(self, kind: Any, value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            self._refuse(place or ".the content", "is not an object")
        hints, required = _fields(kind)
        for key in value:
            if key not in hints:
                self._refuse(f"{place}.{_short(key)}", "is unknown")
        for key in required:
            if key not in value:
                self._refuse(f"{place}.{key}", "is missing")
        return kind(**{key: self.read(hints[key], each, f"{place}.{key}") for key, each in value.items()})

    def _refuse(self, place: str, reason: str) -> NoReturn:
        raise self._error(f"{self._name}: {place.removeprefix('.')} {reason}")


@functools.lru_cache
def _fields(kind: Any) -> tuple[Mapping[str, Any], list[str]]:
    """Return the types of a dataclass's fields by name, and the names of those without a default."""
    hints = typing.get_type_hints(kind, include_extras=True)
    members = [member for member in dataclasses.fields(kind) if member.init]
    missing = dataclasses.MISSING
    required = [each.name for each in members if each.default is missing and each.default_factory is missing]
    return {member.name: hints[member.name] for member in members}, required


def _short(key: str) -> str:
    """Return a key from the file as a short printable text for messages."""
    return printable(key[:40])
