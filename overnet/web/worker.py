"""The process that reads files or upscales for the page, one job after another; ``python -m overnet.web.worker``.

A process of its own can be ended while it computes, and a file that crashes a library ends no more than its own job.
Requests and messages are lines of JSON, see `overnet.web.jobs`.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil

from overnet.errors import OverNetError, line_for
from overnet.runtime.pipeline import PipelineReport
from overnet.runtime.plan import Job
from overnet.runtime.upscale_file import Outcome, VideoOptions, upscale_image, upscale_video
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.frame import Frame
from overnet.system.memory import available_memory_bytes
from overnet.web.source import check_length, read_source, shown_image, write_frame

_PROGRESS_SECONDS = 0.2


def main() -> None:
    """Run the jobs that are requested on standard input, until it ends."""
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    working = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if "cancel" not in request:
                requests.put(request)
            elif working.is_set():
                signal.raise_signal(signal.SIGINT)  # what Ctrl-C does in `overnet-run`
        os._exit(0)  # the server has ended

    # While a video is upscaled, the signal is noted there. One that comes later would end this process, or spoil the
    # message of the result, from which the next job begins.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    threading.Thread(target=read, name="overnet-requests", daemon=True).start()
    with suppress(OSError):
        # Where the machine runs out of memory, Linux ends this process first, and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    worker = _Worker()
    while True:
        request = requests.get()
        working.set()
        _send({"doing": "starting"})  # by which the server knows that the request has arrived
        try:
            _send(worker.run(request))
        except Exception as error:
            line = str(error) if isinstance(error, OverNetError) else line_for(error)
            if line is None:
                raise
            _send({"error": line})
        finally:
            working.clear()


class _Worker:
    """The upscaler of the last job, which is kept for the next, and the running of jobs."""

    def __init__(self) -> None:
        self._upscaler: Upscaler | None = None
        self._made_with: dict[str, Any] = {}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one job, and return the message on its result."""
        job = Job(Path(request["source"]), Path(request["target"]), request["kind"])
        if request["kind"] in ("open", "show"):
            _limit_memory()
            if request["kind"] == "show":
                write_frame(job.source, request["start_seconds"], job.target)
                return {"outcome": {}, "shown": str(job.target)}
            source = read_source(job.source, job.target, most_seconds=request["most_seconds"])
            return {"outcome": source.to_json(), "shown": str(source.shown)}
        upscaler = self._made(request["upscaler"])
        _send({"doing": ""})
        if job.kind == "video":
            check = _length_check(job.source, request["most_seconds"])
            outcome = upscale_video(job, upscaler, VideoOptions(), overwrite=True, on_read=check, on_frame=_progress())
        else:
            outcome = upscale_image(job, upscaler, overwrite=True, start_seconds=request["start_seconds"])
        return {"outcome": outcome.to_json(), "shown": str(_shown(outcome))}

    def _made(self, options: dict[str, Any]) -> Upscaler:
        if self._upscaler is None or options != self._made_with:
            if self._upscaler is not None:
                self._upscaler.close()
            self._upscaler = None
            _send({"doing": "loading the model"})
            self._upscaler = Upscaler(**options, on_progress=lambda doing, done, total: _send({"doing": doing}))
            self._made_with = options
        return self._upscaler


def _limit_memory() -> None:
    """Limit the memory of this process to what it has and what is available: an allocation beyond that is an error."""
    if sys.platform == "linux":
        import resource

        most = psutil.Process().memory_info().data + available_memory_bytes()
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))


def _length_check(path: Path, most_seconds: float) -> Callable[[Frame], None]:
    """Return a function that is called with each decoded frame; it raises an `InputError` behind the limit."""
    first: Fraction | None = None

    def check(frame: Frame) -> None:
        nonlocal first
        at = frame.pts * frame.time_base
        first = at if first is None else first
        check_length(path, frame.index + 1, at - first, most_seconds)

    return check


def _progress() -> Any:
    """Return a function that sends a video's progress, called once for each frame."""
    done, sent = 0, 0.0

    def progress(report: PipelineReport, expected: int | None) -> None:
        nonlocal done, sent
        done += 1
        if time.monotonic() - sent >= _PROGRESS_SECONDS:
            sent = time.monotonic()
            _send({"done": done, "expected": expected, "seconds": report.wall_seconds})

    return progress


def _shown(outcome: Outcome) -> Path | None:
    """Return the file to show; None where a video ended before its first frame."""
    if outcome.kind == "video" or outcome.output is None:
        return outcome.output
    return shown_image(outcome.output, outcome.output.with_suffix(".shown.png"))


def _send(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
