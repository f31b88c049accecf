"""The jobs of all tabs: one of a queue at a time, in a process of its own, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from overnet.errors import line_for, printable
from overnet.runtime.plan import Kind
from overnet.system.child_process import PythonChild

# How long a cancelled video may take to complete the file with the frames that are done.
_COMPLETING_SECONDS = 10.0


@dataclass(eq=False)
class WebJob:
    """One job of a tab, and how far it is.

    Attributes:
        source, target: as in `overnet.runtime.plan.Job`; of the kinds "open" and "show" the target is the PNG file of
            an image to show.
        kind: as in `overnet.runtime.plan.Job`; or "open", to read what was dropped, or "show", one image of a video.
        most_seconds: the longest video that is accepted.
        upscaler: the arguments of `overnet.runtime.upscaler.Upscaler`.
        start_seconds: of the kinds "frame" and "show", the time of the image.
        doing: what it waits for, such as the loading of a model; empty once it upscales.
        done, expected, seconds: frames of a video, and how long they took; `expected` is None if it is unknown.
        outcome: the result, as `overnet.runtime.upscale_file.Outcome.to_json` gives it; of the kind "open"
            `overnet.web.source.Source.to_json`, of "show" empty.
        shown: the file to show, which is not the result where browsers do not show that.
        error: why it failed, in one line.
        is_cancelled: whether somebody has cancelled it; a video may have a result all the same.
    """

    source: Path
    target: Path
    kind: Kind | Literal["open", "show"]
    most_seconds: float
    upscaler: dict[str, Any] = field(default_factory=dict)
    start_seconds: float = 0.0
    doing: str = ""
    done: int = 0
    expected: int | None = None
    seconds: float = 0.0
    outcome: dict[str, Any] | None = None
    shown: Path | None = None
    error: str | None = None
    is_cancelled: bool = False
    ended: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """A queue with one job at a time; a context manager, which ends the job that runs.

    Args:
        title: what to call its process in messages.
        limit_seconds: how long a job may take; None sets no limit.
    """

    def __init__(self, title: str, *, limit_seconds: float | None = None) -> None:
        self._title, self._limit_seconds = title, limit_seconds
        self._changed = threading.Condition()
        self._waiting: deque[WebJob] = deque()
        self._running: WebJob | None = None
        self._child: PythonChild | None = None
        self._is_closed = self._is_killed = False
        self._thread = threading.Thread(target=self._work, name="overnet-jobs", daemon=True)

    def __enter__(self) -> Jobs:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._kill()
            self._changed.notify_all()
        self._thread.join()

    def add(self, job: WebJob) -> None:
        """Put a job at the end of the queue."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def before(self, job: WebJob) -> int:
        """Return how many jobs are to end before a job begins; 0 where it runs or has ended."""
        with self._changed:
            return self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0

    def cancel(self, job: WebJob) -> None:
        """End a job: an image at once, a video with a file of the frames that are done."""
        with self._changed:
            if job.ended.is_set():
                return
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.ended.set()
            elif self._child is not None and job is self._running:
                if job.kind == "video" and job.done:
                    self._child.send({"cancel": True})
                    _start_timer(_COMPLETING_SECONDS, self._kill, job)
                else:
                    self._kill()

    def used(self) -> list[Path]:
        """Return the files and folders of the jobs that have not ended."""
        with self._changed:
            jobs = [*self._waiting, *([] if self._running is None else [self._running])]
        return [path for job in jobs for path in (job.source, job.target.parent)]

    def _kill(self, job: WebJob | None = None) -> None:
        """End the process at once, where it runs this job, or whatever it does."""
        with self._changed:
            if self._child is not None and job in (None, self._running):
                self._is_killed = True
                self._child.kill()

    def _give_up(self, job: WebJob) -> None:
        with self._changed:
            if job is self._running and not job.is_cancelled:
                job.error = f"{printable(job.source.name)}: it took longer than {self._limit_seconds:g} s"
                self._kill(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    break
                self._running = job = self._waiting.popleft()
            try:
                self._do(job)
            except Exception as error:
                # The process cannot be started, for example. Without its thread, all later jobs would wait for ever.
                job.error = line_for(error) or f"{self._title} failed: {type(error).__name__}"
            with self._changed:
                self._running = None
            job.ended.set()
        if self._child is not None:
            self._child.__exit__()

    def _do(self, job: WebJob) -> None:
        """Let the process do a job."""
        job.doing = "starting"
        timer = None if self._limit_seconds is None else _start_timer(self._limit_seconds, self._give_up, job)
        names = ("source", "target", "kind", "most_seconds", "upscaler", "start_seconds")
        while True:
            with self._changed:
                if job.is_cancelled or self._is_closed:
                    break
                if self._child is not None and self._is_killed:
                    self._end_child()
                is_new = self._child is None
                if self._child is None:
                    # It stays for the next job, with the model that it has loaded.
                    self._child = PythonChild(["-m", "overnet.web.worker"], title=self._title)
                child = self._child
            child.send({name: getattr(job, name) for name in names})
            has_begun = has_result = False
            for message in child.messages():
                has_begun = True
                if has_result := _take(message, job):
                    break
            with self._changed:
                # Otherwise it was killed while it waited for a job.
                is_over = has_begun or is_new or self._is_killed
                if is_over and not has_result and not job.is_cancelled and job.error is None:
                    job.error = child.reason()
                if not has_result or self._is_killed:
                    self._end_child()
                if is_over:
                    break
        if timer is not None:
            timer.cancel()

    def _end_child(self) -> None:
        assert self._child is not None
        self._child.__exit__()
        self._child, self._is_killed = None, False


def _start_timer(seconds: float, function: Callable[[WebJob], None], job: WebJob) -> threading.Timer:
    timer = threading.Timer(seconds, function, (job,))
    timer.daemon = True
    timer.start()
    return timer


def _take(message: dict[str, Any], job: WebJob) -> bool:
    """Note a message of the process in its job, and return whether it is the last one."""
    job.doing = message.get("doing", "")
    if "done" in message:
        job.done, job.expected, job.seconds = message["done"], message["expected"], message["seconds"]
    elif "outcome" in message:
        job.outcome = message["outcome"]
        job.shown = Path(message["shown"])
    elif "error" in message:
        job.error = message["error"]
    return bool(message.keys() & {"outcome", "error"})
