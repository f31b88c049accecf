"""Live sources and sinks through GStreamer pipelines, which OpenCV runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from overnet.errors import InputError, OutputError
from overnet.files.atomic import TemporaryFile, exists_already, move_into_place
from overnet.runtime.live import gstreamer_pipelines as gstreamer
from overnet.runtime.live.ffmpeg_source import OPEN_SECONDS, connect_network
from overnet.runtime.live.source import CapturedFrame, ConnectionLost
from overnet.runtime.video.color import ColorTags, guess_matrix
from overnet.runtime.video.frame import Frame, FrameWriter, VideoInfo

_UNSPECIFIED = 2
_TRIAL_FRAMES = 4


@contextmanager
def connect_pipeline(pipeline: str) -> Iterator[Iterator[CapturedFrame]]:
    """Run a pipeline that ends in an ``appsink``; see `overnet.runtime.live.source.LiveSource`.

    Raises:
        ConnectionLost: the pipeline cannot be started, or does not give BGR images.
    """
    capture = _open_capture(pipeline)
    try:
        if not capture.isOpened():
            raise ConnectionLost(
                "the pipeline cannot be started: check it, and that the devices or files it opens exist", is_final=True
            )
        yield _read(capture)
    finally:
        capture.release()


@contextmanager
def connect_rtsp_in_hardware(url: str, *, transport: str) -> Iterator[Iterator[CapturedFrame]]:
    """Connect to an RTSP stream through a Jetson's decoder; parameters as for `connect_network`.

    FFmpeg opens the stream first, to find the codec and to report errors, which OpenCV does not.

    Raises:
        ConnectionLost: the stream is not available, or the decoder does not take its codec.
    """
    with connect_network(url, transport=transport) as frames:
        first = next(frames, None)
    if first is None:
        raise ConnectionLost("the stream ended before its first frame")
    codec = first.info.codec
    try:
        pipeline = gstreamer.rtsp_pipeline(url, codec=codec, transport=transport, timeout_seconds=OPEN_SECONDS)
    except InputError as error:
        raise ConnectionLost(str(error), is_final=True) from error
    with connect_pipeline(pipeline) as frames:
        yield frames


def _open_capture(pipeline: str) -> cv2.VideoCapture:
    return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER, _timeouts())


@cache
def _timeouts() -> list[int]:
    """Return the parameters that bound how long OpenCV waits for a pipeline; none before 4.7, which refuses them.

    A pipeline without a device tells: a version that refuses them has started the pipeline by then, so that a camera
    would be opened twice, and GStreamer's RTSP source may abort the process when it is stopped while it starts.
    """
    timeouts: list[int] = []
    for name in ("CAP_PROP_OPEN_TIMEOUT_MSEC", "CAP_PROP_READ_TIMEOUT_MSEC"):
        if hasattr(cv2, name):
            timeouts += [getattr(cv2, name), int(OPEN_SECONDS * 1000)]
    capture = cv2.VideoCapture("videotestsrc num-buffers=1 ! appsink", cv2.CAP_GSTREAMER, timeouts)
    try:
        return timeouts if capture.isOpened() else []
    finally:
        capture.release()


def _read(capture: cv2.VideoCapture) -> Iterator[CapturedFrame]:
    info: VideoInfo | None = None
    while True:
        is_read, bgr = capture.read()
        at = time.monotonic()
        if not is_read:
            return
        if bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.dtype != np.uint8:
            raise ConnectionLost(
                "the pipeline does not give BGR images: end it in 'video/x-raw,format=BGR ! appsink'", is_final=True
            )
        height, width = bgr.shape[:2]
        if info is None or (width, height) != (info.width, info.height):
            info = _describe(width, height, capture.get(cv2.CAP_PROP_FPS))
        yield CapturedFrame(at, info, partial(cv2.cvtColor, bgr, cv2.COLOR_BGR2RGB))


def _describe(width: int, height: int, rate: float) -> VideoInfo:
    color = ColorTags(guess_matrix(width, height), _UNSPECIFIED, _UNSPECIFIED, full_range=False)
    return VideoInfo(
        width=width,
        height=height,
        frame_rate=Fraction(rate).limit_denominator(1001) if 1 <= rate <= 240 else None,
        time_base=Fraction(1, 1000),
        bit_depth=8,
        pixel_format="bgr24",
        codec="rawvideo",
        color=color,
        color_as_tagged=replace(color, matrix=_UNSPECIFIED),
    )


class GStreamerWriter(FrameWriter):
    """A writer into a pipeline that begins with an ``appsrc``.

    OpenCV derives times by counting frames, so they have to come at a constant rate: see `ConstantRate`.

    Args:
        pipeline: the pipeline.
        name: its name in messages.
        width, height: size of the frames in pixels.
        rate: frames per second.
        temporary, path: the file that the pipeline writes, and its name once it is complete; None if it writes none.
            It is closed with the writer.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: the pipeline cannot be started.
    """

    def __init__(
        self,
        pipeline: str,
        *,
        name: str,
        width: int,
        height: int,
        rate: Fraction,
        temporary: TemporaryFile | None = None,
        path: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self._name, self._temporary, self._path, self._overwrite = name, temporary, path, overwrite
        self.can_stall = path is None
        self._writer = cv2.VideoWriter(pipeline, cv2.CAP_GSTREAMER, 0, float(rate), (width, height))
        if not self._writer.isOpened():
            self.abort()
            raise OutputError(
                f"{name}: the pipeline cannot be started: check it, and that the devices or folders it opens exist"
            )

    def write(self, frame: Frame) -> None:
        """Pass a frame, H x W x 3 uint8 RGB, to the pipeline."""
        self._writer.write(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR))

    def finish(self) -> Path:
        """End the stream, give the file its name, and return that; without a file, return the pipeline's name.

        Raises:
            OutputError: the file is empty, or cannot be renamed.
        """
        self._writer.release()
        if self._path is None or self._temporary is None:
            return Path(self._name)
        try:
            if not self._temporary.path.stat().st_size:
                raise OutputError(f"{self._name}: the encoder wrote nothing; try --hardware off")
            move_into_place(self._temporary.path, self._path, overwrite=self._overwrite)
            self._temporary.close()
        except FileExistsError as error:
            raise exists_already(self._path) from error
        except OSError as error:
            raise OutputError(f"{self._name} cannot be written: {error.strerror}") from error
        return self._path

    def abort(self) -> None:
        """End the stream, and remove a file that is not finished."""
        self._writer.release()
        if self._temporary is not None:
            self._temporary.close()


def open_file_in_hardware(
    path: Path, *, width: int, height: int, rate: Fraction, overwrite: bool, hardware: bool = True
) -> GStreamerWriter | None:
    """Return a writer of a file through a Jetson's encoder; None where that fails, as on an Orin Nano, which has none.

    A few frames are encoded on trial, because OpenCV does not report that an encoder fails.

    Args:
        path: the file.
        width, height, rate, overwrite: as for `GStreamerWriter`.
        hardware: False encodes with x264 instead, which tests the rest of the pipeline without that encoder.
    """
    temporary = TemporaryFile(path)
    open_writer = partial(GStreamerWriter, name=str(path), width=width, height=height, rate=rate)
    try:
        pipeline = gstreamer.file_sink_pipeline(temporary.path, size=(width, height), rate=rate, hardware=hardware)
        if pipeline is not None:
            with open_writer(pipeline) as trial:
                black = np.zeros((height, width, 3), np.uint8)
                for index in range(_TRIAL_FRAMES):
                    trial.write(Frame(black, index, 1 / rate, 1))
                trial.finish()
            if temporary.path.stat().st_size:
                return open_writer(pipeline, temporary=temporary, path=path, overwrite=overwrite)
    except (OutputError, OSError):
        pass
    temporary.close()
    return None
