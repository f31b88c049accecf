"""``overnet run`` and ``overnet-run``: upscale images and videos."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer import Argument, Option

from overnet.cli.common import command, converted_model, print_error, print_status
from overnet.cli.options import (
    BackendOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
    PrecisionOption,
    ProviderOption,
    QuietOption,
    SlotsOption,
    ThreadsOption,
    check_choice,
    check_range,
    parse_time,
)
from overnet.cli.progress import ProgressDisplay
from overnet.cli.run.segments import show_estimate, show_status
from overnet.cli.run.stream_options import StreamOptions, StreamRun, parse_rate
from overnet.errors import InputError, InterruptedRun, OverNetError, naming_failures, printable

if TYPE_CHECKING:
    from overnet.runtime.plan import Plan
    from overnet.runtime.upscale_file import Outcome, VideoOptions
    from overnet.runtime.upscaler import Upscaler

_FORMATS = ("png", "jpg", "webp", "tiff", "bmp")

# An input that could not be upscaled, and why.
Failure: TypeAlias = tuple[Path, OverNetError]


@dataclass(frozen=True)
class UpscalerOptions:
    """Options that `overnet.runtime.upscaler.Upscaler` takes under the same names."""

    height: Annotated[int | None, Option(metavar="PIXELS", help="Height of the result, instead of a scale.")] = None
    width: Annotated[int | None, Option(metavar="PIXELS", help="Width of the result, instead of a scale.")] = None
    model: ModelOption = None
    backend: BackendOption = "auto"
    precision: PrecisionOption = None
    device: DeviceOption = 0
    provider: ProviderOption = "cpu"
    slots: SlotsOption = 3
    zero_copy: Annotated[
        bool | None,
        Option(
            "--zero-copy/--no-zero-copy",
            help="Let the GPU work on the host's memory without copies. Default: only where both share it (Jetson).",
        ),
    ] = None
    cuda_graphs: Annotated[
        bool, Option("--cuda-graphs/--no-cuda-graphs", help="Replay the GPU's work for a frame as one CUDA graph.")
    ] = True
    tile: Annotated[
        int | None, Option(metavar="PIXELS", help="Tile size in input pixels; 0: no tiles. Default: what fits memory.")
    ] = None
    threads: ThreadsOption = None


@dataclass(frozen=True)
class ImageOptions:
    """Options on the images that are written."""

    image_format: Annotated[
        str | None,
        Option("--format", metavar="NAME", help=f"Images in a folder: {', '.join(_FORMATS)}. Default: as the input."),
    ] = None
    quality: Annotated[
        int | None, Option(metavar="N", help="JPEG and WebP: quality, 1 to 100. Default: 95, and WebP as it was.")
    ] = None

    def check(self) -> None:
        """Refuse values out of range."""
        check_choice("--format", self.image_format, _FORMATS)
        check_range("--quality", self.quality, 1, 100)


@command
def run_command(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="INPUT",
            help="Images, videos or folders of them; or one of camera:0, csi:0, rtsp://…, http://…, udp://…, "
            "'gst:PIPELINE', and - for standard input.",
        ),
    ],
    output: Annotated[
        str | None,
        Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File or folder to write; - for standard output; live video also to rtsp://… or 'gst:PIPELINE'. "
            "Default for a file or folder: its name with _x2 or the like, beside it.",
        ),
    ] = None,
    *,
    scale: Annotated[
        float | None,
        Option(metavar="FACTOR", help="Scale, 1 to 64, fractions allowed. Default: the model file's own, or 2."),
    ] = None,
    upscaling: UpscalerOptions,
    fps: Annotated[
        str | None,
        Option(
            metavar="FPS",
            help="Videos: choose the best of the bundled models that holds this many frames a second here, by a "
            "measurement of two seconds. Default for live sources without --model: the source's own rate.",
        ),
    ] = None,
    frames: Annotated[int | None, Option(metavar="N", help="Videos: stop after this number of frames.")] = None,
    start: Annotated[
        float,
        Option(metavar="TIME", parser=parse_time, help="Videos: time to start at, in seconds or as 1:30 or 1:02:03.5."),
    ] = 0.0,
    codec: Annotated[
        str | None, Option(metavar="NAME", help="Videos: h264, hevc, vp9, av1, or the name of an encoder of FFmpeg.")
    ] = None,
    crf: Annotated[int | None, Option(metavar="N", help="Videos: constant rate factor; lower is better.")] = None,
    resume: Annotated[
        bool,
        Option(
            "--resume/--no-resume",
            help="Videos of more than about 30 s of work: write segments beside the output, so that the same command "
            "goes on where a run was cut off; or write in one pass.",
        ),
    ] = True,
    status: Annotated[
        Path | None,
        Option(metavar="OUTPUT", callback=show_status, is_eager=True, help="Tell how far a video is, and exit."),
    ] = None,
    images: ImageOptions,
    stream: StreamOptions,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Upscale images and videos.

    Sound, subtitles, timestamps, colour, tags, EXIF, XMP and ICC profiles are kept; a note names what the output cannot
    hold. Ctrl-C leaves a playable video of the frames done so far, marked as partial. After that, a crash or a power
    cut, the same command goes on with a long video, unless the source or an option has changed.

    Of live video the newest frame is upscaled; frames that arrive meanwhile are dropped and counted. A lost source is
    connected to again, and Ctrl-C is the normal end. Through a pipe every frame is upscaled, in order.
    """
    from overnet.runtime.live.addresses import parse_address

    source = next(filter(None, map(parse_address, inputs)), None)
    if stream.show and source is not None and source.is_live:
        # The window must be prepared before PyAV is imported.
        from overnet.runtime.live.preview import prepare_display

        prepare_display()
    from overnet.runtime.plan import Plan
    from overnet.runtime.segments.writer import Cutting
    from overnet.runtime.upscale_file import VideoOptions, upscale_video

    images.check()
    if sum(each is not None for each in (scale, upscaling.height, upscaling.width)) > 1:
        raise typer.BadParameter("--scale, --height and --width exclude each other")
    video = VideoOptions(start, frames, codec, crf, cutting=Cutting(is_wanted=resume))
    display = ProgressDisplay(quiet=quiet)
    upscaling = replace(upscaling, model=converted_model(upscaling.model, display.announce, quiet=quiet))
    is_live = source is not None and source.is_live
    make_upscaler = _upscaler_maker(upscaling, scale, fps, display, is_live=is_live)
    target = None if output is None else parse_address(output) or Path(output)
    writes_stdout = False
    if source is None and (target is None or isinstance(target, Path)):
        stream.refuse("for cameras, streams and pipes, and there is none")
        if output is None:
            output = _default_output(inputs, upscaling, scale, images)
        plan = _plan_files(inputs, output, video, images, only_videos=fps is not None, overwrite=overwrite, quiet=quiet)
        estimate = functools.partial(show_estimate, model=upscaling.model, names_model=fps is None, quiet=quiet)
        upscale: Callable[..., Outcome] = functools.partial(
            upscale_video, options=video, overwrite=overwrite, on_estimate=estimate
        )
    elif len(inputs) > 1:
        raise InputError("several inputs at once must be files: start one run for each camera, stream or pipe")
    else:
        run = StreamRun(source or Path(inputs[0]), target, stream, video, make_upscaler, overwrite, as_json, quiet)
        if source is not None and source.is_live:
            from overnet.cli.run.live import run_live_command

            run_live_command(run, display)
            return
        from overnet.cli.run.pipe import PipeRun

        pipe = PipeRun(run)
        plan, upscale, writes_stdout = Plan([pipe.job], []), pipe.upscale, run.writes_stdout
    with display:
        upscaler = make_upscaler()
    outcomes, failures = _run_jobs(
        plan, upscaler, upscale, display, overwrite=overwrite, quality=images.quality, start_seconds=start
    )
    if as_json:
        report = _report(outcomes, failures, plan.kept, backend=upscaler.backend_name)
        typer.echo(json.dumps(report), err=writes_stdout)
    ended_early = outcomes and outcomes[-1].is_last and outcomes[-1].input != plan.jobs[-1].source
    if ended_early or any(outcome.partial for outcome in outcomes):
        raise typer.Exit(InterruptedRun.exit_code)
    if failures:
        raise typer.Exit(1)


def _upscaler_maker(
    upscaling: UpscalerOptions, scale: float | None, fps: str | None, display: ProgressDisplay, *, is_live: bool
) -> Callable[[], Upscaler]:
    """Return a function that loads the model, or for a rate of frames an upscaler that chooses it."""
    from overnet.runtime.upscaler import Upscaler

    options = {**_for_here(upscaling, quiet=display.quiet), "on_progress": display.announce}
    if fps is None and (upscaling.model is not None or not is_live):
        return functools.partial(Upscaler, _default_scale(upscaling) if scale is None else scale, **options)
    if options.pop("model") is not None:
        raise typer.BadParameter("--fps chooses among the bundled models, and --model names one: leave out one of them")
    from overnet.runtime.paced_upscaler import PacedUpscaler

    return functools.partial(
        PacedUpscaler,
        2 if scale is None else scale,
        rate=None if fps is None else parse_rate("--fps", fps),
        on_choice=functools.partial(print_status, quiet=display.quiet),
        **options,
    )


def _for_here(options: UpscalerOptions, *, quiet: bool) -> dict[str, Any]:
    """Return the options, with FP32 in place of INT8 where the CPU has no fast INT8."""
    from overnet.evaluation.model_choice import fp32_file
    from overnet.files.onnx_metadata import read_artifact
    from overnet.runtime.backends.registry import choose_backends
    from overnet.system.environment import has_fast_int8

    model, values = options.model, vars(options)
    is_file = model is not None and model.suffix.lower() == ".onnx" and model.is_file()
    artifact = read_artifact(model) if model is not None and is_file else None
    is_int8 = options.precision == "int8" if artifact is None else artifact.precision == "int8"
    if (
        not is_int8
        or options.provider != "cpu"
        or choose_backends(options.backend, "onnx")[0].on_gpu
        or has_fast_int8()
    ):
        return values
    if artifact is None or model is None:
        print_status("this CPU has no fast INT8 arithmetic: FP32 files are used", quiet=quiet)
        return {**values, "precision": None}
    exact = fp32_file(artifact.weights_sha256, artifact.scale, model.parent)
    slow = f"{printable(str(model))}: this CPU has no fast INT8 arithmetic"
    if exact is None:
        print_status(f"{slow}, and there is no FP32 file of these weights beside it", quiet=quiet)
        return values
    print_status(f"{slow}: {printable(str(exact.path))} is used, in FP32", quiet=quiet)
    return {**values, "model": exact.path, "precision": None}


def _default_output(inputs: list[str], upscaling: UpscalerOptions, scale: float | None, images: ImageOptions) -> str:
    """Return the name of the result beside a single input: ``photo_x2.jpg``, or for a folder ``photos_x2/``."""
    from overnet.runtime.plan import kind_and_suffix

    if len(inputs) > 1:
        raise typer.BadParameter("--output / -o is missing: the folder to write several inputs to")
    if upscaling.height is not None or upscaling.width is not None:
        label = f"h{upscaling.height}" if upscaling.height is not None else f"w{upscaling.width}"
    else:
        label = f"x{_default_scale(upscaling) if scale is None else scale:g}"
    source = Path(os.path.abspath(inputs[0]))  # noqa: PTH100 (a link keeps its name)
    if source.is_dir():
        return f"{source}_{label}{os.sep}"
    kind, suffix = kind_and_suffix(source)
    if kind == "image" and images.image_format is not None:
        suffix = f".{images.image_format}"
    return str(Path(inputs[0]).with_name(f"{source.stem}_{label}{suffix}"))


def _plan_files(
    inputs: list[str],
    output: str,
    video: VideoOptions,
    images: ImageOptions,
    *,
    only_videos: bool,
    overwrite: bool,
    quiet: bool,
) -> Plan:
    """Plan which file is written for which."""
    from overnet.runtime.plan import make_plan
    from overnet.runtime.video.formats import Encoding, find_encoder, output_format

    is_folder = output.endswith(os.sep)
    plan = make_plan(
        [Path(text) for text in inputs],
        Path(output),
        overwrite=overwrite,
        is_folder=is_folder,
        image_suffix=images.image_format and f".{images.image_format}",
    )
    for note in plan.notes:
        print_status(f"note: {note}", quiet=quiet)
    for path in plan.kept:
        print_status(f"{path}: exists already and is kept (--overwrite replaces it)", quiet=quiet)
    image = next((job.source for job in plan.jobs if job.kind == "image"), None)
    image_options = images.image_format is not None or images.quality is not None
    if plan.jobs and image_options and all(job.kind == "video" for job in plan.jobs):
        raise typer.BadParameter("--format and --quality are for images, and there is none")
    if only_videos and image is not None:
        raise typer.BadParameter(f"--fps is for videos, and {printable(str(image))} is an image")
    frame = any(job.kind == "frame" for job in plan.jobs)
    videos = any(job.kind == "video" for job in plan.jobs)
    if frame and replace(video, start_seconds=0) != type(video)():
        raise typer.BadParameter("--frames, --codec and --crf are for videos, and one image of it is to be written")
    if plan.jobs and not videos and not frame and video != type(video)():
        raise typer.BadParameter("--frames, --start, --codec and --crf are for videos, and there is none")
    for container in {output_format(job.target) for job in plan.jobs if job.kind == "video"}:
        find_encoder(Encoding(video.codec, video.crf), container)
    return plan


def _run_jobs(
    plan: Plan,
    upscaler: Upscaler,
    upscale: Callable[..., Outcome],
    display: ProgressDisplay,
    *,
    overwrite: bool,
    quality: int | None,
    start_seconds: float,
) -> tuple[list[Outcome], list[Failure]]:
    """Upscale one file after another, videos by `upscale`, until Ctrl-C; an error in one of several is reported."""
    from overnet.files.atomic import ExistsAlreadyError, exists_already
    from overnet.runtime.upscale_file import upscale_image

    outcomes: list[Outcome] = []
    failures: list[Failure] = []
    for path, unreadable in plan.unreadable:
        print_error(unreadable)
        failures.append((path, unreadable))
    several = len(plan.jobs) + len(plan.kept) + len(plan.unreadable) > 1
    for number, job in enumerate(plan.jobs):
        try:
            with display, naming_failures(job.source):
                if len(plan.jobs) > 1:
                    display.file(printable(job.source.name), number, len(plan.jobs))
                if several and not overwrite and job.target.exists():
                    raise exists_already(job.target)
                if job.kind != "video":
                    outcome = upscale_image(
                        job, upscaler, overwrite=overwrite, quality=quality, start_seconds=start_seconds
                    )
                else:
                    outcome = upscale(job, upscaler, on_frame=display.frames(printable(job.source.name)))
        except ExistsAlreadyError as error:  # another run into this folder has made it meanwhile
            if not several:
                raise
            print_status(f"{error}, and is kept", quiet=display.quiet)
            plan.kept.append(job.target)
            continue
        except OverNetError as error:
            if not several:
                raise
            print_error(error)
            failures.append((job.source, error))
            continue
        outcomes.append(outcome)
        print_status(_summary(outcome), quiet=display.quiet)
        for note in outcome.notes:
            print_status(f"  note: {note}", quiet=display.quiet)
        if outcome.is_last:
            break
    return outcomes, failures


def _default_scale(options: UpscalerOptions) -> float:
    """Return the scale of an ONNX file or an engine; 2 for models with several scales."""
    from overnet.evaluation.model_choice import describe

    model = options.model
    # The upscaler reports a model that is missing.
    sized = options.height is not None or options.width is not None
    if model is not None and not sized and model.suffix.lower() in (".onnx", ".engine") and model.exists():
        artifact = describe(model)
        if artifact is not None:
            return artifact.scale
    return 2


def _summary(outcome: Outcome) -> str:
    width, height = outcome.output_size
    if outcome.kind != "video":
        return f"{outcome.output}: {width}x{height}, {outcome.seconds.total:.2f} s ({outcome.backend})"
    if outcome.output is None:
        return "interrupted before the first frame: nothing was written"
    done = f"{outcome.frames} frames, {outcome.frames_per_second:.2f} fps ({outcome.backend})"
    return f"{'interrupted: ' if outcome.partial else ''}{outcome.output}: {width}x{height}, {done}"


def _report(outcomes: list[Outcome], failures: list[Failure], kept: list[Path], *, backend: str) -> dict[str, Any]:
    """Return the JSON: with one file its sizes and output at the top level, with several the sums over them."""
    files = [outcome.to_json() for outcome in outcomes]
    only = files[0] if len(files) == 1 else {}
    stages = ("decode", "upscale", "encode", "total")
    seconds = {stage: round(sum(getattr(o.seconds, stage) for o in outcomes), 4) for stage in stages}
    frames = sum(outcome.frames for outcome in outcomes)
    made = frames - sum(outcome.earlier_frames for outcome in outcomes)
    return {
        "frames": frames,
        "seconds": seconds,
        "fps": round(made / seconds["total"], 4) if seconds["total"] else 0.0,
        "backend": backend,
        **{name: only.get(name) for name in ("scale", "input_size", "output_size", "output")},
        "partial": any(outcome.partial for outcome in outcomes),
        "files": files,
        "failed": [{"input": str(path), "error": str(error)} for path, error in failures],
        "kept": [str(path) for path in kept],
    }
