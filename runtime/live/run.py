"""Upscaling of live video: the newest frame is taken, older ones are dropped and counted, none are queued.

There are four threads. One receives frames from the source and keeps the newest; one upscales it; one writes the
result; the calling thread shows it, because windows and Ctrl-C are handled there. The newest frame is taken only when
there is room for its result, so a frame waits for at most the two before it, however slow the model or the sink is.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np

from overnet.errors import InputError, InterruptedRun, OutputError
from overnet.runtime.backends.stream import Ticket, UpscaleStream
from overnet.runtime.live.preview import PreviewWindow
from overnet.runtime.live.report import LiveReport
from overnet.runtime.live.source import CapturedFrame, LiveSource
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.frame import Frame, FrameWriter, VideoInfo
from overnet.system.ending_signals import noted_signals
from overnet.words import counted

# Number of frames that were taken and not yet written: one is upscaled while the one before is written.
_IN_FLIGHT = 2
# Times of live frames are in milliseconds, which every container stores.
_TICK = Fraction(1, 1000)
_USUAL_RATE = Fraction(30)
_POLL_SECONDS = 0.02
# How long to wait for a source that may be waiting for its next frame.
_SOURCE_GRACE_SECONDS = 0.9
# How long, after a signal, to wait for a frame that is upscaled, and then for an output that may take no more data.
_END_SECONDS = 0.5
# How long another program may take no data.
_STALL_SECONDS = 8.0


@dataclass(frozen=True)
class LiveLimits:
    """The limits at which a live run ends.

    Args:
        seconds: time after the first frame; None for no limit.
        frames: number of frames that were written, or shown where nothing is written; None for no limit.
    """

    seconds: float | None = None
    frames: int | None = None


@dataclass(frozen=True)
class LiveOutcome:
    """The result of a live run.

    Args:
        report: the figures.
        output: path or name of the result; None if nothing was written.
        lost: the error that ended the source for good; None if it did not fail.
    """

    report: LiveReport
    output: str | None
    lost: InputError | None = None


class Mailbox:
    """A slot for the newest frame, shared by two threads.

    Attributes:
        received: number of frames put into it.
        taken: the number, counted from 1, of the frame that was taken last.
    """

    def __init__(self) -> None:
        self._newest: CapturedFrame | None = None
        self._ended = False
        self.received = self.taken = 0
        self._changed = threading.Condition()

    def put(self, captured: CapturedFrame) -> None:
        """Replace the frame in the slot."""
        with self._changed:
            if not self._ended:
                self._newest = captured
                self.received += 1
                self._changed.notify_all()

    def take(self, *, wait: bool = True) -> CapturedFrame | None:
        """Remove and return the newest frame; None at the end, and without `wait` also if there is none."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._newest is not None or self._ended)
            taken, self._newest = self._newest, None
            if taken is not None:
                self.taken = self.received
            return taken

    def end(self, *, drop: bool = False) -> None:
        """Accept no more frames; the frame in the slot can still be taken unless it is dropped."""
        with self._changed:
            self._ended = True
            if drop:
                self._newest = None
            self._changed.notify_all()


def run_live(
    source: LiveSource,
    upscaler: Upscaler,
    open_writer: Callable[[VideoInfo, int, int], FrameWriter] | None,
    *,
    preview: PreviewWindow | None = None,
    limits: LiveLimits = LiveLimits(),
    on_status: Callable[[LiveReport], None] = lambda report: None,
) -> LiveOutcome:
    """Upscale a live source until it ends, a limit is reached, the window is closed, or Ctrl-C is pressed.

    Each of these ends the run normally, and the output is completed.

    Args:
        source: the source of frames.
        upscaler: the upscaler; it is not closed.
        open_writer: called with the source's `VideoInfo` and width and height of the results; None to write nothing.
        preview: the window that shows the results.
        limits: when to end.
        on_status: called with the figures about every 20 ms, in the calling thread.

    Returns:
        The outcome. A source that was lost for good ends the run as well.

    Raises:
        InputError: the source cannot be opened, or ended or was lost for good before its first frame.
        InterruptedRun: Ctrl-C was pressed before the first frame.
        BrokenPipeError: the reader of the output pipe has closed it.
        OutputError, BackendError: the writer or the upscaler failed.
    """
    return _LiveRun(source, upscaler, open_writer, preview, limits, on_status).run()


class _LiveRun:
    def __init__(
        self,
        source: LiveSource,
        upscaler: Upscaler,
        open_writer: Callable[[VideoInfo, int, int], FrameWriter] | None,
        preview: PreviewWindow | None,
        limits: LiveLimits,
        on_status: Callable[[LiveReport], None],
    ) -> None:
        self._source, self._upscaler, self._open_writer = source, upscaler, open_writer
        self._preview, self._limits, self._on_status = preview, limits, on_status
        self._report = LiveReport()
        self._mailbox = Mailbox()
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._submitted: queue.SimpleQueue[tuple[CapturedFrame, Ticket] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._is_complete = threading.Event()
        self._failures: list[BaseException] = []
        self._lost: InputError | None = None
        self._stream: UpscaleStream | None = None
        self._size = (0, 0)
        self._writer: FrameWriter | None = None
        self._output: str | None = None
        self._completes_file = False
        self._writing_since: float | None = None
        self._written_size = (0, 0)
        self._first_at: float | None = None
        self._frames_before = 0
        self._last_pts = 0
        self._to_show: tuple[np.ndarray, float] | None = None

    def run(self) -> LiveOutcome:
        # A thread that hangs in a library must not keep the process from ending.
        capture, upscale, deliver = (
            threading.Thread(target=self._guarded, args=work, name=f"overnet-{name}", daemon=True)
            for name, *work in (
                ("capture", self._capture),
                ("upscale", self._upscale),
                ("deliver", self._deliver, self._finish),
            )
        )
        with noted_signals() as ended:
            for thread in (capture, upscale, deliver):
                thread.start()
            try:
                self._watch(deliver, ended)
            finally:
                self._stop()
                if not self._wait_for(upscale, ended):
                    self._submitted.put(None)  # its frame takes long, and is not waited for
                if not self._wait_for(deliver, ended):
                    self._failures.append(OutputError("the output takes no more data: the end is missing"))
                self._is_complete.set()
                capture.join(_SOURCE_GRACE_SECONDS)
                if self._stream is not None and not upscale.is_alive():
                    self._stream.close()
                if self._writer is not None and not deliver.is_alive():
                    self._writer.abort()
            if self._failures:
                raise self._failures[0]
            if not self._report.frames:
                if ended():
                    raise InterruptedRun("interrupted before the first frame")
                raise self._lost or InputError(f"{self._source.name}: it ended before the first frame")
        return LiveOutcome(self._report, self._output, self._lost)

    def _wait_for(self, worker: threading.Thread, ended: Callable[[], bool]) -> bool:
        """Wait for the end of a worker, after a signal for a second at most; return whether it has ended.

        A file is always completed.
        """
        until = None
        while worker.is_alive():
            worker.join(_POLL_SECONDS)
            if ended() or self._has_stalled():
                until = until or time.monotonic() + _END_SECONDS
                if time.monotonic() > until and not self._completes_file:
                    return False
        return True

    def _watch(self, last: threading.Thread, ended: Callable[[], bool]) -> None:
        """Show frames and check the limits until the last stage has ended, or a signal ends the run."""
        while last.is_alive() and not ended() and not self._has_stalled():
            if self._preview is not None:
                shown, self._to_show = self._to_show, None
                # Showing a frame after the window was closed would open it again.
                if shown is not None and not self._stopped.is_set():
                    rgb, at = shown
                    self._preview.show(rgb, self._report.line())
                    self._report.shown += 1
                    if self._open_writer is None:
                        self._count(at)
                if not self._preview.poll():
                    self._stop()
            else:
                last.join(_POLL_SECONDS)
            self._update()
            self._on_status(self._report)
            if self._limits.seconds is not None and self._report.seconds >= self._limits.seconds:
                self._stop()

    def _has_stalled(self) -> bool:
        """Tell whether the output has taken no data for long; FFmpeg passes over the time-out of such a write."""
        since = self._writing_since
        return (
            self._writer is not None
            and self._writer.can_stall
            and since is not None
            and time.monotonic() - since > _STALL_SECONDS
        )

    def _update(self) -> None:
        self._report.reconnections = self._source.reconnections
        if self._first_at is None:
            return
        self._report.captured = self._mailbox.received - self._frames_before
        if not self._stopped.is_set():
            self._report.seconds = time.monotonic() - self._first_at

    def _stop(self) -> None:
        self._update()
        self._stopped.set()
        self._source.stop()
        self._mailbox.end(drop=True)
        self._room.release(_IN_FLIGHT)
        if self._stream is not None:
            self._stream.stop()
        if self._writer is not None:
            self._writer.stop()

    def _guarded(self, *steps: Callable[[], None]) -> None:
        for step in steps:
            try:
                step()
            except BaseException as error:
                self._failures.append(error)
                self._stop()
                self._submitted.put(None)

    def _capture(self) -> None:
        """Keep the newest frame of the source: the first stage."""
        try:
            with contextlib.closing(self._source.frames()) as frames:
                for captured in frames:
                    if self._stopped.is_set():
                        # While it is closed, GStreamer's RTSP source may end the process: first complete the output.
                        self._is_complete.wait()
                        return
                    self._mailbox.put(captured)
        except InputError as error:
            self._lost = error
        finally:
            self._mailbox.end()

    def _upscale(self) -> None:
        """Upscale the newest frame: the second stage."""
        while True:
            self._room.acquire()
            captured = self._mailbox.take()
            if captured is None:
                break
            size = captured.info.height, captured.info.width
            if size != self._size:
                self._open_stream(captured.info)
                if self._stopped.is_set():
                    break
                # Opening the stream takes seconds, in which newer frames have arrived.
                captured = self._mailbox.take(wait=False) or captured
                if (captured.info.height, captured.info.width) != size:
                    self._room.release()
                    continue
            assert self._stream is not None
            if self._first_at is None:
                # What came while the model was chosen and loaded is no part of the run.
                self._first_at, self._frames_before = captured.at, self._mailbox.taken - 1
                if self._frames_before:
                    self._report.notes.append(
                        f"{counted(self._frames_before, 'frame')} before the model was ready: not in the result"
                    )
            buffer = self._stream.buffer()
            rgb = captured.pixels(buffer)
            if buffer is not None and rgb is not buffer:
                # The stream requires that a buffer it has given is used.
                np.copyto(buffer, rgb)
                rgb = buffer
            if self._stopped.is_set():
                break
            self._submitted.put((captured, self._stream.submit(rgb)))
        self._submitted.put(None)

    def _open_stream(self, info: VideoInfo) -> None:
        """Open the stream for frames of another size once all earlier frames are delivered."""
        for _ in range(_IN_FLIGHT - 1):
            self._room.acquire()
        if self._stopped.is_set():
            return  # earlier frames may not be delivered
        if self._stream is not None:
            self._stream.close()
        self._size = height, width = info.height, info.width
        self._stream = self._upscaler.stream(height, width, even_width=True, rate=live_info(info).rate)
        # The first frame includes compilation and allocation: run it with an empty image.
        warm_up = self._stream.buffer()
        if not self._stopped.is_set():
            with self._stream.submit(np.zeros((height, width, 3), np.uint8) if warm_up is None else warm_up):
                pass
        self._room.release(_IN_FLIGHT - 1)

    def _deliver(self) -> None:
        """Write and show the results: the third stage."""
        while (submitted := self._submitted.get()) is not None:
            captured, ticket = submitted
            with ticket as rgb:
                self._report.input_size = captured.info.width, captured.info.height
                self._report.output_size = rgb.shape[1], rgb.shape[0]
                if self._open_writer is not None:
                    self._write(captured, rgb)
                if self._preview is not None:
                    # The array is reused for another frame once the ticket is released.
                    self._to_show = rgb.copy(), captured.at
            if self._open_writer is not None:
                self._count(captured.at)
            self._room.release()
            if self._is_enough():
                break

    def _count(self, captured_at: float) -> None:
        """Count a frame that was written, or shown where nothing is written."""
        self._report.count(time.monotonic() - captured_at)
        if self._is_enough():
            self._stop()

    def _is_enough(self) -> bool:
        return self._limits.frames is not None and self._report.frames >= self._limits.frames

    def _write(self, captured: CapturedFrame, rgb: np.ndarray) -> None:
        assert self._open_writer is not None
        height, width = rgb.shape[:2]
        if self._writer is None:
            info = live_info(captured.info)
            self._zero = captured.at
            self._interval = max(1, round(1 / ((info.frame_rate or _USUAL_RATE) * _TICK)))
            self._last_pts = -self._interval
            self._writer = self._open_writer(info, width, height)
            self._written_size = width, height
        if (width, height) != self._written_size:
            large, small = self._written_size
            note = f"the source changed its size: later frames are resized to {large}x{small} as well"
            if note not in self._report.notes:
                self._report.notes.append(note)
            rgb = np.asarray(cv2.resize(rgb, self._written_size, interpolation=cv2.INTER_AREA), np.uint8)
        pts = max(self._last_pts + 1, round((captured.at - self._zero) / _TICK))
        self._last_pts = pts
        self._writing_since = time.monotonic()
        self._writer.write(Frame(rgb=rgb, pts=pts, time_base=_TICK, duration=self._interval))
        self._writing_since = None

    def _finish(self) -> None:
        """Complete the output, in the thread that wrote it: a server may not take its end."""
        # The recording is kept whatever else failed.
        is_broken = any(isinstance(error, (OutputError, OSError)) for error in self._failures)
        if self._writer is None or is_broken or not self._report.frames:
            return
        self._completes_file = not self._writer.can_stall
        self._output = str(self._writer.finish())
        self._report.notes.extend(self._writer.notes)
        self._report.notes.extend(self._upscaler.pop_notes())


def live_info(info: VideoInfo) -> VideoInfo:
    """Return a source's information for the writer: frames have the times of their arrival, from 0, in milliseconds."""
    rate = info.frame_rate
    is_plausible = rate is not None and 1 <= rate <= 240
    return replace(
        info,
        time_base=_TICK,
        frame_rate=rate if is_plausible else _USUAL_RATE,
        frame_count=None,
        origin_seconds=Fraction(0),
    )
