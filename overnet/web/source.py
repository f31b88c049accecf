"""What was dropped onto the page: its kind and size, and an image of it that browsers show.

These functions are called in `overnet.web.worker` only, as a file can crash the process that reads it.
"""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from overnet.errors import InputError, naming_failures, printable
from overnet.imaging.formats.tiff import exif_orientation
from overnet.imaging.image_inspect import START_BYTES, image_kind
from overnet.imaging.image_io import read_image
from overnet.imaging.image_write import write_image
from overnet.runtime.container.clock import SourceClock
from overnet.runtime.container.demux import main_stream, open_source
from overnet.runtime.plan import Kind, kind_and_suffix
from overnet.runtime.upscale_file import read_frame
from overnet.runtime.video.reader import VideoReader

# The kinds of images that browsers show, and their media types.
SHOWN_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WebP": "image/webp", "BMP": "image/bmp"}
# A limit on the time alone would admit any number of frames, with times that hardly differ.
_MOST_FRAMES_PER_SECOND = 240


@dataclass(frozen=True)
class Source:
    """A file that can be upscaled.

    Attributes:
        kind: "image" or "video".
        suffix: that of a result of the same format.
        size: width and height in pixels, as it is shown.
        seconds: the duration of a video by the times of its frames; None for an image.
        frame_rate: frames per second of a video; None for an image.
        shown: an image for the browser: of a video its first.
    """

    path: Path
    kind: Kind
    suffix: str
    size: tuple[int, int]
    seconds: float | None
    frame_rate: float | None
    shown: Path

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary for JSON."""
        return {**asdict(self), "path": str(self.path), "shown": str(self.shown)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Source":
        """Return the object of which `to_json` returned the fields."""
        width, height = fields["size"]
        paths = {name: Path(fields[name]) for name in ("path", "shown")}
        return cls(**{**fields, **paths, "size": (width, height)})


def read_source(path: Path, shown: Path, *, most_seconds: float) -> Source:
    """Read what was dropped, and make an image of it to show.

    Args:
        shown: the PNG file to write with an image of it, unless a browser shows the file itself.
        most_seconds: the longest video that is accepted.

    Raises:
        InputError: the file is empty, damaged, of an unknown kind, or longer.
    """
    with naming_failures(path):
        if not path.stat().st_size:
            raise InputError(f"{printable(path)} is empty")
        kind, suffix = kind_and_suffix(path)
        if kind == "image":
            image = read_image(path)
            height, width = image.rgb.shape[:2]
            if image.exif is not None and exif_orientation(image.exif) >= 5:
                width, height = height, width
            return Source(path, kind, suffix, (width, height), None, None, shown_image(path, shown))
        with VideoReader(path) as reader:
            info = reader.info
        frames, seconds = _length(path, info.rate)
        check_length(path, frames, seconds, most_seconds)
        write_frame(path, 0, shown)
        size = info.orientation.size(info.width, info.height)
        return Source(path, kind, suffix, size, float(seconds), float(info.rate), shown)


def _length(path: Path, rate: Fraction) -> tuple[int, Fraction]:
    """Return the number of a video's frames and its seconds, by its packets: the file's header may state others.

    Args:
        rate: frames per second, for packets without times.
    """
    count = 0
    first: int | None = None
    last = 0
    with open_source(path) as container:
        stream = main_stream(container, path)
        for packet in SourceClock(container).packets([stream]):
            count += 1
            ticks = packet.dts if packet.pts is None else packet.pts
            if ticks is not None:
                first, last = (ticks, ticks) if first is None else (min(first, ticks), max(last, ticks))
        if first is None or stream.time_base is None:
            return count, count / rate
        return count, (last - first) * Fraction(stream.time_base) + 1 / rate


def check_length(path: Path, frames: int, seconds: Fraction, most_seconds: float) -> None:
    """Raise an `InputError` where a video with this many frames, which lasts this long, is too long."""
    limit = f"and the limit here is {most_seconds / 60:g} (overnet web --max-minutes)"
    if seconds > most_seconds:
        raise InputError(f"{printable(path)} is {math.ceil(seconds / 6) / 10} minutes long, {limit}")
    if frames > most_seconds * _MOST_FRAMES_PER_SECOND:
        minutes = frames / _MOST_FRAMES_PER_SECOND / 60
        raise InputError(
            f"{printable(path)} has {frames} frames, as many as {minutes:.1f} minutes at {_MOST_FRAMES_PER_SECOND} "
            f"frames/s, {limit}"
        )


def write_frame(path: Path, start_seconds: float, target: Path) -> None:
    """Write the image of a video at a time as a PNG file.

    Raises:
        InputError: see `VideoReader`.
    """
    with naming_failures(path):
        write_image(read_frame(path, start_seconds), target, overwrite=True)


def shown_image(path: Path, target: Path) -> Path:
    """Return an image file that browsers show: the file itself, or the copy that is written to `target` as PNG."""
    with path.open("rb") as file:
        kind = image_kind(file.read(START_BYTES), path.suffix)
    if kind in SHOWN_KINDS:
        return path
    write_image(read_image(path), target, overwrite=True)
    return target
