"""JSON that anyone may have written: every field's type and range is checked, and what is wrong is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from overnet.errors import ArtifactError

_Value = TypeVar("_Value")


class Fields:
    """The fields of one JSON object, each taken once.

    Args:
        content: the object.
        name: the file's name, for messages.
        place: where in the file the object lies, such as ``"profile."``; empty for the file's own.
    """

    def __init__(self, content: dict[str, object], *, name: str, place: str = "") -> None:
        self._content, self._name, self._place = dict(content), name, place

    def text(self, key: str, pattern: str) -> str:
        """Take a string that matches a pattern as a whole."""
        value = self._take(key)
        if not isinstance(value, str):
            self._refuse(key, "is no text")
        if not re.fullmatch(pattern, value):
            self._refuse(key, "holds what does not belong there")
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        """Take a whole number from `low` to `high`."""
        value = self._take(key)
        # In Python, True is a 1.
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(key, "is no whole number")
        if not low <= value <= high:
            self._refuse(key, f"is out of range ({low} to {high})")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """Take a number from `low` to `high`."""
        value = self._take(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            self._refuse(key, "is no number")
        if not low <= value <= high or math.isnan(value):
            self._refuse(key, f"is out of range ({low:g} to {high:g})")
        return float(value)

    def wholes(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """Take a list of so many whole numbers, each from `low` to `high`."""
        value = self._take(key)
        if not isinstance(value, list) or len(value) != count:
            self._refuse(key, f"is no list of {count}")
        members = Fields({str(place): member for place, member in enumerate(value)}, name=self._name)
        members._place = f"{self._place}{key}."
        return tuple(members.whole(str(place), low, high) for place in range(count))

    def texts(self, key: str, pattern: str) -> dict[str, str]:
        """Take an object whose values are strings that match a pattern."""
        part = self.part(key)
        return {member: part.text(member, pattern) for member in list(part._content)}

    def part(self, key: str) -> Fields:
        """Take an object."""
        value = self._take(key)
        if not isinstance(value, dict):
            self._refuse(key, "is no object")
        return Fields(value, name=self._name, place=f"{self._place}{key}.")

    def or_none(self, key: str, take: Callable[[str], _Value]) -> _Value | None:
        """Take None where the field is null, else what `take` makes of it."""
        if key in self._content and self._content[key] is None:
            del self._content[key]
            return None
        return take(key)

    def finish(self) -> None:
        """Refuse what was not taken."""
        for key in self._content:
            self._refuse(_readable(key), "is unknown")

    def _take(self, key: str) -> object:
        if key not in self._content:
            self._refuse(key, "is missing")
        return self._content.pop(key)

    def _refuse(self, key: str, reason: str) -> NoReturn:
        raise ArtifactError(f"{self._name}: {self._place}{key} {reason}")


def parse_object(content: bytes, *, name: str) -> Fields:
    """Parse a file that holds one JSON object.

    Args:
        content: all of the file.
        name: its name, for messages.

    Raises:
        ArtifactError: it is no JSON object, holds a field twice, or a number that is none (NaN, Infinity).
    """
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name}: not JSON, or damaged ({_readable(str(error))})") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{name}: holds no JSON object")
    return Fields(value, name=name)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a field is there twice")
    return content


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _readable(text: str) -> str:
    """Foreign text that keeps a message on one short line."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])
