"""What a finished file does not hold of the tags and marks that were given to its muxer, which drops them silently."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from overnet.runtime.container.demux import TAG_OPTIONS, disposition

# Tags that the muxer states for itself, in its own form.
_RESTATED = frozenset({"creation_time", "language", "encoder", "vendor_id", "duration", "mimetype", "filename"})
_STATISTICS = ("BPS", "NUMBER_OF_", "_STATISTICS_", "DURATION")
_DEFAULT_HANDLER = re.compile(r"(ISO Media|Core Media|GPAC|Apple|Bento4|.*handler)\b.*|", re.IGNORECASE)
_MOST_NAMES = 20
# The first stream of each type is marked as default by every container.
_DEFAULT, _ATTACHED_PICTURE = 0x1, 0x400


@dataclass(frozen=True)
class Description:
    """Tags and disposition flags of a stream; `type` is empty for the file itself."""

    type: str
    tags: dict[str, str]
    disposition: int = 0


def describe(container: Any) -> list[Description]:
    """Return the descriptions of an open file, first its own and then those of its streams."""
    return [
        Description("", dict(container.metadata)),
        *(
            Description(stream.type, dict(stream.metadata), disposition(stream))
            for stream in container.streams
            if stream.type in ("video", "audio", "subtitle") and not disposition(stream) & _ATTACHED_PICTURE
        ),
    ]


def lost_descriptions(path: Path, intended: list[Description], container_name: str) -> list[str]:
    """Return one line for the file, and for each stream, of what it does not hold of what was intended.

    Args:
        path: the finished file.
        intended: the descriptions that its muxer was given, see `describe`.
        container_name: the name of the container in messages.
    """
    try:
        with av.open(str(path.absolute()), "r", format=_reader(container_name), **TAG_OPTIONS) as written:
            found = describe(written)
            everywhere = set(written.metadata.values()) | {v for s in written.streams for v in s.metadata.values()}
    except (av.FFmpegError, OSError, ValueError):  # other checks find an unreadable file
        return []
    notes, numbers = [], dict[str, int]()
    for wanted in intended:
        number = numbers[wanted.type] = numbers.get(wanted.type, -1) + 1
        candidates = [one for one in found if one.type == wanted.type]
        if number >= len(candidates):
            continue
        got = candidates[number]
        held = {key.lower() for key in got.tags} & _RESTATED
        lost = [
            key
            for key, value in wanted.tags.items()
            if key.lower() not in held and value not in everywhere and not _is_no_loss(key, value)
        ]
        lost += [f"the mark {name}" for name in _flag_names(wanted.disposition & ~got.disposition)]
        if lost:
            names = ", ".join(lost[:_MOST_NAMES]) + (
                f" and {len(lost) - _MOST_NAMES} more" if len(lost) > _MOST_NAMES else ""
            )
            of = f" of {wanted.type} stream {number + 1}" if wanted.type else ""
            notes.append(f"{container_name} cannot hold the tags{of}: {names}")
    return notes


def _is_no_loss(key: str, value: str) -> bool:
    name = key.lower()
    return (
        not value
        or key.upper().startswith(_STATISTICS)
        or name in ("encoder", "vendor_id")
        or (name == "language" and value == "und")
        or (name == "handler_name" and _DEFAULT_HANDLER.fullmatch(value) is not None)
    )


def _flag_names(flags: int) -> list[str]:
    kinds = getattr(av.stream, "Disposition", ())
    return [one.name for one in kinds if one.value & flags & ~_DEFAULT & ~_ATTACHED_PICTURE]


def _reader(container_name: str) -> str | None:
    """Return the demuxer of a container, so that the file's name has no say."""
    return {"matroska": "matroska", "webm": "matroska", "avi": "avi"}.get(container_name, "mov")
