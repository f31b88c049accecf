"""Compare the bundled models, and others, in latency, memory, and frames a second from file to file, in one table.

    python -m overnet.benchmarks.studies.models [--model FILE ...]

Latencies are medians of rounds in which all models take turns; memory is the peak of a process that upscales with one
model. A video is upscaled as ``overnet-run`` does. "Use of the cores" is the CPU time that decoder, network and
encoder take when each works alone, without conversions between them, divided by the cores and by the time of the run
from file to file: 100 % is a run that wastes nothing, and waits for nothing.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np

from overnet.benchmarks.cases.latency import timed
from overnet.benchmarks.cases.run import CaseRequest, run_case
from overnet.benchmarks.cases.video_stages import make_clip, measure_video
from overnet.benchmarks.options import MeasuringOptions
from overnet.benchmarks.results import Case
from overnet.errors import OverNetError
from overnet.imaging.moving_photographs import frames as workload_frames
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.formats import DEFAULT_ENCODING, find_encoder, output_format, quality_options
from overnet.system.converted_model import own_model
from overnet.system.environment import has_fast_int8
from overnet.system.memory import usable_cores
from overnet.types import Image
from overnet.weights import INT8_MODEL_NAMES, MODEL_NAMES, model_path

_BICUBIC = "bicubic (OpenCV)"
_PIXEL_FORMAT = "yuv420p"
# A slow model's video has fewer frames, so that it takes about this long.
_VIDEO_SECONDS = 15.0
_LEAST_FRAMES = 8


@dataclass
class ModelFigures:
    """The figures of one model; None where it has none.

    Attributes:
        latency_ms: the median time of a frame.
        peak_memory_bytes: of a process that upscales frames of this size.
        fps: frames a second from file to file, median over the rounds.
        cores_share: see the module, from 0 to 1.
    """

    latency_ms: float
    peak_memory_bytes: int | None = None
    fps: float | None = None
    cores_share: float | None = None


@dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        name: in the table.
        path: see `Upscaler`.
        precision: to compute in; None for the most exact there is.
    """

    name: str
    path: Path
    precision: str | None = None


@dataclass
class Setting:
    """What is upscaled, and how often.

    Attributes:
        width, height: of the frames, in pixels.
        scale: the scale.
        rounds: of the latency; a third of them, at least one, of the video.
        video_frames: the most frames of a video.
    """

    width: int = 640
    height: int = 360
    scale: int = 2
    rounds: int = 9
    video_frames: int = 120


def bundled_models() -> list[Model]:
    """Return the bundled models, in FP32 and, where the CPU is fast in it, in INT8."""
    in_int8 = INT8_MODEL_NAMES if has_fast_int8() else ()
    models = [Model(f"`{name}`, INT8", model_path(name), "int8") for name in in_int8]
    return [*models, *(Model(f"`{name}`", model_path(name)) for name in MODEL_NAMES)]


def compare_models(models: Sequence[Model], setting: Setting) -> dict[str, ModelFigures]:
    """Measure bicubic interpolation and each of the models, by name.

    Args:
        models: ONNX files of this project, or folders of them.
        setting: what is upscaled.

    Raises:
        OverNetError: a model cannot be loaded or run.
    """
    image = next(workload_frames(setting.width, setting.height, 1))
    size = (setting.width * setting.scale, setting.height * setting.scale)
    upscalers = {model.name: Upscaler(setting.scale, model=model.path, precision=model.precision) for model in models}
    runs: dict[str, Callable[[Image], Image]] = {
        _BICUBIC: lambda frame: np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), np.uint8),
        **upscalers,
    }
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(setting.rounds + 1):
        for name, run in runs.items():
            _, taken_ms = timed(lambda run=run: run(image))  # type: ignore[misc]
            if round_number:  # the first is the warm-up
                times_ms[name].append(taken_ms)
    figures = {name: ModelFigures(statistics.median(each)) for name, each in times_ms.items()}
    decoding, encoding = _codec_cpu_ms(setting)
    for name, upscaler in upscalers.items():
        each = figures[name]
        frames = int(min(setting.video_frames, max(_LEAST_FRAMES, 1000 * _VIDEO_SECONDS / each.latency_ms)))
        each.fps = statistics.median(
            measure_video(upscaler, setting.scale, width=setting.width, height=setting.height, frames=frames).total_fps
            for _ in range(max(1, setting.rounds // 3))
        )
        network = _cpu_ms(lambda upscaler=upscaler: upscaler(image), frames=_LEAST_FRAMES)  # type: ignore[misc]
        each.cores_share = (decoding + network + encoding) * each.fps / 1000 / usable_cores()
    for model in models:
        figures[model.name].peak_memory_bytes = _peak_memory_bytes(model, setting)
    return figures


def table(figures: dict[str, ModelFigures]) -> list[str]:
    """Return the figures as the lines of a Markdown table."""
    lines = [
        "| model | ms a frame | peak memory, MB | frames/s from file to file | use of the cores |",
        "|---|" + "--:|" * 4,
    ]
    for name, each in figures.items():
        memory = "" if each.peak_memory_bytes is None else f"{each.peak_memory_bytes / 1e6:.0f}"
        fps = "" if each.fps is None else f"{each.fps:.1f}"
        share = "" if each.cores_share is None else f"{each.cores_share:.0%}"
        lines.append(f"| {name} | {each.latency_ms:.1f} | {memory} | {fps} | {share} |")
    return lines


def _cpu_ms(work: Callable[[], object], *, frames: int) -> float:
    """Return the CPU time in milliseconds, of all threads, of one of some equal calls."""
    work()
    before = time.process_time()
    for _ in range(frames):
        work()
    return 1000 * (time.process_time() - before) / frames


def _codec_cpu_ms(setting: Setting) -> tuple[float, float]:
    """Return the CPU milliseconds a frame of the decoder and of the encoder alone, with frames as they take them."""
    frames = setting.video_frames
    with TemporaryDirectory(prefix="overnet-bench-") as folder:
        source, target = Path(folder) / "small.mp4", Path(folder) / "large.mp4"
        make_clip(source, width=setting.width, height=setting.height, frames=frames)

        def decode() -> None:
            with av.open(str(source)) as clip:
                clip.streams.video[0].thread_type = "AUTO"
                for _ in clip.decode(video=0):
                    pass

        decoding = _cpu_ms(decode, frames=3) / frames
        width, height = setting.width * setting.scale, setting.height * setting.scale
        ready = [
            av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=_PIXEL_FORMAT)
            for image in workload_frames(width, height, frames)
        ]
        encoder = find_encoder(DEFAULT_ENCODING, output_format(target)).name
        rate = Fraction(25)

        def encode() -> None:
            options = quality_options(encoder, None, width=width, height=height, rate=rate)
            with av.open(str(target), "w") as output:
                stream = output.add_stream(encoder, rate=rate, options=options)
                stream.width, stream.height, stream.pix_fmt, stream.thread_type = width, height, _PIXEL_FORMAT, "AUTO"
                for number, frame in enumerate(ready):
                    frame.pts = number
                    output.mux(stream.encode(frame))
                output.mux(stream.encode(None))

        return decoding, _cpu_ms(encode, frames=1) / frames


def _peak_memory_bytes(model: Model, setting: Setting) -> int | None:
    case = Case("openvino", "backend", model.precision or "fp32", setting.scale, setting.width, setting.height)
    result = run_case(CaseRequest(**vars(MeasuringOptions(model=model.path, seconds=0.5)), case=case, least_runs=3))
    if result.error is not None:
        raise OverNetError(f"{model.name}: {result.error}")
    return None if result.memory is None else result.memory.peak_host_bytes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a further ONNX file; repeat for more")
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which all take turns (default: 9)")
    args = parser.parse_args()
    try:
        given = [Model(path.stem, own_model(path)) for path in args.model]
        figures = compare_models([*given, *bundled_models()], Setting(rounds=max(1, args.rounds)))
    except OverNetError as error:
        sys.exit(f"models: {error}")
    print("\n".join(table(figures)))


if __name__ == "__main__":
    main()
