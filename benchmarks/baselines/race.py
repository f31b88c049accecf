"""Backends and baselines, timed in turns in a separate process."""

from dataclasses import asdict, dataclass, field

from overnet.benchmarks.options import ImageSize, MeasuringOptions
from overnet.benchmarks.results import Case, CaseResult, Ratio
from overnet.errors import BackendError, InputError, InterruptedRun, MissingDependency, OverNetError
from overnet.files.checked_json import from_json
from overnet.system.child_process import PythonChild

_COMMAND = "from overnet.benchmarks.baselines.race_child import main; main()"


@dataclass(frozen=True)
class Entrant:
    """A backend in one precision."""

    backend: str
    precision: str = "fp32"

    def case(self, scale: int, size: ImageSize, batch: int) -> Case:
        """Return its case at a scale and a size."""
        return Case(self.backend, "backend", self.precision, scale, size.width, size.height, batch)


@dataclass(frozen=True)
class RaceRequest(MeasuringOptions):
    """A race at one scale.

    `seconds` does not include loading, first runs and quality. A baseline whose minimum of rounds takes longer than a
    size's share is not timed at that size, which a note says; the smallest size may take all of the time.

    Attributes:
        entrants: the backends.
        scale: from input to output height and width.
        sizes: at least one; timed one after the other, the smallest first.
        batch: images per call.
        only: the names of the baselines to time; empty for all.
    """

    entrants: list[Entrant]
    scale: int
    sizes: list[ImageSize]
    batch: int = 1
    only: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RaceOutcome:
    """The outcome of a race.

    Attributes:
        results: of the baselines, by size; those of the backends are measured each in a process of its own.
        ratios: of each backend to each baseline of the same size.
        notes: which baselines are missing and why, and what failed; one line each.
    """

    results: list[CaseResult]
    ratios: list[Ratio]
    notes: list[str]


@dataclass(frozen=True)
class Reply:
    """The reply of the process: the outcome, or the message and the class name of an error."""

    outcome: RaceOutcome | None = None
    error: str | None = None
    kind: str = "BackendError"


_ERRORS: dict[str, type[OverNetError]] = {
    kind.__name__: kind for kind in (BackendError, InputError, InterruptedRun, MissingDependency)
}


def run_race(request: RaceRequest) -> RaceOutcome:
    """Run a race in a separate process, so that what libraries do to threads and memory ends with it.

    Raises:
        InputError: a size, the scale, the model or the real images are unusable.
        MissingDependency: a backend's library is not installed.
        BackendError: the process crashed, or was killed.
    """
    with PythonChild(("-c", _COMMAND), title="its process") as process:
        process.send(asdict(request))
        messages = list(process.messages())
        if not messages:
            raise BackendError(f"the race against baselines at x{request.scale} failed: {process.reason()}")
    reply = from_json(Reply, messages[-1], name="the race")
    if reply.outcome is None:
        raise _ERRORS.get(reply.kind, BackendError)(reply.error or "the race failed without an error message")
    return reply.outcome
