"""Images on a cluster: batches of them as tasks."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from overnet.errors import OutputError, OverNetError, file_errors, printable
from overnet.files.atomic import atomic_write, ensure_folder, exists_already, link_target, move_into_place
from overnet.files.temporary_folder import temporary_folder
from overnet.runtime.cluster.connection import Call, Cluster
from overnet.runtime.cluster.parcel import Parcel
from overnet.runtime.cluster.worker import ImageRequest, MadeImage, SharedFolder, UpscalerRequest, make_images
from overnet.runtime.plan import Job
from overnet.runtime.upscale_file import Outcome

# Of a task: its own cost is that of a small image.
_MOST_IN_BATCH = 16
_BATCHES_FOR_EACH_SLOT = 4


class ClusterImages:
    """The images of a run, upscaled ahead of the one that is asked for.

    Args:
        cluster: where the tasks run.
        request: the upscaler.
        jobs: the images, in the order in which they are asked for.
        overwrite: whether existing files are replaced.
        quality, start_seconds: see `overnet.runtime.upscale_file.upscale_image`.
    """

    def __init__(
        self,
        cluster: Cluster,
        request: UpscalerRequest,
        jobs: Sequence[Job],
        *,
        overwrite: bool,
        quality: int | None,
        start_seconds: float,
    ) -> None:
        self._cluster, self._request, self._jobs = cluster, request, jobs
        self._overwrite, self._quality, self._start_seconds = overwrite, quality, start_seconds
        self._made: dict[Job, MadeImage | OverNetError] = {}
        self._requests: dict[Job, ImageRequest] = {}
        self._closing = ExitStack()
        try:
            self._unnamed = self._closing.enter_context(_unnamed_results([job.target.parent for job in jobs]))
        except BaseException:
            self._closing.close()
            raise
        self._results = self._closing.enter_context(closing(cluster.run(self._calls())))

    def close(self) -> None:
        """End the tasks, and remove what was made and not asked for."""
        self._closing.close()

    def image(self, job: Job) -> Outcome:
        """Wait for the result of a job, and give it its name.

        Raises:
            OverNetError: see `overnet.runtime.upscale_file.upscale_image`.
        """
        while job not in self._made:
            taken = next(self._results, None)
            if taken is None:
                break  # no task was needed for it: its error is known
            self._take(*taken)
        made, request = self._made.pop(job), self._requests.pop(job, None)
        if isinstance(made, OverNetError):
            raise made
        assert request is not None
        unnamed = self._unnamed.path / request.name
        with file_errors(OutputError, job.target, " cannot be written"):
            try:
                if made.content is None:
                    target = link_target(job.target, overwrite=self._overwrite)
                    move_into_place(unnamed, target, overwrite=self._overwrite)
                else:
                    with atomic_write(job.target, overwrite=self._overwrite) as temporary:
                        temporary.write_bytes(made.content)
            except FileExistsError as error:
                raise exists_already(job.target) from error
            finally:
                unnamed.unlink(missing_ok=True)
        return replace(made.outcome, input=job.source, output=job.target)

    def _calls(self) -> Iterator[Call]:
        """Yield the tasks, in order."""
        most = -(-len(self._jobs) // (self._cluster.slots * _BATCHES_FOR_EACH_SLOT))
        size = min(_MOST_IN_BATCH, max(1, most))
        batch: list[Job] = []
        for number, job in enumerate(self._jobs):
            try:
                if not self._overwrite and os.path.lexists(job.target):
                    raise exists_already(job.target)
                ensure_folder(job.target.parent)
                self._requests[job] = ImageRequest(Parcel(job.source), job.kind, f"{number}{job.target.suffix}")
            except OverNetError as error:
                self._made[job] = error
                continue
            batch.append(job)
            if len(batch) == size:
                yield self._call(batch)
                batch = []
        if batch:
            yield self._call(batch)

    def _call(self, jobs: list[Job]) -> Call:
        requests = [self._requests[job] for job in jobs]
        name = printable(jobs[0].source) + (f" and {len(jobs) - 1} more" if len(jobs) > 1 else "")
        arguments = (self._request, requests, self._unnamed, self._quality, self._start_seconds)
        parcels = [*(request.source for request in requests), *self._request.model.parcels]
        return Call(make_images, arguments, name, parcels=parcels, item=jobs)

    def _take(self, call: Call, result: list[MadeImage | OverNetError] | OverNetError) -> None:
        jobs: list[Job] = call.item
        if isinstance(result, OverNetError) and len(jobs) > 1:
            # One of them may have ended the process: each is tried alone.
            for single, made in self._cluster.run(self._call([job]) for job in jobs):
                self._take(single, made)
            return
        self._made.update(zip(jobs, repeat(result) if isinstance(result, OverNetError) else result, strict=False))


@contextmanager
def _unnamed_results(folders: list[Path]) -> Iterator[SharedFolder]:
    """Make a folder for results on the disk of some folders; those of runs that were killed are removed.

    Raises:
        OutputError: it cannot be made.
    """
    root = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))  # noqa: PTH100 (links may differ)
    ensure_folder(root)
    with ExitStack() as closing_later:
        with file_errors(OutputError, root, " cannot be written"):
            path = closing_later.enter_context(temporary_folder(root))
        yield SharedFolder(path, "")
