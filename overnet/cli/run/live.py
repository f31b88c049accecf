"""The part of ``overnet run`` for cameras, network streams and GStreamer."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from overnet.cli.common import print_error, print_status
from overnet.cli.options import check_choice, check_range, parse_size
from overnet.cli.progress import ProgressDisplay
from overnet.cli.run.stream_options import RAW_ONLY, StreamRun, parse_rate
from overnet.errors import OutputError

if TYPE_CHECKING:
    from overnet.runtime.live.open import LiveSink
    from overnet.runtime.live.run import LiveOutcome

_SHORTEST_SECONDS = 0.001


def run_live_command(run: StreamRun, display: ProgressDisplay) -> None:
    """Upscale a live source until it ends, and report.

    Raises:
        OverNetError: see `overnet.runtime.live.run.run_live`.
        typer.BadParameter: an option is out of range, or excludes another.
    """
    from overnet.runtime.live.open import SourceOptions, open_live_source
    from overnet.runtime.live.preview import PreviewWindow
    from overnet.runtime.live.run import LiveLimits, run_live

    options = run.options
    assert not isinstance(run.source, Path)
    options.refuse("only for standard input, and the input is live", RAW_ONLY)
    if run.video.start_seconds:
        raise typer.BadParameter("--start: live video begins now")
    if run.target is None and not options.show:
        raise typer.BadParameter("--output / -o or --show is missing: the results would be lost")
    check_range("--duration", options.duration, _SHORTEST_SECONDS)
    check_range("--reconnect-attempts", options.reconnect_attempts, 0)
    transport = options.rtsp_transport or "tcp"
    hardware: Any = options.hardware or "auto"
    check_choice("--rtsp-transport", transport, ("tcp", "udp"))
    check_choice("--hardware", hardware, ("auto", "on", "off"))
    source = open_live_source(
        run.source,
        SourceOptions(
            camera_size=None if options.camera_size is None else parse_size("--camera-size", options.camera_size),
            camera_rate=None if options.camera_rate is None else parse_rate("--camera-rate", options.camera_rate),
            transport=transport,
            attempts=options.reconnect_attempts,
            hardware=hardware,
        ),
        lambda line: print_error(line) if not run.quiet else None,
    )
    sink = _live_sink(run, transport=transport, hardware=hardware)
    with contextlib.ExitStack() as stack:
        if sink is not None and sink.pipe is not None:
            stack.callback(sink.pipe.close)
        upscaler = stack.enter_context(run.make_upscaler())
        preview = stack.enter_context(PreviewWindow(f"OverNet: {run.source.name}")) if options.show else None
        with display:
            outcome = run_live(
                source,
                upscaler,
                None if sink is None else sink.open,
                preview=preview,
                limits=LiveLimits(options.duration, run.video.max_frames),
                on_status=display.live(),
            )
        backend = upscaler.backend_name
    _report(run, outcome, backend)
    if outcome.lost is not None:
        raise outcome.lost


def _live_sink(run: StreamRun, *, transport: str, hardware: Any) -> LiveSink | None:
    from overnet.files.atomic import ensure_folder
    from overnet.runtime.live.open import LiveSink
    from overnet.runtime.video.formats import Encoding
    from overnet.runtime.video.writer import check_target

    target = run.target
    if target is None:
        return None
    if not run.writes_stdout:
        run.options.refuse("only for standard output, and the output is another", {"output_format", "pixel_format"})
    if isinstance(target, Path):
        check_target(target, overwrite=run.overwrite)
        ensure_folder(target.parent)
    elif target.kind == "network" and target.scheme not in ("rtsp", "rtsps"):
        raise OutputError(f"{target.name}: results can be sent to rtsp://…; use gst: or a pipe to ffmpeg for others")
    elif target.kind in ("camera", "csi"):
        raise OutputError(f"{target.name} is a camera: nothing can be written to it")
    pipe_format, pixel_format = run.options.pipe_format()
    sink = LiveSink(
        target,
        pipe=run.take_stdout() if run.writes_stdout else None,
        pipe_format=pipe_format,
        pixel_format=pixel_format,
        encoding=Encoding(run.video.codec, run.video.crf),
        overwrite=run.overwrite,
        hardware=hardware,
        transport=transport,
    )
    sink.check()
    return sink


def _report(run: StreamRun, outcome: LiveOutcome, backend: str) -> None:
    report = outcome.report
    output = outcome.output
    if output is not None and run.target is not None and not isinstance(run.target, Path):
        output = run.target.name  # a server's address; a file's name may differ from the target's
    latency = report.latency.to_json()
    size = "" if report.output_size is None else "{}x{}, ".format(*report.output_size)
    again = f", {report.reconnections} reconnections" if report.reconnections else ""
    print_status(
        f"{output or run.source_name}: {size}{report.frames} frames, {report.frames_per_second:.2f} fps "
        f"({backend}), {report.dropped} dropped{again}, latency {latency['p50']:.0f} ms (95 %: {latency['p95']:.0f}, "
        f"max: {latency['max']:.0f})",
        quiet=run.quiet,
    )
    for note in report.notes:
        print_status(f"  note: {note}", quiet=run.quiet)
    if run.as_json:
        figures = {
            **report.to_json(),
            "input": run.source_name,
            "output": output,
            "backend": backend,
            "partial": False,
            "error": None if outcome.lost is None else str(outcome.lost),
        }
        typer.echo(json.dumps(figures), err=run.writes_stdout)
