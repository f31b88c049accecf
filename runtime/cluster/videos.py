"""A video on a cluster: its segments as tasks, in a folder from which a run that was cut off goes on."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from overnet.errors import OverNetError, printable
from overnet.files.atomic import TemporaryFile, keep_left_behind
from overnet.runtime.cluster.connection import Call, Cluster
from overnet.runtime.cluster.parcel import ChangedError, Parcel
from overnet.runtime.cluster.worker import MadeSegment, SharedFolder, UpscalerRequest, make_segment
from overnet.runtime.pipeline import PipelineReport
from overnet.runtime.plan import Job
from overnet.runtime.segments.cuts import Cut, UnclearTimesError, decoded_cuts, stated_cuts
from overnet.runtime.segments.folder import SegmentFolder
from overnet.runtime.segments.manifest import Manifest
from overnet.runtime.segments.one_segment import SegmentFrames
from overnet.runtime.segments.packet_file import PacketFile
from overnet.runtime.segments.writer import SegmentedWriter
from overnet.runtime.upscale_file import Outcome, Seconds
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import output_format
from overnet.runtime.video.reader import VideoReader
from overnet.system.ending_signals import noted_signals


@dataclass
class ClusterVideo:
    """A video whose segments are made by tasks.

    Args:
        cluster: where they run.
        request: the upscaler.
        backend: its name.
        job: source and target.
        reader: of the source; no frame has been read.
        video: what is encoded.
        writer: of the result.
        start_seconds: where the reader began.
        on_frame: see `overnet.runtime.upscale_file.upscale_video`.
    """

    cluster: Cluster
    request: UpscalerRequest
    backend: str
    job: Job
    reader: VideoReader
    video: OutputVideo
    writer: SegmentedWriter
    start_seconds: float
    on_frame: Callable[[PipelineReport, int | None], None] | None

    def __post_init__(self) -> None:
        self._source = Parcel(self.job.source)
        self._seconds = Seconds()
        self._made_frames = 0
        self._notes: list[str] = []

    def upscale(self) -> Outcome:
        """Upscale the video; see `overnet.runtime.upscale_file.upscale_video`."""
        self._began = self._noted = time.perf_counter()
        info = self.reader.info
        with self.writer as writer, noted_signals() as ended:
            folder = writer.begin_elsewhere(self.reader.first_pts * info.time_base)
            earlier_frames = folder.manifest.done_frames
            self._left = None if self.reader.expected_frames is None else self.reader.expected_frames - earlier_frames
            with closing(TemporaryFile(folder.path / "token")) as token:
                keep_left_behind(folder.path)
                if not writer.is_complete and not self._make_stated(folder, token.path, ended):
                    self._make_decoded(folder, token.path, ended)
            self._source.check()  # segments of a changed source, and its sound, do not belong together
            is_partial = ended()
            output = writer.finish_partial() if is_partial else writer.finish()
            is_last = ended()
        self._seconds.total = time.perf_counter() - self._began
        return Outcome(
            input=self.job.source,
            output=output,
            kind="video",
            backend=self.backend,
            frames=earlier_frames + self._made_frames,
            input_size=(info.width, info.height),
            output_size=writer.size or (self.video.width, self.video.height),
            seconds=self._seconds,
            partial=is_partial,
            is_last=is_last,
            earlier_frames=earlier_frames,
            notes=list(dict.fromkeys([*self.reader.notes, *self._notes, *writer.notes])),
        )

    def _make_stated(self, folder: SegmentFolder, token: Path, ended: Callable[[], bool]) -> bool:
        """Make the segments that the times of packets state; return False where the frames are found to be others."""
        info, length = self.reader.info, folder.manifest.frames_per_segment
        cuts = stated_cuts(
            self.job.source,
            length,
            first_pts=self.reader.first_pts,
            most=info.max_frames,
            rate=info.rate,
            place=self.writer.placing(),
        )
        before = set(folder.manifest.segments)
        as_stated: set[int] = set()
        with suppress(UnclearTimesError):
            for cut, made in self._made(folder, cuts, token, ended):
                self._notes += made.reader_notes
                if not _is_as_stated(cut, made, length):
                    break
                as_stated.add(cut.number)
                self._note(folder, cut, made)
            else:
                return True
        # Segments behind the first one that is missing may be in the wrong place.
        kept = 0
        while kept in before or kept in as_stated:
            kept += 1
        folder.drop([number for number in folder.manifest.segments if number >= kept and number not in before])
        self._made_frames = sum(folder.manifest.segments[number].frames for number in as_stated if number < kept)
        self._notes.clear()
        return ended()

    def _make_decoded(self, folder: SegmentFolder, token: Path, ended: Callable[[], bool]) -> None:
        """Make the segments that decoding finds."""
        segments, begin = folder.manifest.segments, 0
        while begin in segments and segments[begin].last is not None:
            begin += 1
        after = segments[begin - 1].last if begin else None
        cuts = decoded_cuts(self.reader, folder.manifest.frames_per_segment, after, self.writer.placing())
        for cut, made in self._made(folder, cuts, token, ended):
            self._note(folder, cut, made)

    def _made(
        self, folder: SegmentFolder, cuts: Iterator[Cut], token: Path, ended: Callable[[], bool]
    ) -> Iterator[tuple[Cut, MadeSegment]]:
        """Yield the missing ones of some segments, each as soon as it is made.

        Raises:
            OverNetError: one failed for good.
        """
        manifest, info = folder.manifest, self.reader.info
        path = Path(os.path.abspath(folder.path))  # noqa: PTH100 (links may differ on other machines)
        shared = SharedFolder(path, token.name)
        nothing = Manifest({}, manifest.frames_per_segment, None, manifest.time_base, manifest.zero_seconds)
        container = output_format(self.job.target)

        def call(cut: Cut) -> Call:
            frames = SegmentFrames(cut, manifest.frames_per_segment, self.writer.look_ahead, info.max_frames)
            arguments = (
                self.request,
                self._source,
                frames,
                self.start_seconds,
                container,
                self.video,
                shared,
                nothing,
            )
            parcels = [self._source, *self.request.model.parcels]
            return Call(make_segment, arguments, str(frames), parcels=parcels, item=cut)

        calls = (call(cut) for cut in cuts if cut.number not in manifest.segments)
        with closing(self.cluster.run(calls, ended=ended)) as results:
            for done, result in results:
                if isinstance(result, ChangedError):
                    raise result
                if isinstance(result, OverNetError):
                    raise type(result)(f"{printable(self.job.source)}: {result}")
                yield done.item, result

    def _note(self, folder: SegmentFolder, cut: Cut, made: MadeSegment) -> None:
        """Note a segment as whole."""
        segment = made.segment
        assert segment is not None
        if made.packets is not None:
            with folder.reporting(), closing(PacketFile(folder.file(cut.number), made.packets)) as file:
                file.complete()
        manifest = folder.manifest
        manifest.notes.extend(note for note in made.notes if note not in manifest.notes)
        now = time.perf_counter()
        segment = replace(segment, seconds=round(now - self._noted, 3))
        self._noted = now
        is_estimable = self._made_frames >= self.cluster.slots * manifest.frames_per_segment
        self.writer.add(cut.number, segment, is_estimable=is_estimable)
        for stage in ("decode", "upscale", "encode"):
            spent = getattr(self._seconds, stage) + getattr(made.outcome.seconds, stage)
            setattr(self._seconds, stage, spent)
        self._made_frames += segment.frames
        report = PipelineReport(frames=self._made_frames, wall_seconds=now - self._began)
        for _ in range(segment.frames if self.on_frame is not None else 0):
            assert self.on_frame is not None
            self.on_frame(report, None if self._left is None else max(1, self._left))


def _is_as_stated(cut: Cut, made: MadeSegment, length: int) -> bool:
    """Return whether a segment holds the frames that the times of the packets state."""
    segment = made.segment
    if segment is None:
        return False
    if cut.is_last:
        return not made.frames_ahead
    # The place of the last frame, and with it that of all segments behind.
    is_place = segment.last is not None and cut.last is not None and segment.last.pts == cut.last.pts
    return segment.frames == length and made.frames_ahead > 0 and is_place
