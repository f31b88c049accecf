"""Our backends and their baselines, timed in turns in one process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field

from overnet.benchmarks.results import CaseResult, Ratio
from overnet.errors import BackendError, InputError, InterruptedRun, MissingDependency, OverNetError
from overnet.files.checked_json import from_json
from overnet.system.child_process import child_environment, exit_reason

_LARGEST_INPUT_SIDE = 1 << 14
_COMMAND = "from overnet.benchmarks.baselines.race_child import main; main()"


@dataclass(frozen=True)
class Entrant:
    """A backend that takes part.

    Attributes:
        backend, precision: as method and precision of a `overnet.benchmarks.results.Case`.
    """

    backend: str
    precision: str = "fp32"


@dataclass(frozen=True)
class ImageSize:
    """An input's size in pixels."""

    width: int
    height: int

    def check(self) -> None:
        """Refuse a size that cannot be benchmarked.

        Raises:
            InputError: a side is out of range.
        """
        if not 1 <= min(self.width, self.height) <= max(self.width, self.height) <= _LARGEST_INPUT_SIDE:
            raise InputError(f"size is {self.width}x{self.height}; each side must be from 1 to {_LARGEST_INPUT_SIDE}")


@dataclass(frozen=True)
class RaceRequest:
    """A race at one scale.

    Attributes:
        entrants: the backends.
        scale: from input to output height and width.
        sizes: at least one; raced one after the other, the smallest first.
        batch: images given at once.
        seconds: what all rounds of all sizes are to take, about. Loading, first runs, and judging the results come on
            top. A baseline of which even three rounds take longer than a size's share of it is not raced at that size,
            and its result says so; the smallest size may take all of it.
        model, threads, device, provider: as `overnet.runtime.upscaler.Upscaler` takes them.
        baseline_models: see `overnet.benchmarks.baselines.registry.BaselineOptions`.
        data: images to judge the results on; see `overnet.benchmarks.cases.ground_truth.read_ground_truth`.
        only: the baselines to race, by name; empty for all that are there.
    """

    entrants: list[Entrant]
    scale: int
    sizes: list[ImageSize]
    batch: int = 1
    seconds: float = 30.0
    model: str | None = None
    threads: int | None = None
    device: int = 0
    provider: str = "cpu"
    baseline_models: str | None = None
    data: str | None = None
    only: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RaceOutcome:
    """What a race came to.

    Attributes:
        results: of the baselines, by size; those of the backends are measured each in a process of its own.
        ratios: of each backend to each baseline of the same size.
        notes: which baselines are not there and why, and what failed; one line each.
    """

    results: list[CaseResult]
    ratios: list[Ratio]
    notes: list[str]


@dataclass(frozen=True)
class Reply:
    """What the process says at its end: the outcome, or the one line of an error and its kind."""

    outcome: RaceOutcome | None = None
    error: str | None = None
    kind: str = "BackendError"


_ERRORS: dict[str, type[OverNetError]] = {
    kind.__name__: kind for kind in (BackendError, InputError, InterruptedRun, MissingDependency)
}


def run_race(request: RaceRequest) -> RaceOutcome:
    """Run a race in a process of its own: whatever libraries do there to threads or memory is gone with it.

    Raises:
        InputError: the request cannot be met: a size, the scale, the model, or the images to judge on.
        MissingDependency: what a backend needs is not installed.
        BackendError: the process crashed, or was killed.
    """
    command = [sys.executable, "-c", _COMMAND]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )
        try:
            said, _ = process.communicate(json.dumps(asdict(request)))
        finally:
            # After a regular end this does nothing.
            process.kill()
            process.wait()
        errors.seek(0)
        complaints = errors.read().decode("utf-8", "replace")
    if process.returncode:
        reason = exit_reason("its process", process.returncode, complaints)
        raise BackendError(f"the race against baselines at x{request.scale} failed: {reason}")
    reply = from_json(Reply, json.loads(said), name="the race")
    if reply.outcome is None:
        raise _ERRORS.get(reply.kind, BackendError)(reply.error or "the race failed without a word")
    return reply.outcome
