"""Measure what joining segments costs in quality and bytes, for each encoder: the segments of a video against one pass.

    python -m overnet.benchmarks.studies.segment_joins
    python -m overnet.benchmarks.studies.segment_joins --clip film.mkv --codec libx265 --crf 30

The frames are photographs that move, or those of a clip, which is shown forwards and backwards. They go into the
encoder as they are. For each join, the PSNR of the luma (of RGB, for encoders of RGB) is averaged over the second
before it and the second behind it, and compared with that of the same frames in one pass.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from overnet.benchmarks.cases.video_stages import make_clip
from overnet.errors import OverNetError
from overnet.imaging.moving_photographs import frames as moving_photographs
from overnet.runtime.segments.writer import Cutting, Destination, SegmentedWriter
from overnet.runtime.video.color import RgbEncoder
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import Encoding
from overnet.runtime.video.frame import Frame, VideoInfo
from overnet.runtime.video.reader import VideoReader
from overnet.runtime.video.writer import VideoWriter
from overnet.types import Image

CODECS = (
    *("libx264", "libx264rgb", "libx265", "libsvtav1", "libaom-av1", "librav1e", "libvpx-vp9"),
    *("mpeg4", "mpeg2video", "mjpeg", "ffv1"),
)
SECOND = 24  # frames
# Of a frame that is exact.
_HIGHEST_PSNR = 100.0


@dataclass(frozen=True)
class Joins:
    """What is measured of an encoder.

    Args:
        length: frames of a segment.
        before, behind: for each join, the mean PSNR in the second before it and behind it less that of one pass, in dB.
        more_bytes: of the result, as a share of that of one pass.
    """

    length: int
    before: list[float]
    behind: list[float]
    more_bytes: float

    @property
    def differences(self) -> list[float]:
        """Return for each join the mean of both seconds."""
        return [(before + behind) / 2 for before, behind in zip(self.before, self.behind, strict=True)]


def measure(images: Sequence[Image], encoding: Encoding, *, least: int, suffix: str = ".mkv") -> Joins:
    """Encode images in one pass and in segments, and compare both.

    Args:
        images: height x width x 3 uint8 RGB each.
        encoding: the encoder.
        least: frames of a segment, rounded up to whole intervals of the encoder's keyframes.
        suffix: of the container.

    Raises:
        OutputError: there is no such encoder, or it cannot be used.
    """
    height, width = images[0].shape[:2]
    with tempfile.TemporaryDirectory() as name:
        source, single, joined = (Path(name, file) for file in ("in.mp4", f"single{suffix}", f"joined{suffix}"))
        make_clip(source, width=width, height=height, frames=2)  # for the properties of a video
        with VideoReader(source) as reader:
            info = reader.info
        video = OutputVideo(info, width, height, encoding)
        with VideoWriter(single, video, source=source) as writer:
            length = writer.track.whole_intervals(least)
            _write(writer, images, info)
        destination = Destination(joined, video, source, overwrite=False, start_seconds=0.0)
        with SegmentedWriter(destination, {}, Cutting(frames=length), expected_frames=len(images)) as segments:
            _write(segments, images, info)
        difference = _psnr(joined, images, info) - _psnr(single, images, info)
        more_bytes = joined.stat().st_size / single.stat().st_size - 1
    joins = range(length, len(images), length)
    return Joins(
        length,
        [float(difference[at - SECOND : at].mean()) for at in joins],
        [float(difference[at : at + SECOND].mean()) for at in joins],
        more_bytes,
    )


def _write(writer: VideoWriter | SegmentedWriter, images: Sequence[Image], info: VideoInfo) -> None:
    duration = round(1 / info.rate / info.time_base)
    for index, image in enumerate(images):
        writer.write(Frame(image, index * duration, info.time_base, duration, index))
    writer.finish()


def _psnr(path: Path, images: Sequence[Image], info: VideoInfo) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the PSNR of each frame against what the encoder got, in dB."""
    to_yuv = RgbEncoder(info.color, pixel_format="yuv420p")
    height, width = images[0].shape[:2]
    found = []
    with av.open(str(path)) as container:
        for image, frame in zip(images, container.decode(video=0), strict=True):
            made, given = frame.to_ndarray(format="rgb24"), image
            if not frame.format.is_rgb:
                made, given = (
                    np.frombuffer(bytes(each.planes[0]), np.uint8).reshape(height, -1)[:, :width]
                    for each in (frame, to_yuv(image))
                )
            error = np.mean((made.astype(np.float64) - given) ** 2)
            found.append(min(_HIGHEST_PSNR, 10 * np.log10(255**2 / max(error, 1e-12))))
    return np.array(found)


def _clip(path: Path, count: int) -> list[Image]:
    with VideoReader(path, max_frames=count) as reader:
        forwards = [frame.rgb.copy() for frame in reader]
    both = forwards + forwards[-2:0:-1]
    return [both[index % len(both)] for index in range(count)]


def main(argv: list[str] | None = None) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a video, in place of moving photographs")
    parser.add_argument("--codec", action="append", help="an encoder of FFmpeg; may be given several times")
    parser.add_argument("--crf", type=int)
    parser.add_argument("--segments", type=int, default=4)
    options = parser.parse_args(argv)
    least = Cutting.least_frames
    count = options.segments * (least + 11)  # enough where the interval of keyframes does not divide the length
    images = list(moving_photographs(320, 180, count)) if options.clip is None else _clip(options.clip, count)
    for codec in options.codec or CODECS:
        try:
            joins = measure(images, Encoding(codec, options.crf), least=least)
        except OverNetError as error:
            print(f"{codec}: {error}", file=sys.stderr)
            continue
        print(
            f"{codec}: {len(joins.before)} joins of segments of {joins.length} frames: "
            f"{np.mean(joins.differences):+.2f} dB on average, {min(joins.differences):+.2f} dB at worst "
            f"({min(joins.before):+.2f} dB before, {min(joins.behind):+.2f} dB behind); {joins.more_bytes:+.1%} bytes"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
