"""``overnet run`` and ``overnet-run``: upscale images and videos."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer import Argument

from overnet.cli.common import command, converted_model, print_error, print_status
from overnet.cli.options import (
    OUTPUT,
    SIZE,
    JsonOption,
    OverwriteOption,
    QuietOption,
    among,
    check_range,
    parse_time,
    under,
)
from overnet.cli.progress import ProgressDisplay
from overnet.cli.run.cluster import ClusterOption, check_cluster, cluster_run
from overnet.cli.run.files import ImageOptions, default_output, plan_files
from overnet.cli.run.segments import show_estimate, show_status
from overnet.cli.run.stream_options import StreamOptions, StreamRun
from overnet.cli.run.upscaling import UpscalerOptions, upscaler_maker
from overnet.errors import InputError, InterruptedRun, OverNetError, naming_failures, printable
from overnet.words import counted

if TYPE_CHECKING:
    from overnet.runtime.cluster.run import ClusterRun
    from overnet.runtime.plan import Plan
    from overnet.runtime.upscale_file import LocalRun, Outcome

_VIDEOS = under("Videos")
# An input that could not be upscaled, and why.
Failure: TypeAlias = tuple[Path, OverNetError]


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
        OUTPUT(
            "--output",
            "-o",
            metavar="PATH",
            help="File or folder to write; - for standard output; live video also to rtsp://… or 'gst:PIPELINE'. "
            "Default: beside the input, as photo_x2.jpg.",
        ),
    ] = None,
    *,
    scale: Annotated[
        float | None,
        SIZE(
            metavar="FACTOR",
            help="1 to 64, fractions too. Default: the model's own, or 2.",
            autocompletion=among("2", "3", "4"),
        ),
    ] = None,
    upscaling: UpscalerOptions,
    fps: Annotated[
        str | None,
        _VIDEOS(
            metavar="FPS",
            help="Choose the best bundled model that holds this many frames a second here, measured for two "
            "seconds. Default of live sources without --model: their own.",
        ),
    ] = None,
    frames: Annotated[int | None, _VIDEOS(metavar="N", help="Stop after this number of frames.")] = None,
    start: Annotated[
        float,
        _VIDEOS(metavar="TIME", parser=parse_time, show_default=False, help="Where to begin: 90, 1:30 or 1:02:03.5."),
    ] = 0.0,
    codec: Annotated[
        str | None,
        _VIDEOS(
            metavar="NAME",
            help="h264, hevc, vp9, av1, or an encoder of FFmpeg.",
            autocompletion=among("h264", "hevc", "vp9", "av1"),
        ),
    ] = None,
    crf: Annotated[int | None, _VIDEOS(metavar="N", help="Constant rate factor; lower is better.")] = None,
    resume: Annotated[
        bool,
        _VIDEOS(
            "--resume/--no-resume",
            help="For more than about 30 s of work: write segments beside the output, so that the same command "
            "goes on where a run was cut off; or write in one pass.",
        ),
    ] = True,
    status: Annotated[
        Path | None,
        _VIDEOS(metavar="OUTPUT", callback=show_status, is_eager=True, help="Tell how far a video is, and exit."),
    ] = None,
    cluster: ClusterOption = None,
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
    from overnet.runtime.upscale_file import LocalRun, VideoOptions, upscale_video

    images.check()
    check_range("--frames", frames, 1)
    if sum(each is not None for each in (scale, upscaling.height, upscaling.width)) > 1:
        raise typer.BadParameter("--scale, --height and --width exclude each other")
    video = VideoOptions(start, frames, codec, crf, cutting=Cutting(is_wanted=resume))
    display = ProgressDisplay(quiet=quiet)
    upscaling = replace(upscaling, model=converted_model(upscaling.model, display.announce, quiet=quiet))
    is_live = source is not None and source.is_live
    target = None if output is None else parse_address(output) or Path(output)
    is_files = source is None and (target is None or isinstance(target, Path))
    if cluster is not None:
        check_cluster(upscaling, fps=fps, resume=resume, has_stream=not is_files)
    make_upscaler = upscaler_maker(upscaling, scale, fps, display, is_live=is_live)
    writes_stdout = False
    if is_files:
        stream.refuse("for cameras, streams and pipes, and there is none")
        if output is None:
            output = default_output(inputs, upscaling, scale, images)
        plan = plan_files(inputs, output, video, images, only_videos=fps is not None, overwrite=overwrite, quiet=quiet)
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
    machines: LocalRun | ClusterRun
    if cluster is None:
        with display:
            machines = LocalRun(make_upscaler(), upscale, overwrite, images.quality, start)
    else:
        machines = cluster_run(cluster, plan, upscaling, scale, video, images.quality, estimate, overwrite=overwrite)
    with machines:
        outcomes, failures = _run_jobs(plan, machines, display)
    report = _report(outcomes, failures, plan.kept, backend=machines.backend_name)
    _conclude(report if as_json else None, outcomes, failures, plan, on_stderr=writes_stdout)


def _conclude(
    report: dict[str, Any] | None, outcomes: list[Outcome], failures: list[Failure], plan: Plan, *, on_stderr: bool
) -> None:
    """Print the report, and end with the exit code of a run that failed or was ended early."""
    if report is not None:
        typer.echo(json.dumps(report), err=on_stderr)
    ended_early = outcomes and outcomes[-1].is_last and outcomes[-1].input != plan.jobs[-1].source
    if ended_early or any(outcome.partial for outcome in outcomes):
        raise InterruptedRun
    if failures:
        raise typer.Exit(1)


def _run_jobs(
    plan: Plan, machines: LocalRun | ClusterRun, display: ProgressDisplay
) -> tuple[list[Outcome], list[Failure]]:
    """Upscale one file after another, until Ctrl-C; an error in one of several is reported."""
    from overnet.files.atomic import ExistsAlreadyError

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
                if job.kind == "video":
                    outcome = machines.video(job, on_frame=display.frames(printable(job.source.name)))
                else:
                    outcome = machines.image(job)
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


def _summary(outcome: Outcome) -> str:
    width, height = outcome.output_size
    if outcome.kind != "video":
        return f"{outcome.output}: {width}x{height}, {outcome.seconds.total:.2f} s ({outcome.backend})"
    if outcome.output is None:
        return "interrupted before the first frame: nothing was written"
    done = f"{counted(outcome.frames, 'frame')}, {outcome.frames_per_second:.2f} fps ({outcome.backend})"
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
