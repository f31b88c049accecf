"""What tasks do on the machines of a cluster."""

import atexit
import hashlib
import time
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overnet.errors import InterruptedRun, OverNetError, naming_failures
from overnet.files.atomic import keep_left_behind
from overnet.files.temporary_folder import temporary_folder
from overnet.runtime.cluster.parcel import NotHereError, Parcel, ParcelledModel
from overnet.runtime.plan import Job, Kind
from overnet.runtime.segments.folder import SegmentFiles
from overnet.runtime.segments.manifest import Manifest, Segment, describe_versions
from overnet.runtime.segments.one_segment import OneSegmentWriter, SegmentFrames
from overnet.runtime.upscale_file import Outcome, upscale_frames, upscale_image
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import OutputFormat
from overnet.runtime.video.reader import VideoReader


@dataclass(frozen=True)
class UpscalerRequest:
    """The upscaler that a task uses.

    Args:
        model: its model.
        options: its other arguments.
    """

    model: ParcelledModel
    options: dict[str, Any]


@dataclass(frozen=True)
class SharedFolder:
    """A folder that this machine may see, too.

    Args:
        path: of the folder.
        token: name of a file in it; "" where no other machine can have a folder of that path.
    """

    path: Path
    token: str

    @property
    def is_here(self) -> bool:
        """Return whether this machine sees it."""
        with suppress(OSError):
            return (self.path / self.token).exists()
        return False


@dataclass(frozen=True)
class Description:
    """What a machine of the cluster does with a request.

    Args:
        backend: the name of the backend.
        size: height and width of the result.
        is_on_cpu: whether it runs on no GPU.
        shaping: see `Upscaler.shaping`.
        versions: of what decodes and encodes.
    """

    backend: str
    is_on_cpu: bool
    size: tuple[int, int]
    shaping: dict[str, str]
    versions: dict[str, str]


@dataclass
class MadeSegment:
    """A segment that a task has made.

    Args:
        segment: None if there was no frame of it.
        packets: its file, where the folder is not seen there; None where the file is in the folder.
        frames_ahead: number of frames found after it.
        notes: on its frames and its upscaling.
        reader_notes: on the source.
        outcome: its figures.
    """

    segment: Segment | None
    packets: bytes | None
    frames_ahead: int
    notes: list[str]
    reader_notes: list[str]
    outcome: Outcome


@dataclass
class MadeImage:
    """An image that a task has upscaled.

    Args:
        outcome: its figures.
        content: the file, where the folder is not seen there; None where it is in the folder.
    """

    outcome: Outcome
    content: bytes | None


@dataclass(frozen=True)
class ImageRequest:
    """An image to be upscaled.

    Args:
        source: the file.
        kind: of the source.
        name: of the result until it gets its own, with its suffix.
    """

    source: Parcel
    kind: Kind
    name: str


@dataclass
class _Loaded:
    """The upscaler of this process: tasks of one run have one and the same."""

    key: str = ""
    upscaler: Upscaler | None = None
    closing: ExitStack = field(default_factory=ExitStack)


_loaded = _Loaded()
atexit.register(_loaded.closing.close)


def _upscaler(request: UpscalerRequest) -> Upscaler:
    """Return the upscaler of a request, loaded if it is another one than before."""
    model = request.model
    identities = [parcel.identity for parcel in model.parcels]
    key = hashlib.sha256(repr((model.name, identities, sorted(request.options.items()))).encode()).hexdigest()
    if _loaded.upscaler is None or _loaded.key != key:
        if _loaded.upscaler is not None:
            _loaded.upscaler.close()
            _loaded.upscaler = None
        _loaded.closing.close()
        folder = Path()
        if not all([parcel.is_here() for parcel in model.parcels]):
            # Of this process alone: in a place that can be guessed, another user could put another model.
            folder = _loaded.closing.enter_context(temporary_folder())
        _loaded.upscaler = Upscaler(model=model.unpack(folder), **request.options)
        _loaded.key = key
    return _loaded.upscaler


def describe(request: UpscalerRequest, height: int, width: int) -> Description | NotHereError:
    """Return what comes of frames of a size in pixels."""
    try:
        upscaler = _upscaler(request)
    except NotHereError as missing:
        return missing
    size = upscaler.output_size(height, width, even_width=True)
    shaping = upscaler.shaping(height, width)
    is_on_cpu = shaping["--backend"].startswith(f"{upscaler.backend_name} on CPU")
    return Description(upscaler.backend_name, is_on_cpu, size, shaping, describe_versions())


def make_segment(
    request: UpscalerRequest,
    source: Parcel,
    frames: SegmentFrames,
    start_seconds: float,
    container: OutputFormat,
    video: OutputVideo,
    folder: SharedFolder,
    manifest: Manifest,
) -> MadeSegment | NotHereError:
    """Upscale and encode a segment of a video."""
    try:
        upscaler = _upscaler(request)
        content = None if source.is_here() else source.open
    except NotHereError as missing:
        return missing
    is_shared = folder.is_here
    with nullcontext(folder.path) if is_shared else temporary_folder() as place:
        files = SegmentFiles(place, manifest)
        if is_shared:
            keep_left_behind(folder.path)
        writer = OneSegmentWriter(frames, files, container, video)
        with VideoReader(
            source.path, start_seconds=start_seconds, max_frames=frames.read_end, content=content
        ) as reader:
            outcome = upscale_frames(
                reader, upscaler, lambda *_: writer, source=source.path, started=time.perf_counter()
            )
            if outcome.partial:
                raise InterruptedRun("the machine was stopped")
        number = frames.cut.number
        segment = manifest.segments.get(number)
        packets = None if is_shared or segment is None else files.file(number).read_bytes()
    notes = [note for note in outcome.notes if note not in reader.notes]
    notes += [note for note in manifest.notes if note not in notes]
    return MadeSegment(segment, packets, writer.frames_ahead, notes, reader.notes, outcome)


def make_images(
    request: UpscalerRequest,
    images: list[ImageRequest],
    results: SharedFolder,
    quality: int | None,
    start_seconds: float,
) -> list[MadeImage | OverNetError] | NotHereError:
    """Upscale images into a folder; the error of one does not end the others."""
    made: list[MadeImage | OverNetError] = []
    try:
        upscaler = _upscaler(request)
        for image in images:
            image.source.is_here()
    except NotHereError as missing:
        return missing
    is_shared = results.is_here
    if is_shared:
        keep_left_behind(results.path)
    with temporary_folder() as temporary:
        for number, image in enumerate(images):
            unnamed = (results.path if is_shared else temporary) / image.name
            source = image.source.path
            if not image.source.is_here():
                source = image.source.unpack(temporary / f"in{number}")
            try:
                with naming_failures(image.source.name):
                    outcome = upscale_image(
                        Job(source, unnamed, image.kind),
                        upscaler,
                        overwrite=True,
                        quality=quality,
                        start_seconds=start_seconds,
                    )
            except OverNetError as error:
                made.append(type(error)(str(error).replace(str(source), image.source.name)))
                continue
            made.append(MadeImage(outcome, None if is_shared else unnamed.read_bytes()))
    return made
