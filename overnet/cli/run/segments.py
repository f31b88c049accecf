"""What ``overnet run`` says about long videos: the estimate before the work, and how far an unfinished one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from overnet.cli.common import print_status
from overnet.errors import InputError, printable
from overnet.words import counted, duration

if TYPE_CHECKING:
    from overnet.runtime.segments.estimate import Estimate

_LONG_SECONDS = 600.0
_BUNDLED = ("best", "fast", "realtime")  # each faster than those before it


def show_estimate(estimate: Estimate, *, model: Path | None, names_model: bool, quiet: bool) -> None:
    """Print one line on how long a video takes and which disk space it needs, where it takes more than ten minutes.

    Args:
        estimate: the estimate.
        model: the model in use, as given on the command line.
        names_model: whether a faster model can be chosen in its place.
        quiet: print nothing.
    """
    if estimate.seconds <= _LONG_SECONDS:
        return
    name = "best" if model is None else str(model)
    faster = _BUNDLED[_BUNDLED.index(name) + 1 :] if name in _BUNDLED else _BUNDLED[-1:]
    hint = f"; --model {' or '.join(faster)} is faster" if faster and names_model else ""
    needed, free = (_size(size) for size in (estimate.needed_bytes, estimate.free_bytes))
    scarce = " (too little)" if estimate.needed_bytes > estimate.free_bytes else ""
    print_status(
        f"about {duration(estimate.seconds)} at {estimate.frames_per_second:.2g} frames/s; about {needed} of disk are "
        f"needed and {free} are free{scarce}{hint}",
        quiet=quiet,
    )


def show_status(output: Path | None) -> None:
    """Print how far the unfinished video of an output is, and end the program.

    Raises:
        InputError: there is neither an unfinished nor a finished one.
        OutputError: the manifest is damaged.
    """
    if output is None:
        return
    from overnet.runtime.segments.folder import folder_of
    from overnet.runtime.segments.status import read_status

    status = read_status(output)
    if status is None:
        if not output.is_file():
            raise InputError(f"{printable(output)}: there is no result, and no unfinished run of it in segments")
        folder = folder_of(output)
        left = f"; {printable(folder)} is left of a run that was killed, and the next run with this output removes it"
        typer.echo(f"{printable(output)} is complete{left if folder.is_dir() else ''}")
        raise typer.Exit
    of = f" of {'' if status.is_exact else 'about '}{counted(status.frames, 'frame')}" if status.frames else ""
    done = f"{status.done_frames}{of}" if of else counted(status.done_frames, "frame")
    share = f" ({status.done_frames / status.frames:.0%})" if status.frames else ""
    rate = f", {status.frames_per_second:.3g} frames/s" if status.frames_per_second else ""
    left = "" if status.left_seconds is None else f", about {duration(status.left_seconds)} left"
    state = {
        True: "a run is at work on it",
        False: "no run is at work on it: the same command goes on",
        None: "whether a run is at work on it cannot be seen",
    }[status.is_running]
    segments = f"{counted(status.segments, 'segment')}"
    typer.echo(f"{printable(output)}: {done}{share} in {segments}{rate}{left}; {state}")
    raise typer.Exit


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
