"""A run on a cluster: what `overnet-run` does with files on one machine, as tasks of Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overnet.errors import BackendError
from overnet.files.engine_sidecar import TITLES
from overnet.runtime.cluster.connection import Call, Cluster
from overnet.runtime.cluster.images import ClusterImages
from overnet.runtime.cluster.parcel import ParcelledModel
from overnet.runtime.cluster.videos import ClusterVideo
from overnet.runtime.cluster.worker import Description, UpscalerRequest, describe
from overnet.runtime.pipeline import PipelineReport
from overnet.runtime.plan import Job
from overnet.runtime.segments.estimate import Estimate
from overnet.runtime.segments.manifest import describe_versions, differences
from overnet.runtime.upscale_file import Outcome, VideoOptions, open_segmented
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import Encoding, encoding_for_all_machines, output_format
from overnet.runtime.video.reader import VideoReader
from overnet.system.memory import Limits, usable_cores

# Height and width in pixels by which a machine is asked for its backend where images of many sizes come.
_ANY_SIZE = (64, 64)


class ClusterRun:
    """A run whose work is done by the tasks of a cluster; a context manager that ends them.

    Args:
        address: of the cluster, see `Cluster`.
        upscaling: the arguments of `overnet.runtime.upscaler.Upscaler`; the backend is chosen by a machine of the
            cluster, and is then the same on all.
        jobs: all files of the run.
        options: of videos; `cutting.frames` is the length of segments.
        overwrite: whether existing files are replaced.
        quality: of images, see `overnet.runtime.upscale_file.upscale_image`.
        on_estimate: see `overnet.runtime.upscale_file.upscale_video`.

    Attributes:
        backend_name: of the backend; "" before it is known.

    Raises:
        MissingDependency, InputError: see `Cluster`; also the model is missing.
    """

    def __init__(
        self,
        address: str,
        upscaling: dict[str, Any],
        jobs: Sequence[Job],
        options: VideoOptions,
        *,
        overwrite: bool,
        quality: int | None = None,
        on_estimate: Callable[[Estimate], None] = lambda estimate: None,
    ) -> None:
        rest = dict(upscaling)
        model: str | Path | None = rest.pop("model", None)
        self._request = UpscalerRequest(ParcelledModel(model), rest)
        self._options, self._overwrite, self._quality, self._on_estimate = options, overwrite, quality, on_estimate
        self._jobs = jobs
        self._images: ClusterImages | None = None
        self.backend_name = ""
        is_engine = model is not None and Path(model).suffix.lower() == ".engine"
        backend = rest.get("backend", "auto")
        needs_gpu = is_engine or backend in TITLES or rest.get("provider", "cpu") != "cpu"
        may_use_gpu = backend in ("auto", "torch")
        wants_gpu = True if needs_gpu else None if may_use_gpu else False
        self._cluster = Cluster(address, wants_gpu=wants_gpu, threads=rest.get("threads"))

    def __enter__(self) -> ClusterRun:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._images is not None:
                self._images.close()
        finally:
            self._cluster.close()

    def image(self, job: Job) -> Outcome:
        """Upscale one of the images; see `overnet.runtime.upscale_file.upscale_image`."""
        if self._images is None:
            self._describe(*_ANY_SIZE)
            self._images = ClusterImages(
                self._cluster,
                self._request,
                [each for each in self._jobs if each.kind != "video"],
                overwrite=self._overwrite,
                quality=self._quality,
                start_seconds=self._options.start_seconds,
            )
        return self._images.image(job)

    def video(self, job: Job, *, on_frame: Callable[[PipelineReport, int | None], None] | None = None) -> Outcome:
        """Upscale one of the videos; see `overnet.runtime.upscale_file.upscale_video`."""
        options = self._options
        with VideoReader(job.source, start_seconds=options.start_seconds, max_frames=options.max_frames) as reader:
            info = reader.info
            described = self._describe(info.height, info.width)
            height, width = described.size
            # By affinity alone, as x264 counts them.
            encoding = encoding_for_all_machines(
                Encoding(options.codec, options.crf),
                output_format(job.target),
                height=height,
                cores=usable_cores(Limits()),
            )
            video = OutputVideo(info, width, height, encoding)
            shaping = {**described.shaping, "--backend": f"{described.backend} on a cluster"}
            writer = open_segmented(
                job,
                video,
                options,
                shaping,
                reader.expected_frames,
                overwrite=self._overwrite,
                on_estimate=self._on_estimate,
            )
            return ClusterVideo(
                self._cluster,
                self._request,
                described.backend,
                job,
                reader,
                video,
                writer,
                options.start_seconds,
                on_frame,
            ).upscale()

    def _describe(self, height: int, width: int) -> Description:
        """Ask a machine what comes of frames of a size; the first time, choose the backend for all.

        Raises:
            OverNetError: the upscaler cannot be made there.
            BackendError: other versions are installed there.
        """
        parcels = self._request.model.parcels
        call = Call(describe, (self._request, height, width), "the model", repeats_errors=False, parcels=parcels)
        found: Description = self._cluster.call(call)
        others = differences(found.versions, describe_versions())
        if others:
            there = "; ".join(others).replace(" and was ", " there and here ")
            raise BackendError(f"the cluster's machines need what is installed here: {there}")
        if not self.backend_name:
            self.backend_name = found.backend
            options = {**self._request.options, "backend": found.backend}
            self._cluster.on_gpu &= not found.is_on_cpu
            if not self._cluster.on_gpu:
                options["threads"] = self._cluster.cpus
            self._request = replace(self._request, options=options)
        return found
