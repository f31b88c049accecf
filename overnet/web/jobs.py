"""The jobs of all tabs: one at a time, in a process of its own, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overnet.runtime.plan import Kind
from overnet.system.child_process import PythonChild

# How long a cancelled video may take to complete the file with the frames that are done.
_COMPLETING_SECONDS = 10.0


@dataclass(eq=False)
class WebJob:
    """One job of a tab, and how far it is.

    Attributes:
        source, target, kind: as in `overnet.runtime.plan.Job`.
        upscaler: the arguments of `overnet.runtime.upscaler.Upscaler`.
        start_seconds: of the kind "frame", the time of the image.
        doing: what it waits for, such as the loading of a model; empty once it upscales.
        done, expected, seconds: frames of a video, and how long they took; `expected` is None if it is unknown.
        outcome: the result, as `overnet.runtime.upscale_file.Outcome.to_json` gives it.
        shown: the file to show, which is not the result where browsers do not show that.
        error: why it failed, in one line.
        is_cancelled: whether somebody has cancelled it; a video may have a result all the same.
    """

    source: Path
    target: Path
    kind: Kind
    upscaler: dict[str, Any]
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
    """A queue with one job at a time; a context manager, which ends the job that runs."""

    def __init__(self) -> None:
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
                    timer = threading.Timer(_COMPLETING_SECONDS, self._kill, (job,))
                    timer.daemon = True
                    timer.start()
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

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    break
                self._running = job = self._waiting.popleft()
                if self._child is None:
                    # It stays for the next job, with the model that it has loaded.
                    self._child = PythonChild(["-m", "overnet.web.worker"], title="the process that upscales")
                child = self._child
                job.doing = "starting"
                request = {"source": job.source, "target": job.target, "kind": job.kind}
                child.send({**request, "upscaler": job.upscaler, "start_seconds": job.start_seconds})
            has_result = any(_take(message, job) for message in child.messages())
            with self._changed:
                if not has_result and not job.is_cancelled:
                    job.error = child.reason()
                if not has_result or self._is_killed:
                    child.__exit__()
                    self._child, self._is_killed = None, False
                self._running = None
            job.ended.set()
        if self._child is not None:
            self._child.__exit__()


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
