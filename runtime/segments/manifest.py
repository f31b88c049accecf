"""The manifest of a video that is upscaled in segments: what makes the result, and which segments are whole."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import av

from overnet._version import __version__
from overnet.errors import InputError, OutputError, file_errors, one_line, printable
from overnet.files.atomic import atomic_write, open_regular, sync_folder
from overnet.files.checked_json import Pattern, Range, from_json, parse_object
from overnet.runtime.segments.packet_file import Contents
from overnet.runtime.video.frame import Position

_FORMAT = 2
_Count = Annotated[int, Range(0, 1 << 40)]
# Parts of the source that are compared, at even distances from its first byte to its last one.
_PARTS, _PART_BYTES = 16, 1 << 16


@dataclass(frozen=True)
class Segment:
    """A segment that is whole.

    Args:
        frames: number of its frames.
        next_pts: time of the first frame behind it, in ticks of the manifest's time base from the start of the result;
            None where the encoder was shown none.
        moved: number of frames whose times were moved to keep them apart.
        last: the place of its last frame in the source; None where the times there are not as they should be.
        seconds: how long it took.
        contents: of its file.
    """

    frames: _Count
    next_pts: int | None
    moved: _Count
    last: Position | None
    seconds: Annotated[float, Range(0, 1 << 40)]
    contents: Contents


@dataclass(frozen=True)
class FileState:
    """What a file keeps when it is renamed, and another one of the same name does not have: its size and its time."""

    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Return that of a file.

        Raises:
            OSError: it cannot be looked at.
        """
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass
class Manifest:
    """What is stored of an unfinished video.

    Args:
        shaped_by: by a name for messages, everything that determines the result: options, the source, the model's
            hash, and versions.
        frames_per_segment: frames of each segment but the last one.
        expected_frames: estimate of the number of frames; None if unknown.
        total_frames: number of frames of the result, once the source was read to its end.
        time_base, zero_seconds: seconds per tick, and the time of the source that is the result's start, as fractions.
        segments: those that are whole, by number.
        notes: remarks on the frames in them.
        result: of the file that they were joined to, before it got its name.
    """

    shaped_by: dict[str, str]
    frames_per_segment: Annotated[int, Range(1, 1 << 40)]
    expected_frames: _Count | None
    time_base: Annotated[str, Pattern(r"[1-9]\d{0,18}(/[1-9]\d{0,18})?")]
    zero_seconds: Annotated[str, Pattern(r"-?\d{1,18}(/[1-9]\d{0,18})?")]
    total_frames: _Count | None = None
    segments: dict[int, Segment] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    result: FileState | None = None

    @property
    def done_frames(self) -> int:
        """Return the number of frames in segments that are whole."""
        return sum(segment.frames for segment in self.segments.values())

    @property
    def is_complete(self) -> bool:
        """Return whether all segments are whole."""
        return self.total_frames is not None and self.done_frames == self.total_frames

    def save(self, path: Path) -> None:
        """Write the manifest by a rename, and to the disk; the segments' files have to be there before.

        Raises:
            OutputError: it cannot be written.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)
        with atomic_write(path, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
        sync_folder(path.parent)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            OutputError: it is missing, unreadable, or of another version.
        """
        with file_errors(OutputError, path), open_regular(path) as file:
            content = file.read()
        try:
            fields = parse_object(content, name=path.name)
            if fields.pop("format", None) != _FORMAT:
                raise OutputError(f"{printable(path)} is of another version of OverNet")
            manifest = from_json(cls, fields, name=path.name)
            manifest.segments = {int(number): segment for number, segment in manifest.segments.items()}
        except (InputError, ValueError) as error:
            raise OutputError(f"{printable(path)} is damaged ({one_line(error)})") from error
        return manifest


def differences(now: dict[str, str], before: dict[str, str]) -> list[str]:
    """Return a phrase for each thing that shapes the result and has changed."""
    names = dict.fromkeys([*now, *before])
    return [
        f"{name} is {now.get(name, 'not set')} and was {before.get(name, 'not set')}"
        for name in names
        if now.get(name) != before.get(name)
    ]


def describe_source(path: Path) -> dict[str, str]:
    """Return what tells a source from a changed one: its size, and a hash of its head, its tail and parts between.

    The time of its last change is left out: copying a file changes it.

    Raises:
        InputError: it cannot be read.
    """
    with file_errors(InputError, path), path.open("rb") as file:
        size = path.stat().st_size
        digest = hashlib.sha256()
        for part in range(_PARTS):
            file.seek(max(0, size - _PART_BYTES) * part // (_PARTS - 1))
            digest.update(file.read(_PART_BYTES))
    return {"the source's size": f"{size} bytes", "the source's content": digest.hexdigest()[:16]}


def describe_versions() -> dict[str, str]:
    """Return the versions of what decodes, upscales and encodes."""
    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    return {"OverNet": __version__, "PyAV": av.__version__, "libavcodec": codecs, "the machine": platform.machine()}
