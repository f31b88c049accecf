"""The whole benchmark: which cases there are, all that is measured of them, and the run that it makes."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from overnet.benchmarks.baselines.race import Entrant, RaceRequest, run_race
from overnet.benchmarks.cases.ground_truth import read_ground_truth
from overnet.benchmarks.cases.memory import growth
from overnet.benchmarks.cases.method import on_gpu, open_upscaler
from overnet.benchmarks.cases.quality import check_image, make_reference, write_reference
from overnet.benchmarks.cases.run import CaseRequest, run_case
from overnet.benchmarks.cases.video_stages import measure_video
from overnet.benchmarks.machine import describe_machine
from overnet.benchmarks.options import BenchmarkOptions, check_options
from overnet.benchmarks.peak import measure_peaks, share_of_peak
from overnet.benchmarks.power.record import find_source
from overnet.benchmarks.report.sample_images import make_samples
from overnet.benchmarks.results import (
    BenchmarkRun,
    Case,
    CaseResult,
    MemoryGrowth,
    Peak,
    QualityFigures,
    Ratio,
    SampleImages,
    VideoStages,
)
from overnet.errors import OverNetError
from overnet.evaluation.model_choice import choose_model, describe
from overnet.runtime.backends.ort.providers import check_provider
from overnet.runtime.backends.registry import BACKENDS, choose_backends
from overnet.runtime.models import find_models
from overnet.system.cuda_device import check_device, cuda_device, free_device_memory_bytes
from overnet.system.memory import available_memory_bytes
from overnet.types import Progress, Upscale
from overnet.weights import bundled_checkpoint, bundled_folder

_FEWEST_FRAMES, _MOST_FRAMES = 10, 300
# The load average per processor above which figures are not reproducible.
_BUSY_LOAD = 0.25


def run_benchmark(
    options: BenchmarkOptions, *, command: list[str], on_progress: Progress = lambda doing, done, total: None
) -> BenchmarkRun:
    """Measure everything that the options request.

    Args:
        command: as typed, to be kept with the results.
        on_progress: is called at every step with its title, the number of finished steps and the number of all steps.

    Returns:
        The run. A case that fails has an error in place of figures, and the others are measured nevertheless. After
        Ctrl-C the run is marked as interrupted and holds what was measured until then.

    Raises:
        KeyboardInterrupt: at Ctrl-C before the first case was measured.
        InputError: an option is out of range, or the model or the data are unusable.
        ArtifactError: the model is no ONNX file of OverNet, or broken.
        MissingDependency: a backend requested by name is not installed.
        BackendError: the requested GPU does not exist.
    """
    return _Benchmark(options, on_progress).run(command)


class _Benchmark:
    """The state of one run."""

    def __init__(self, options: BenchmarkOptions, on_progress: Progress) -> None:
        self.options, self._on_progress = options, on_progress
        self.results: list[CaseResult] = []
        self.videos: list[VideoStages] = []
        self.ratios: list[Ratio] = []
        self.images: list[SampleImages] = []
        self.notes: list[str] = []
        check_options(options)
        for scale in options.scales:
            read_ground_truth(options.data, scale)  # raises early if the images are unusable
        backends = []
        for name in options.backends:  # "auto" becomes a backend's name, and a named backend has to be installed
            if options.model is None or not options.model.is_dir():
                backends.append(find_models(options.model, name, None)[0][0].name)
            else:  # a folder's file is chosen by precision for each case; the folder may hold other files
                backends.append(choose_backends(name, "onnx" if name != "torch" else "checkpoint")[0].name)
        self.backends = list(dict.fromkeys(backends))
        check_provider(options.provider, backend=max(self.backends, key=lambda name: name == "onnxruntime"))
        self._gpu = options.device if any(on_gpu(name, options.provider) for name in self.backends) else None
        if self._gpu is not None:
            check_device(self._gpu)
        self.entries = {
            scale: [
                Entrant(backend, precision)
                for backend in self.backends
                for precision in dict.fromkeys(options.precisions or [self._usual_precision(backend, scale)])
            ]
            for scale in options.scales
        }
        self._has_power = options.power
        self._total = 2 + sum(
            len(entries) * (len(options.sizes) + int(options.video and scale == options.scales[0])) + options.baselines
            for scale, entries in self.entries.items()
        )
        self._done = 0

    def run(self, command: list[str]) -> BenchmarkRun:
        """Measure everything; after Ctrl-C, return what was measured until then."""
        started, began = datetime.now().astimezone(), time.monotonic()
        load = None
        with suppress(AttributeError, OSError):  # on Windows there is none
            load = os.getloadavg()[0] / (os.cpu_count() or 1)
        if load is not None and load > _BUSY_LOAD:
            self.notes.append(
                f"the machine was busy before the run (load {100 * load:.0f}% of its processors): figures are too slow"
            )
        self._step("looking at the machine")
        machine = describe_machine()
        peaks = measure_peaks(self._gpu)
        if self._has_power:
            try:
                find_source(self._gpu)
            except OverNetError as error:
                self.notes.append(f"no power figures: {error}")
                self._has_power = False
        interrupted = False
        try:
            self._measure(peaks)
        except KeyboardInterrupt:
            if not self.results:
                raise
            interrupted = True
            self.notes.append("interrupted: not everything was measured")
        return BenchmarkRun(
            started=started.isoformat(timespec="seconds"),
            command=command,
            seconds=time.monotonic() - began,
            machine=machine,
            options=self.options.as_texts(),
            results=self.results,
            ratios=self.ratios,
            growth=self._growth(),
            videos=self.videos,
            peaks=peaks,
            images=self.images,
            load_average=load,
            notes=list(dict.fromkeys(self.notes)),
            interrupted=interrupted,
        )

    def _measure(self, peaks: list[Peak]) -> None:
        """Measure the cases first, because they matter most if the run is interrupted."""
        self.results.extend(_with_share(result, peaks) for result in self._cases())
        if self.options.video:
            self.videos.extend(self._videos())
        if self.options.baselines:
            for scale in self.options.scales:
                self._race(scale, peaks)
        self._step("making the report")
        if self.options.images:
            self._make_images()

    def _growth(self) -> list[MemoryGrowth]:
        """Fit the growth of memory, up to a GPU's own memory, the host's memory or the given memory."""
        given = self.options.memory_bytes
        gpu = None if self._gpu is None else cuda_device(self._gpu)
        device_bytes = None
        if gpu is not None and self._gpu is not None and not gpu.shares_memory:
            device_bytes = given or free_device_memory_bytes(self._gpu)
        return growth(self.results, given or available_memory_bytes(), available_device_bytes=device_bytes)

    def _step(self, doing: str) -> None:
        self._on_progress(doing, self._done, self._total)
        self._done += 1

    def _usual_precision(self, backend: str, scale: int) -> str:
        model = self.options.model
        if model is not None and model.suffix.lower() in (".onnx", ".engine"):
            artifact = describe(model)
            if artifact is not None and not (BACKENDS[backend].on_gpu and artifact.precision == "fp32"):
                return artifact.precision
        if BACKENDS[backend].on_gpu:
            return "fp16"
        default = bundled_checkpoint() if backend == "torch" else bundled_folder()
        return choose_model(model or default, scale, None).precision

    def _cases(self) -> Iterator[CaseResult]:
        """Measure each case in a process of its own."""
        options = self.options
        judged: dict[tuple[Entrant, int], QualityFigures] = {}
        with tempfile.TemporaryDirectory(prefix="overnet-bench-") as name:
            for scale, entries in self.entries.items():
                for size in options.sizes:
                    file = Path(name) / f"x{scale}_{size.width}x{size.height}.npz"
                    image = check_image(size.width, size.height)
                    write_reference(make_reference(image, scale, options.model), file)
                    for entry in entries:
                        case = entry.case(scale, size, options.batch)
                        self._step(case.title)
                        known = judged.get((entry, scale))
                        request = replace(self._request(case), reference_file=file, judge_ground_truth=known is None)
                        result = run_case(request, on_progress=self._within)
                        if result.quality is not None:
                            judged.setdefault((entry, scale), result.quality)
                            if known is not None:  # it does not depend on the case's size
                                result = replace(result, quality=result.quality.with_ground_truth_of(known))
                        yield result

    def _within(self, doing: str, done: int, total: int) -> None:
        """Report progress within a step, such as building an engine."""
        share = f" {done}/{total}" if total else ""
        self._on_progress(f"{doing}{share}", self._done - 1, self._total)

    def _request(self, case: Case) -> CaseRequest:
        return CaseRequest(case, measure_power=self._has_power, **self.options.passed_on())

    def _videos(self) -> Iterator[VideoStages]:
        """Upscale a clip of the first size at the first scale with each backend that was measured."""
        size, scale = self.options.sizes[0], self.options.scales[0]
        for result in self.results:
            case = result.case
            if (case.width, case.height, case.scale) != (size.width, size.height, scale):
                continue
            self._step(f"{case.name} x{scale}: a video of {size.width}x{size.height}")
            if result.images_per_second is None:
                continue
            frames = int(self.options.seconds * result.images_per_second)
            try:
                with open_upscaler(self._request(case)) as upscaler:
                    stages = measure_video(
                        upscaler,
                        scale,
                        width=size.width,
                        height=size.height,
                        frames=min(max(frames, _FEWEST_FRAMES), _MOST_FRAMES),
                    )
            except (OverNetError, MemoryError) as error:
                self.notes.append(f"{case.name} x{scale}: no figures for video: {error}")
            else:
                yield stages

    def _race(self, scale: int, peaks: list[Peak]) -> None:
        options = self.options
        self._step(f"x{scale}: baselines")
        request = RaceRequest(
            entrants=self.entries[scale],
            scale=scale,
            sizes=options.sizes,
            batch=options.batch,
            **options.passed_on() | {"seconds": 2 * options.seconds * len(options.sizes)},
        )
        try:
            outcome = run_race(request)
        except OverNetError as error:
            self.notes.append(f"x{scale}: no race against baselines: {error}")
            return
        self.results += [_with_share(result, peaks) for result in outcome.results]
        self.ratios += outcome.ratios
        self.notes += outcome.notes

    def _make_images(self) -> None:
        """Upscale a real image with each method at each scale, for the report."""
        for scale, entries in self.entries.items():
            methods: dict[str, Upscale] = {}
            with ExitStack() as stack:
                for entry in entries:
                    # The cases of a method that cannot be loaded report that already.
                    with suppress(OverNetError, MemoryError):
                        case = entry.case(scale, self.options.sizes[0], self.options.batch)
                        methods[case.name] = stack.enter_context(open_upscaler(self._request(case)))
                try:
                    self.images += make_samples(methods, scale, self.options.data)
                except (OverNetError, MemoryError) as error:
                    self.notes.append(f"x{scale}: no images for the report: {error}")


def _with_share(result: CaseResult, peaks: list[Peak]) -> CaseResult:
    """Add the share of the machine's peak, if both are known."""
    peak = next((peak for peak in peaks if result.device.startswith(peak.device)), None)
    if peak is None or result.latency is None or result.multiply_accumulates is None:
        return result
    seconds = result.latency.host.p50_ms / 1000
    work = result.multiply_accumulates * result.case.batch
    return replace(result, share_of_peak=share_of_peak(work, seconds, peak))
