"""The options of ``overnet run`` for cameras, network streams, GStreamer and pipes, and checks of their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overnet.cli.options import among, check_choice, under
from overnet.errors import InputError

if TYPE_CHECKING:
    from overnet.runtime.container.stdio import PipeOutput
    from overnet.runtime.live.addresses import Address
    from overnet.runtime.upscale_file import VideoOptions
    from overnet.runtime.upscaler import Upscaler

_LIVE, _PIPES = under("Live video"), under("Pipes")
_SWITCH, _TRANSPORTS = among("auto", "on", "off"), among("tcp", "udp")
LIVE_ONLY = {"show", "duration", "hardware", "camera_size", "camera_rate", "rtsp_transport", "reconnect_attempts"}
RAW_ONLY = {"raw", "rate"}


@dataclass(frozen=True)
class StreamOptions:
    """Options that are not for files, as given on the command line; None or False where they were not given."""

    show: Annotated[bool, _LIVE("--show", help="Show the results in a window, with fps and latency; q closes it.")] = (
        False
    )
    duration: Annotated[float | None, _LIVE(metavar="SECONDS", help="Stop after this time. Default: no limit.")] = None
    hardware: Annotated[
        str | None,
        _LIVE(
            metavar="WHEN",
            help="Use a Jetson's decoder and encoder: auto (default), on or off.",
            autocompletion=_SWITCH,
        ),
    ] = None
    camera_size: Annotated[
        str | None, _LIVE(metavar="WIDTHxHEIGHT", help="camera: and csi: frame size to request, in pixels.")
    ] = None
    camera_rate: Annotated[str | None, _LIVE(metavar="FPS", help="camera: and csi: frames per second to request.")] = (
        None
    )
    rtsp_transport: Annotated[
        str | None, _LIVE(metavar="NAME", help="RTSP: tcp (default) or udp.", autocompletion=_TRANSPORTS)
    ] = None
    reconnect_attempts: Annotated[
        int | None, _LIVE(metavar="N", help="Reconnections in a row before giving up. Default: no limit.")
    ] = None
    raw: Annotated[
        str | None,
        _PIPES(metavar="WIDTHxHEIGHT", help="Standard input is raw video without a header, of this frame size."),
    ] = None
    rate: Annotated[
        str | None, _PIPES(metavar="FPS", help="With --raw: frames per second, at most 1000. Default: 25.")
    ] = None
    pixel_format: Annotated[
        str | None,
        _PIPES(metavar="NAME", help="Pixel format of raw input and output, by FFmpeg's name. Default: rgb24."),
    ] = None
    output_format: Annotated[
        str | None,
        _PIPES(
            metavar="NAME",
            help="Format on standard output: y4m (default), raw, or matroska, which keeps times and colours.",
            autocompletion=among("y4m", "raw", "matroska"),
        ),
    ] = None

    def refuse(self, why: str, names: set[str] | None = None) -> None:
        """Refuse options that would have no effect.

        Args:
            why: why they have none.
            names: the options' names; None for all of them.

        Raises:
            typer.BadParameter: at least one of these was given.
        """
        given = {field.name for field in fields(self) if getattr(self, field.name) not in (None, False)}
        useless = sorted(given if names is None else given & names)
        if useless:
            raise typer.BadParameter(f"{' and '.join('--' + name.replace('_', '-') for name in useless)}: {why}")

    def pipe_format(self) -> tuple[Any, str]:
        """Return the format of standard output, and the pixel format of raw video.

        Raises:
            InputError: raw video cannot be written in the pixel format.
            typer.BadParameter: there is no such format.
        """
        from overnet.runtime.video.raw import check_pixel_format

        pixel_format = self.pixel_format or "rgb24"
        output_format = self.output_format or "y4m"
        check_choice("--output-format", output_format, ("y4m", "raw", "matroska"))
        if output_format == "raw":
            check_pixel_format(pixel_format, is_output=True)
        return output_format, pixel_format


@dataclass(frozen=True)
class StreamRun:
    """A run whose input or output is not a file.

    Attributes:
        source: an address or a file.
        target: an address or a file; None for results that are only shown.
        make_upscaler: loads the model.
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
    def source_name(self) -> str:
        """The source without passwords."""
        return str(self.source) if isinstance(self.source, Path) else self.source.name

    @property
    def writes_stdout(self) -> bool:
        """Whether the result goes to standard output."""
        return not isinstance(self.target, Path) and self.target is not None and self.target.kind == "pipe"

    def take_stdout(self) -> PipeOutput:
        """Take standard output for the result.

        Raises:
            OutputError: it is a terminal, or closed.
            typer.BadParameter: an option has no effect on what is written there.
        """
        from overnet.runtime.container.stdio import take_stdout

        encodes = self.options.output_format == "matroska"
        if not encodes and (self.video.codec is not None or self.video.crf is not None):
            raise typer.BadParameter("--codec and --crf: video on standard output is not encoded")
        return take_stdout()


def parse_rate(option: str, text: str) -> Fraction:
    """Return frames per second of a text such as ``25``, ``29.97`` or ``30000/1001``.

    Raises:
        InputError: it is not a number, or not above 0 and at most 1000.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise InputError(f"{option} is {text!r}; it must be a number of frames per second, such as 25 or 30000/1001")
    return rate
