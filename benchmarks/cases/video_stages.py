"""The frame rate of a video from file to file, and of each stage by itself."""

import tempfile
from fractions import Fraction
from pathlib import Path

import av

from overnet.benchmarks.results import VideoStages
from overnet.imaging.moving_photographs import frames as workload_frames
from overnet.runtime.plan import Job
from overnet.runtime.upscale_file import Outcome, VideoOptions, upscale_video
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.formats import (
    DEFAULT_ENCODING,
    choose_pixel_format,
    find_encoder,
    output_format,
    quality_options,
)

_RATE = Fraction(25)


def make_clip(path: Path, *, width: int, height: int, frames: int) -> None:
    """Write a short video of moving photographs, 25 frames per second, without sound.

    Args:
        path: ``.mp4`` or another suffix that `overnet.runtime.video.formats` knows.
        width, height: in pixels.
        frames: at least 1.

    Raises:
        OutputError: this FFmpeg has no encoder for such a file or size.
    """
    container = output_format(path)
    encoder = find_encoder(DEFAULT_ENCODING, container)
    with av.open(str(path), "w", format=container.name) as output:
        stream = output.add_stream(encoder.name, rate=_RATE)
        stream.width, stream.height = width, height
        stream.pix_fmt = choose_pixel_format(encoder, width=width, height=height)
        stream.options = quality_options(encoder.name, None, width=width, height=height, rate=_RATE)
        for image in workload_frames(width, height, frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))


def measure_video(upscaler: Upscaler, scale: int, *, width: int, height: int, frames: int) -> VideoStages:
    """Upscale a short video as ``overnet-run`` does, all stages in parallel, and measure each stage.

    One frame is upscaled before, so that the time does not include building an engine.

    Args:
        upscaler: for this scale; it is not closed.
        width, height, frames: see `make_clip`.

    Raises:
        OutputError, BackendError: see `overnet.runtime.upscale_file.upscale_video`.
        KeyboardInterrupt: at Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="overnet-bench-") as name:
        folder = Path(name)
        source, target = folder / "clip.mp4", folder / "upscaled.mp4"
        make_clip(source, width=width, height=height, frames=frames)
        _upscaled(upscaler, source, folder / "warm.mp4", frames=1)
        outcome = _upscaled(upscaler, source, target, frames=frames)
        with av.open(str(target)) as made:
            codec = made.streams.video[0].codec_context.name
    # A stage may take no measurable time; 1 ns avoids a division by zero.
    rates = {f"{stage}_fps": outcome.frames / max(each, 1e-9) for stage, each in vars(outcome.seconds).items()}
    return VideoStages(
        method=upscaler.backend_name,
        precision=upscaler.backend_for(scale).precision,
        scale=scale,
        width=outcome.input_size[0],
        height=outcome.input_size[1],
        frames=outcome.frames,
        **rates,
        codec=codec,
    )


def _upscaled(upscaler: Upscaler, source: Path, target: Path, *, frames: int) -> Outcome:
    outcome = upscale_video(Job(source, target, "video"), upscaler, VideoOptions(max_frames=frames), overwrite=True)
    if outcome.partial:
        raise KeyboardInterrupt
    return outcome
