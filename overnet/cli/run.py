"""``overnet run``, which is ``overnet-run``: upscales images and videos."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overnet.cli.common import interruptible, print_error, print_status
from overnet.cli.progress import ProgressDisplay
from overnet.cli.stream_options import (
    AttemptsOption,
    CameraRateOption,
    CameraSizeOption,
    DurationOption,
    HardwareOption,
    OutputFormatOption,
    PixelFormatOption,
    RateOption,
    RawOption,
    ShowOption,
    StreamOptions,
    TransportOption,
    find_stream,
    prepare_window,
)
from overnet.errors import InterruptedRun, OverNetError

if TYPE_CHECKING:
    from overnet.runtime.plan import Job, Plan
    from overnet.runtime.upscale_file import Outcome, VideoOptions
    from overnet.runtime.upscaler import Upscaler


def _ordinal(text: str | int) -> int:
    """The number of a GPU, which PyTorch writes as ``cuda:1``; Typer hands over the default too, a number already."""
    number = str(text).removeprefix("cuda:")
    if not number.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number of a GPU, such as 1 or cuda:1")
    return int(number)


@interruptible
def run_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Images, videos, or folders of them; or one of: camera:0, csi:0, rtsp://…, http://…, udp://…, "
            "'gst:PIPELINE', and - for standard input.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="The file, or the folder, to write; - for standard output; of live video also rtsp://… or "
            "'gst:PIPELINE'.",
        ),
    ] = None,
    *,
    scale: Annotated[
        float | None, typer.Option(help="Factor, fractions allowed. Default: the model's own, or 2.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Instead of a scale: the result's height in pixels.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="ONNX file, folder of them, or checkpoint. Default: the bundled one.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, openvino, onnxruntime, torch, tensorrt or tensorrt-rtx.")
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16, bf16 or int8, as far as the backend has it. Default: its usual one."),
    ] = None,
    device: Annotated[
        int,
        typer.Option(
            metavar="N", parser=_ordinal, help="Which GPU, counted from 0 among those CUDA_VISIBLE_DEVICES leaves."
        ),
    ] = 0,
    provider: Annotated[
        str, typer.Option(help="With --backend onnxruntime: cpu, cuda, tensorrt or tensorrt-rtx.")
    ] = "cpu",
    slots: Annotated[int, typer.Option(help="Frames that are on their way on a GPU at once, 1 to 16.")] = 3,
    zero_copy: Annotated[
        bool | None,
        typer.Option(
            "--zero-copy/--no-zero-copy",
            help="Have the GPU work on the host's memory itself. Default: where both share it, as on a Jetson.",
        ),
    ] = None,
    cuda_graphs: Annotated[
        bool,
        typer.Option("--cuda-graphs/--no-cuda-graphs", help="Replay the GPU's work for a frame as one graph."),
    ] = True,
    tile: Annotated[
        int | None,
        typer.Option(help="Tile size in input pixels; 0: never cut. Default: as large as memory allows."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to compute with. Default: one a core.")] = None,
    frames: Annotated[int | None, typer.Option(help="Videos: stop after so many frames.")] = None,
    start: Annotated[float, typer.Option(metavar="SECONDS", help="Videos: where to begin.")] = 0.0,
    codec: Annotated[str | None, typer.Option(help="Videos: h264, hevc, vp9, av1, or FFmpeg's encoder name.")] = None,
    crf: Annotated[int | None, typer.Option(help="Videos: quality, lower is better.")] = None,
    show: ShowOption = False,
    duration: DurationOption = None,
    hardware: HardwareOption = None,
    camera_size: CameraSizeOption = None,
    camera_rate: CameraRateOption = None,
    rtsp_transport: TransportOption = None,
    reconnect_attempts: AttemptsOption = None,
    raw: RawOption = None,
    rate: RateOption = None,
    pixel_format: PixelFormatOption = None,
    output_format: OutputFormatOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Upscale images and videos.

    Sound, subtitles, timestamps, colour, EXIF and ICC profiles are kept. Ctrl-C leaves a playable video of what is
    done, marked as partial.

    Of live video the newest frame is upscaled, and those that come meanwhile are dropped and counted; what was lost is
    connected to again; and Ctrl-C is the normal end. Through a pipe every frame goes, in order.
    """
    # Before anything that imports PyAV.
    prepare_window(inputs, show=show)
    from overnet.runtime.plan import Plan
    from overnet.runtime.upscale_file import VideoOptions
    from overnet.runtime.upscaler import Upscaler

    if scale is not None and height is not None:
        raise typer.BadParameter("--scale and --height exclude each other")
    display = ProgressDisplay(quiet=quiet)
    options = VideoOptions(start_seconds=start, max_frames=frames, codec=codec, crf=crf)
    make_upscaler = functools.partial(
        Upscaler,
        _default_scale(model, height) if scale is None else scale,
        height=height,
        model=model,
        backend=backend,
        precision=precision,
        tile=tile,
        threads=threads,
        device=device,
        provider=provider,
        slots=slots,
        zero_copy=zero_copy,
        cuda_graphs=cuda_graphs,
        on_progress=display.announce,
    )
    stream_options = StreamOptions(
        show=show,
        duration=duration,
        hardware=hardware,
        camera_size=camera_size,
        camera_rate=camera_rate,
        rtsp_transport=rtsp_transport,
        reconnect_attempts=reconnect_attempts,
        raw=raw,
        rate=rate,
        pixel_format=pixel_format,
        output_format=output_format,
    )
    stream = find_stream(
        inputs,
        output,
        options=stream_options,
        video=options,
        make_upscaler=make_upscaler,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
    if stream is None:
        stream_options.refuse_all()
        plan, upscale = _plan_files(inputs, output, options, overwrite=overwrite, quiet=quiet), None
    elif stream.is_live:
        from overnet.cli.run_live import run_live_command

        run_live_command(stream)
        return
    else:
        from overnet.cli.run_pipe import PipeRun

        pipe = PipeRun(stream)
        plan, upscale = Plan([pipe.job], []), pipe.upscale
    with display:
        upscaler = make_upscaler()
    outcomes: list[Outcome] = []
    failures: list[tuple[Path, OverNetError]] = []
    for job in plan.jobs:
        try:
            with display:
                outcome = _run_job(job, upscaler, options, overwrite=overwrite, display=display, upscale=upscale)
        except OverNetError as error:
            if len(plan.jobs) + len(plan.kept) == 1:
                raise
            # One broken file among many does not keep the others waiting.
            print_error(error)
            failures.append((job.source, error))
            continue
        outcomes.append(outcome)
        print_status(_summary(outcome), quiet=quiet)
        for note in outcome.notes:
            print_status(f"  note: {note}", quiet=quiet)
        if outcome.partial:
            break
    if as_json:
        # Standard output may be the video.
        in_video = stream is not None and stream.writes_stdout
        typer.echo(json.dumps(_report(outcomes, failures, plan.kept, backend=upscaler.backend_name)), err=in_video)
    if any(outcome.partial for outcome in outcomes):
        raise typer.Exit(InterruptedRun.exit_code)
    if failures:
        raise typer.Exit(1)


def _plan_files(inputs: list[str], output: str | None, video: VideoOptions, *, overwrite: bool, quiet: bool) -> Plan:
    """Decide which file becomes which."""
    from overnet.runtime.plan import make_plan

    if output is None:
        raise typer.BadParameter("--output / -o is missing: the file, or the folder, to write")
    plan = make_plan([Path(text) for text in inputs], Path(output), overwrite=overwrite)
    for path in plan.kept:
        print_status(f"{path}: exists already and is kept (--overwrite replaces it)", quiet=quiet)
    videos = any(job.kind == "video" for job in plan.jobs)
    if plan.jobs and not videos and video != type(video)():
        raise typer.BadParameter("--frames, --start, --codec and --crf are for videos, and there is none")
    return plan


def _default_scale(model: Path | None, height: int | None) -> float:
    """An ONNX file's or an engine's own scale; 2 where there is a choice of scales."""
    from overnet.evaluation.model_choice import describe

    # Of a file that is not there, the upscaler says so.
    if model is not None and height is None and model.suffix.lower() in (".onnx", ".engine") and model.exists():
        artifact = describe(model)
        if artifact is not None:
            return artifact.scale
    return 2


def _run_job(
    job: Job,
    upscaler: Upscaler,
    options: VideoOptions,
    *,
    overwrite: bool,
    display: ProgressDisplay,
    upscale: Callable[..., Outcome] | None,
) -> Outcome:
    """Upscale one file, or by `upscale` what goes through a pipe."""
    from overnet.files.atomic import printable
    from overnet.runtime.upscale_file import upscale_image, upscale_video

    if job.kind == "image":
        return upscale_image(job, upscaler, overwrite=overwrite)

    upscale = upscale or functools.partial(upscale_video, job, options=options, overwrite=overwrite)
    return upscale(upscaler=upscaler, on_frame=display.frames(printable(job.source.name)))


def _summary(outcome: Outcome) -> str:
    width, height = outcome.output_size
    if outcome.kind == "image":
        return f"{outcome.output}: {width}x{height}, {outcome.seconds.total:.2f} s ({outcome.backend})"
    done = f"{outcome.frames} frames, {outcome.frames_per_second:.2f} fps ({outcome.backend})"
    if outcome.output is None:
        return "interrupted before the first frame: nothing was written"
    return f"{'interrupted: ' if outcome.partial else ''}{outcome.output}: {width}x{height}, {done}"


def _report(
    outcomes: list[Outcome], failures: list[tuple[Path, OverNetError]], kept: list[Path], *, backend: str
) -> dict[str, Any]:
    """The line of JSON: one file's figures at the top level when there is one, sums over all when there are more."""
    files = [outcome.to_json() for outcome in outcomes]
    only = files[0] if len(files) == 1 else {}
    stages = ("decode", "upscale", "encode", "total")
    seconds = {stage: round(sum(getattr(o.seconds, stage) for o in outcomes), 4) for stage in stages}
    frames = sum(outcome.frames for outcome in outcomes)
    return {
        "frames": frames,
        "seconds": seconds,
        "fps": round(frames / seconds["total"], 4) if seconds["total"] else 0.0,
        "backend": backend,
        "scale": only.get("scale"),
        "input_size": only.get("input_size"),
        "output_size": only.get("output_size"),
        "output": only.get("output"),
        "partial": any(outcome.partial for outcome in outcomes),
        "files": files,
        "failed": [{"input": str(path), "error": str(error)} for path, error in failures],
        "kept": [str(path) for path in kept],
    }
