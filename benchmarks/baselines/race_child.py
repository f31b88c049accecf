"""The process that runs a race: the request is JSON on stdin, the reply JSON on stdout."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from overnet.benchmarks.baselines.baseline import Baseline
from overnet.benchmarks.baselines.interleave import LEAST_ROUNDS, Times, in_common, plan_rounds, take_turns
from overnet.benchmarks.baselines.race import RaceOutcome, RaceRequest, Reply
from overnet.benchmarks.baselines.registry import find_baselines, import_libraries
from overnet.benchmarks.cases.ground_truth import read_ground_truth
from overnet.benchmarks.cases.latency import timed
from overnet.benchmarks.cases.method import import_backend
from overnet.benchmarks.cases.quality import check_image, make_reference, quality_of
from overnet.benchmarks.cases.run import CaseRequest
from overnet.benchmarks.options import ImageSize
from overnet.benchmarks.results import Case, CaseResult, Latency, QualityFigures, Ratio
from overnet.benchmarks.timing_stats import doubt, ratio_of_medians, spread
from overnet.errors import BackendError, InputError, OverNetError
from overnet.files.checked_json import from_json
from overnet.imaging.moving_photographs import batch_of
from overnet.system.child_process import end_with_parent
from overnet.system.memory import available_memory_bytes
from overnet.types import ImageBatch

# The share of the available memory that a baseline may take by its estimate.
_MEMORY_SHARE = 0.7
# In a longer run, the initialisation of the first run is negligible.
_SLOW_SECONDS = 2.0


@dataclass
class LoadedBaseline:
    """A baseline that takes part.

    Attributes:
        quality: measured once, for all sizes.
        seconds_per_pixel: at the last size; None before the first.
    """

    baseline: Baseline
    load_ms: float
    quality: QualityFigures
    seconds_per_pixel: float | None = None


@dataclass
class _Race:
    """The race of one scale."""

    request: RaceRequest
    results: list[CaseResult] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> RaceOutcome:
        sizes = sorted(self.request.sizes, key=lambda size: size.width * size.height)
        baselines = self._judged(self._loaded_baselines(), sizes)
        share = self.request.seconds / len(sizes)
        for index, size in enumerate(sizes):
            # Even on a slow machine, every baseline is timed at one size.
            _OneSize(self, size, share, limit=share if index else self.request.seconds).run(baselines)
        return RaceOutcome(self.results, self.ratios, self.notes)

    def _loaded_baselines(self) -> list[tuple[Baseline, float]]:
        """Load the requested baselines that are installed; return each with its loading time in milliseconds."""
        request = self.request
        loaders = find_baselines(request.scale, request)
        self.notes += [
            f"there is no baseline {name!r} at x{request.scale}" for name in request.only if name not in loaders
        ]
        loaded = []
        for name, loader in loaders.items():
            if request.only and name not in request.only:
                continue
            import_libraries(name)
            try:
                loaded.append(timed(loader))
            except OverNetError as error:
                self.notes.append(f"{name} is not raced at x{request.scale}: {error}")
        return loaded

    def _judged(self, loaded: list[tuple[Baseline, float]], sizes: list[ImageSize]) -> list[LoadedBaseline]:
        """Measure the quality of each baseline. One that fails is left out, because its speed would mean nothing."""
        request = self.request
        # Raises if the images are unusable, which is no baseline's failure.
        read_ground_truth(request.data, request.scale)
        reference = None
        if any(baseline.is_network for baseline, _ in loaded):
            image = check_image(sizes[0].width, sizes[0].height)
            reference = make_reference(image, request.scale, request.model)
        judged = []
        for baseline, load_ms in loaded:
            try:
                quality = quality_of(
                    lambda image, baseline=baseline: baseline.upscale(image[None])[0],  # type: ignore[misc]
                    request.scale,
                    reference=reference if baseline.is_network else None,
                    ground_truth=request.data,
                )
            except Exception as error:  # third-party code may raise anything; the race goes on
                reason = f"it failed on the images that measure its quality: {_line(error)}"
                self.results += [self.failure(baseline, size, reason) for size in sizes]
            else:
                judged.append(LoadedBaseline(baseline, load_ms, quality))
        return judged

    def case(self, baseline: Baseline, size: ImageSize) -> Case:
        """Return the case of a baseline at a size."""
        request = self.request
        return Case(
            baseline.name, "baseline", baseline.precision, request.scale, size.width, size.height, request.batch
        )

    def failure(self, baseline: Baseline, size: ImageSize, reason: str) -> CaseResult:
        """Return the result of a baseline that failed."""
        return CaseResult(self.case(baseline, size), baseline.device, baseline.model, error=reason)


@dataclass
class _OneSize:
    """The race at one size.

    Attributes:
        seconds: the approximate time of the rounds.
        limit: if the minimum of rounds of all baselines takes longer than this, the slowest are left out. Backends are
            always timed.
    """

    race: _Race
    size: ImageSize
    seconds: float
    limit: float
    # By the case's name.
    methods: dict[str, Callable[[], object]] = field(default_factory=dict)
    seconds_each: dict[str, float] = field(default_factory=dict)
    first_ms: dict[str, float] = field(default_factory=dict)

    def run(self, baselines: list[LoadedBaseline]) -> None:
        race = self.race.request
        images = batch_of(self.size.width, self.size.height, race.batch)
        backends: dict[str, Case] = {}
        with ExitStack() as stack:
            for entrant in race.entrants:
                case = entrant.case(race.scale, self.size, race.batch)
                try:
                    method = import_backend(CaseRequest(case, **race.passed_on()))(lambda doing, done, total: None)
                    stack.callback(method.close)
                    self._first_runs(case.name, method.upscale, images)
                    backends[case.name] = case
                except (OverNetError, MemoryError) as error:
                    self.race.notes.append(f"{case.title} is not raced: {_line(error)}")
            self._rounds(baselines, images, backends)

    def _first_runs(self, name: str, upscale: Callable[[ImageBatch], ImageBatch], images: ImageBatch) -> None:
        """Run a method until its initialisation is done, and measure a run."""
        _, first_ms = timed(lambda: upscale(images))
        again_ms = first_ms
        if first_ms < 1000 * _SLOW_SECONDS:
            _, again_ms = timed(lambda: upscale(images))
        self.methods[name] = lambda: upscale(images)
        self.seconds_each[name], self.first_ms[name] = again_ms / 1000, first_ms

    def _rounds(self, baselines: list[LoadedBaseline], images: ImageBatch, backends: dict[str, Case]) -> None:
        size, race = self.size, self.race
        for loaded in baselines:
            name = loaded.baseline.name
            if loaded.seconds_per_pixel is not None:
                seconds = loaded.seconds_per_pixel * size.width * size.height
                if LEAST_ROUNDS * seconds > self.limit:
                    self._leave_out(loaded, seconds)
                    continue
            needed = loaded.baseline.bytes_per_pixel * size.width * size.height * race.request.batch
            try:
                if needed > int(_MEMORY_SHARE * available_memory_bytes()):
                    raise BackendError(
                        f"not raced: it takes about {needed / 1e9:.1f} GB of memory, too much for this machine now"
                    )
                self._first_runs(name, loaded.baseline.upscale, images)
            except Exception as error:  # third-party code may raise anything; the race goes on
                race.results.append(race.failure(loaded.baseline, size, _line(error)))
            else:
                loaded.seconds_per_pixel = self.seconds_each[name] / (size.width * size.height)
        running = [loaded for loaded in baselines if loaded.baseline.name in self.methods]
        for loaded in sorted(running, key=lambda loaded: self.seconds_each[loaded.baseline.name], reverse=True):
            if LEAST_ROUNDS * sum(self.seconds_each[each.baseline.name] for each in running) <= self.limit:
                break
            self._leave_out(loaded, self.seconds_each.pop(loaded.baseline.name))
            running.remove(loaded)
        methods = {name: self.methods[name] for name in self.seconds_each}
        times = take_turns(methods, plan_rounds(self.seconds_each, self.seconds))
        for loaded in running:
            name, case = loaded.baseline.name, race.case(loaded.baseline, size)
            race.results.append(_result(loaded, case, times[name], self.first_ms[name]))
            for backend, backend_case in backends.items():
                ours, theirs = in_common(times[backend], times[name])
                race.ratios.append(Ratio(backend_case, case, *ratio_of_medians(theirs, ours), len(ours)))

    def _leave_out(self, loaded: LoadedBaseline, seconds: float) -> None:
        """Note that a run of a baseline takes too long."""
        self.race.notes.append(
            f"{self.race.case(loaded.baseline, self.size).title} is not raced: a run takes about {seconds:.2g} s, and "
            f"{LEAST_ROUNDS} of them do not fit into the {self.limit:.2g} s that all baselines have"
        )


def _result(loaded: LoadedBaseline, case: Case, times: Times, first_ms: float) -> CaseResult:
    milliseconds = list(times.values())
    host = spread(milliseconds)
    doubts = doubt("the latency", host)
    per_pixel = loaded.baseline.multiply_accumulates_per_pixel
    return CaseResult(
        case,
        loaded.baseline.device,
        loaded.baseline.model,
        latency=Latency(host, milliseconds),
        images_per_second=1000 * case.batch / host.mean_ms,
        load_ms=loaded.load_ms,
        first_ms=first_ms,
        quality=loaded.quality,
        multiply_accumulates=None if per_pixel is None else per_pixel * case.pixels,
        warnings=[] if doubts is None else [doubts],
    )


def _line(error: Exception) -> str:
    """Return an error's message on one line; for other errors than `OverNetError` with the class name."""
    if isinstance(error, OverNetError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def check_request(request: RaceRequest) -> None:
    """Check a request.

    Raises:
        InputError: there is no size, or a number is out of range.
    """
    if not request.sizes:
        raise InputError("a race takes at least one size")
    for size in request.sizes:
        size.check()
    for name, value in (("scale", request.scale), ("batch", request.batch)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    if not request.seconds > 0:
        raise InputError(f"seconds is {request.seconds:g}; it must be more than 0")


def race(request: RaceRequest) -> Reply:
    """Run a race in this process; return an `OverNetError` as a reply too."""
    try:
        check_request(request)
        return Reply(_Race(request).run())
    except OverNetError as error:
        return Reply(error=str(error), kind=type(error).__name__)


def main() -> None:
    """Answer one request. Libraries that print on stdout are redirected to stderr."""
    reply_to = os.dup(1)
    os.dup2(2, 1)
    request = from_json(RaceRequest, json.loads(sys.stdin.readline()), name="the request")
    end_with_parent()
    with os.fdopen(reply_to, "w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(race(request)), allow_nan=False) + "\n")
