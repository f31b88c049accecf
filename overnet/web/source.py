"""What was dropped onto the page: its kind and size, and an image of it that browsers show."""

from dataclasses import dataclass
from pathlib import Path

from overnet.errors import InputError, naming_failures, printable
from overnet.imaging.formats.tiff import exif_orientation
from overnet.imaging.image_inspect import START_BYTES, image_kind
from overnet.imaging.image_io import read_image
from overnet.imaging.image_write import write_image
from overnet.runtime.container.demux import main_stream, open_source, read_packets
from overnet.runtime.plan import Kind, kind_and_suffix
from overnet.runtime.upscale_file import read_frame
from overnet.runtime.video.reader import VideoReader

# The kinds of images that browsers show, and their media types.
SHOWN_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WebP": "image/webp", "BMP": "image/bmp"}


@dataclass(frozen=True)
class Source:
    """A file that can be upscaled.

    Attributes:
        kind: "image" or "video".
        suffix: that of a result of the same format.
        size: width and height in pixels, as it is shown.
        seconds: the duration of a video; None if it is unknown, and for an image.
        frame_rate: frames per second of a video.
        shown: an image for the browser: of a video its first.
    """

    path: Path
    kind: Kind
    suffix: str
    size: tuple[int, int]
    seconds: float | None
    frame_rate: float | None
    shown: Path


def read_source(path: Path, folder: Path, *, most_seconds: float) -> Source:
    """Read what was dropped, and make an image of it to show.

    Args:
        folder: where the image is written, unless a browser shows the file itself.
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
            return Source(path, kind, suffix, (width, height), None, None, shown_image(path, folder))
        with VideoReader(path) as reader:
            info = reader.info
        seconds = _measured_seconds(path) if info.frame_count is None else float(info.frame_count / info.rate)
        if seconds is not None and seconds > most_seconds:
            raise InputError(
                f"{printable(path)} is {seconds / 60:.1f} minutes long, and the limit here is {most_seconds / 60:g} "
                "(overnet web --max-minutes)"
            )
        shown = write_frame(path, 0, folder)
        size = info.orientation.size(info.width, info.height)
        return Source(path, kind, suffix, size, seconds, float(info.rate), shown)


def _measured_seconds(path: Path) -> float | None:
    """Return the duration by the times of the packets, for recordings that state none; None if they have no times."""
    with open_source(path) as container:
        stream = main_stream(container, path)
        times = [packet.pts for packet in read_packets(container, [stream]) if packet.pts is not None]
        if not times or stream.time_base is None:
            return None
        return float((max(times) - min(times)) * stream.time_base)


def write_frame(path: Path, start_seconds: float, folder: Path) -> Path:
    """Write the image of a video at a time as a PNG file, and return its path.

    Raises:
        InputError: see `VideoReader`.
    """
    target = folder / f"{path.stem}_frame.png"
    with naming_failures(path):
        write_image(read_frame(path, start_seconds), target, overwrite=True)
    return target


def shown_image(path: Path, folder: Path) -> Path:
    """Return an image file that browsers show: the file itself, or a copy as PNG in a folder."""
    with path.open("rb") as file:
        kind = image_kind(file.read(START_BYTES), path.suffix)
    if kind in SHOWN_KINDS:
        return path
    target = folder / f"{path.stem}_shown.png"
    write_image(read_image(path), target, overwrite=True)
    return target
