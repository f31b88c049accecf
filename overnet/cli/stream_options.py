"""What ``overnet run`` is told of inputs and outputs that are no files: cameras, network streams, GStreamer, pipes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overnet.errors import InputError

if TYPE_CHECKING:
    from overnet.runtime.live.addresses import Address
    from overnet.runtime.upscale_file import VideoOptions
    from overnet.runtime.upscaler import Upscaler
    from overnet.runtime.video.stdio import PipeOutput

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")

ShowOption = Annotated[
    bool, typer.Option("--show", help="Live: show the results in a window, with fps and latency; q ends.")
]
DurationOption = Annotated[float | None, typer.Option(metavar="SECONDS", help="Live: stop after so long.")]
HardwareOption = Annotated[
    str | None, typer.Option(help="Live: a Jetson's decoder and encoder: auto (the default), on or off.")
]
CameraSizeOption = Annotated[
    str | None, typer.Option(metavar="WIDTHxHEIGHT", help="camera: and csi: the size to ask for.")
]
CameraRateOption = Annotated[str | None, typer.Option(metavar="FPS", help="camera: and csi: frames a second.")]
TransportOption = Annotated[str | None, typer.Option(help="RTSP: tcp (the default) or udp.")]
AttemptsOption = Annotated[
    int | None, typer.Option(help="Live: how often in a row to connect again. Default: without end.")
]
RawOption = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Input -: it is headerless video.")]
RateOption = Annotated[str | None, typer.Option(metavar="FPS", help="With --raw: frames a second. Default: 25.")]
PixelFormatOption = Annotated[str | None, typer.Option(help="Of raw video, in and out: FFmpeg's name. Default: rgb24.")]
OutputFormatOption = Annotated[
    str | None, typer.Option(help="Output -: y4m (the default), raw, or matroska, which keeps times and colours.")
]


@dataclass(frozen=True)
class StreamOptions:
    """The options for what is no file, as they were given; None where they were not."""

    show: bool = False
    duration: float | None = None
    hardware: str | None = None
    camera_size: str | None = None
    camera_rate: str | None = None
    rtsp_transport: str | None = None
    reconnect_attempts: int | None = None
    raw: str | None = None
    rate: str | None = None
    pixel_format: str | None = None
    output_format: str | None = None

    def given(self) -> set[str]:
        """The names of those that were given."""
        return {field.name for field in fields(self) if getattr(self, field.name) not in (None, False)}

    def refuse_all(self) -> None:
        """Refuse all of them, in a run of files.

        Raises:
            typer.BadParameter: one was given.
        """
        self.refuse(self.given(), "for cameras, streams and pipes, and there is none")

    def refuse(self, names: set[str], why: str) -> None:
        """Refuse options that would have no effect.

        Raises:
            typer.BadParameter: one of these was given.
        """
        useless = sorted(self.given() & names)
        if useless:
            listed = " and ".join(f"--{name.replace('_', '-')}" for name in useless)
            raise typer.BadParameter(f"{listed}: {why}")


LIVE_ONLY = {"show", "duration", "hardware", "camera_size", "camera_rate", "rtsp_transport", "reconnect_attempts"}
RAW_ONLY = {"raw", "rate"}


@dataclass(frozen=True)
class StreamRun:
    """A run whose input or output is no file: the command line, read.

    Args:
        source, target: an address, or a file; no target for what is only shown.
        options: those for streams.
        video: those for videos.
        make_upscaler: loads the model.
        overwrite, as_json, quiet: as on the command line.
    """

    source: Address | Path
    target: Address | Path | None
    options: StreamOptions
    video: VideoOptions
    make_upscaler: Callable[[], Upscaler]
    overwrite: bool
    as_json: bool
    quiet: bool

    @property
    def is_live(self) -> bool:
        """Whether frames come by themselves."""
        return not isinstance(self.source, Path) and self.source.is_live

    @property
    def source_name(self) -> str:
        """The source as it may be shown."""
        return str(self.source) if isinstance(self.source, Path) else self.source.name

    @property
    def writes_stdout(self) -> bool:
        """Whether the result is what goes to standard output."""
        return not isinstance(self.target, Path) and self.target is not None and self.target.kind == "pipe"


def find_stream(inputs: list[str], output: str | None, **settings: Any) -> StreamRun | None:
    """The run, where its input or output is no file; None where all are.

    Args:
        inputs, output: as on the command line.
        settings: the rest of a `StreamRun`.

    Raises:
        InputError: an address is wrong, or there are several inputs and not all are files.
    """
    from overnet.runtime.live.addresses import parse_address

    source = next(filter(None, map(parse_address, inputs)), None)
    target = None if output is None else parse_address(output) or Path(output)
    if source is None and (target is None or isinstance(target, Path)):
        return None
    if len(inputs) > 1:
        raise InputError("several inputs at once have to be files: start one run for each camera, stream or pipe")
    return StreamRun(source or Path(inputs[0]), target, **settings)


def prepare_window(inputs: list[str], *, show: bool) -> None:
    """Make ready for the window, if one is to show a live source.

    Raises:
        InputError: an address is wrong.
        BackendError: there can be no window.
    """
    from overnet.runtime.live.addresses import parse_address

    if show and any(address is not None and address.is_live for address in map(parse_address, inputs)):
        from overnet.runtime.live.preview import prepare_display

        prepare_display()


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Width and height of ``640x480``.

    Raises:
        InputError: it is something else.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InputError(f"{option} is {text!r}; it is a width and a height in pixels, such as 640x480")
    return int(found[1]), int(found[2])


def parse_rate(option: str, text: str) -> Fraction:
    """Frames a second, such as ``25``, ``29.97`` or ``30000/1001``.

    Raises:
        InputError: it is something else, or out of range.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise InputError(f"{option} is {text!r}; it is a number of frames a second, such as 25 or 30000/1001")
    return rate


def parse_choice(option: str, text: str | None, choices: tuple[str, ...]) -> Any:
    """One of the choices, of which the first is the default.

    Raises:
        InputError: it is none of them.
    """
    if text is None:
        return choices[0]
    if text not in choices:
        raise InputError(f"{option} is {text!r}; it is one of {', '.join(choices)}")
    return text


def pipe_format(options: StreamOptions) -> tuple[Any, str]:
    """What standard output gets, and the pixel format of raw video.

    Raises:
        InputError: no such format.
    """
    from overnet.runtime.video.raw import check_pixel_format

    pixel_format = options.pixel_format or "rgb24"
    check_pixel_format(pixel_format)
    return parse_choice("--output-format", options.output_format, ("y4m", "raw", "matroska")), pixel_format


def take_output(run: StreamRun) -> PipeOutput:
    """Take standard output for the result.

    Raises:
        OutputError: it is a terminal, or closed.
        typer.BadParameter: options that have no effect on what is written there.
    """
    from overnet.runtime.video.stdio import take_stdout

    is_encoded = run.options.output_format == "matroska"
    if not is_encoded and (run.video.codec is not None or run.video.crf is not None):
        raise typer.BadParameter("--codec and --crf: what goes to standard output is not encoded")
    return take_stdout()


def report_json(run: StreamRun, line: str) -> None:
    """Print the line of JSON: on stderr where stdout is the video."""
    if run.as_json:
        typer.echo(line, err=run.writes_stdout)
