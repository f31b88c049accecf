"""What a benchmark found: all of it, as it is measured, reported, kept in a file and compared with another run's.

Nothing here measures or prints. Times are in milliseconds, memory in bytes, power in watts, and the names say so. None
stands for what could not be measured on the machine at hand, never for a zero.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from overnet.errors import InputError
from overnet.files.atomic import atomic_write, printable
from overnet.files.checked_json import from_json

FORMAT = "overnet benchmark 1"
_LARGEST_FILE_BYTES = 1 << 28

MethodKind = Literal["backend", "baseline"]


@dataclass(frozen=True)
class Case:
    """What is measured: a method at one scale, for one size.

    Attributes:
        method: a backend's name, such as ``"openvino"``, or a baseline's, such as ``"bicubic"``.
        kind: which of the two.
        precision: of the arithmetic: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``.
        scale: from input to output height and width.
        width, height: of the input in pixels.
        batch: images given at once.
    """

    method: str
    kind: MethodKind
    precision: str
    scale: int
    width: int
    height: int
    batch: int = 1

    @property
    def pixels(self) -> int:
        """Of the input, of one image."""
        return self.width * self.height

    @property
    def name(self) -> str:
        """The method with its precision, for people; a baseline's precision says nothing that its name does not."""
        return self.method if self.kind == "baseline" else f"{self.method} {self.precision}"

    @property
    def title(self) -> str:
        """All of it in one short line."""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return f"{self.name} x{self.scale} {self.width}x{self.height}{batch}"


@dataclass(frozen=True)
class Spread:
    """Repeated times of one thing, in milliseconds a batch.

    Attributes:
        runs: how many.
        p50_ms, p90_ms, p95_ms, p99_ms: percentiles, between the two nearest runs in proportion; p50 is the median.
        deviation_percent: standard deviation as a share of the mean.
    """

    runs: int
    mean_ms: float
    minimum_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    deviation_percent: float


@dataclass(frozen=True)
class Latency:
    """How long one batch takes, from an array in the host's memory to an array in the host's memory.

    Attributes:
        host: by the host's clock, everything included.
        copy_in, compute, copy_out: by the GPU's own clock (CUDA events). None on a CPU, where nothing is copied.
        samples_ms: of `host`, in the order of the runs: another run is compared with them, not with their median alone.
    """

    host: Spread
    samples_ms: list[float]
    copy_in: Spread | None = None
    compute: Spread | None = None
    copy_out: Spread | None = None


@dataclass(frozen=True)
class Memory:
    """What a case takes, measured in a process of its own.

    Attributes:
        peak_host_bytes: the process's largest resident set, with Python and all libraries.
        before_host_bytes: its resident set when the method was imported but no model was loaded yet.
        device_bytes: what the GPU's memory lost between loading and the end; of a Jetson, part of the host's. None
            without a GPU.
        activation_bytes: what the engine itself states that it needs for intermediate results; None for other backends.
        bytes_per_input_pixel: ``(peak - before) / (batch * pixels)``, plus the GPU's share where it is memory of its
            own.
    """

    peak_host_bytes: int
    before_host_bytes: int
    bytes_per_input_pixel: float
    device_bytes: int | None = None
    activation_bytes: int | None = None


@dataclass(frozen=True)
class QualityFigures:
    """How good the images are that the case makes.

    Attributes:
        reference: what the network's exact result was computed by, in words, such as ``"PyTorch 2.13 fp32"``.
        reference_psnr_db: to the network's exact result, over all channels; None where every level is equal, and for
            methods that are not the network.
        largest_difference_levels: the largest difference from it, 0 to 255; None for methods that are not the network.
        ground_truth_psnr_db, ground_truth_ssim: to real high-resolution images, on luma by the papers' protocol; the
            mean of `ground_truth`.
        ground_truth: which images, in words; None without.
    """

    reference: str
    reference_psnr_db: float | None
    largest_difference_levels: int | None
    ground_truth_psnr_db: float | None = None
    ground_truth_ssim: float | None = None
    ground_truth: str | None = None

    @property
    def words(self) -> str:
        """The closest figure that there is, in words."""
        if self.largest_difference_levels == 0:
            return "identical to the reference"
        if self.reference_psnr_db is not None:
            return f"{self.reference_psnr_db:.1f} dB to the reference"
        return "-" if self.ground_truth_psnr_db is None else f"{self.ground_truth_psnr_db:.2f} dB to the ground truth"


@dataclass(frozen=True)
class Power:
    """What the machine drew while a case ran without pause.

    Attributes:
        source: where the figures come from, such as ``"INA3221"``, ``"NVML"``, ``"RAPL"``.
        covers: what they cover, in words, such as ``"the whole module (VDD_IN)"`` or ``"CPU packages"``.
        samples: how many.
        mean_watts, largest_watts: while it ran.
        idle_watts: before it ran; None where that was not measured.
        joules_per_image: mean power times time, by images done.
        clocks_mhz: means while it ran, by part, such as ``{"gpu": 918.0}``.
        temperatures_celsius: largest while it ran, by sensor.
        power_mode: such as ``"MAXN"``; None where there is no such thing.
        throttled: why it was slowed down, in words; empty: it was not; None: that cannot be known here.
    """

    source: str
    covers: str
    samples: int
    mean_watts: float
    largest_watts: float
    joules_per_image: float
    idle_watts: float | None = None
    clocks_mhz: dict[str, float] = field(default_factory=dict)
    temperatures_celsius: dict[str, float] = field(default_factory=dict)
    power_mode: str | None = None
    throttled: list[str] | None = None


@dataclass(frozen=True)
class Sustained:
    """How the speed holds while a case runs without pause.

    Attributes:
        seconds: how long it ran.
        images_per_second: in each tenth of that time, in order.
    """

    seconds: float
    images_per_second: list[float]


@dataclass(frozen=True)
class CaseResult:
    """What a case came to.

    Attributes:
        device: what it ran on, for people.
        model: the model's file name; empty where there is none.
        latency, quality: None only where `error` says why.
        memory: None besides for baselines, which are measured together in one process.
        images_per_second: with as many on their way at once as the method takes (on a GPU, all slots).
        load_ms: from a model's file to a method that is ready.
        first_ms: how long the first image took after that.
        multiply_accumulates: of one image; None where it is not known (baselines that are no network).
        share_of_peak: the arithmetic done a second, as a share of what the machine was measured to do at most in
            float32.
        warnings: what makes a figure doubtful, one line each.
        error: why it failed, in one line; then there are no figures.
    """

    case: Case
    device: str
    model: str = ""
    latency: Latency | None = None
    images_per_second: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    memory: Memory | None = None
    quality: QualityFigures | None = None
    power: Power | None = None
    sustained: Sustained | None = None
    multiply_accumulates: float | None = None
    share_of_peak: float | None = None
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Ratio:
    """How many times as fast a case is as a baseline: medians of runs that took turns, in one process.

    Attributes:
        case, baseline: which; both of the same scale, size and batch.
        times_as_fast: the baseline's median time by the case's.
        low, high: the 95% confidence interval of that, by resampling the rounds.
        rounds: how many.
    """

    case: Case
    baseline: Case
    times_as_fast: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class MemoryGrowth:
    """How a method's memory grows with the image: ``fixed_bytes + bytes_per_pixel * pixels``, least squares.

    Attributes:
        largest_misfit_percent: how far a measured point is from the line at most; a large one makes the line doubtful.
        available_bytes: what the machine had when it was measured, or what was asked about.
        largest_pixels: the input that would take all of that.
    """

    method: str
    precision: str
    scale: int
    fixed_bytes: float
    bytes_per_pixel: float
    largest_misfit_percent: float
    available_bytes: int
    largest_pixels: int


@dataclass(frozen=True)
class VideoStages:
    """A video from file to file, and what each stage could do by itself.

    Attributes:
        method, precision, scale, width, height: as of a `Case`.
        frames: in the video.
        decode_fps, upscale_fps, encode_fps: frames by the seconds that a stage was at work.
        total_fps: frames by the time from beginning to end; at best the slowest stage's.
        codec: of the result.
    """

    method: str
    precision: str
    scale: int
    width: int
    height: int
    frames: int
    decode_fps: float
    upscale_fps: float
    encode_fps: float
    total_fps: float
    codec: str

    @property
    def held_back_by(self) -> str:
        """The slowest stage."""
        stages = {"decode": self.decode_fps, "upscale": self.upscale_fps, "encode": self.encode_fps}
        return min(stages, key=lambda stage: stages[stage])


@dataclass(frozen=True)
class Peak:
    """What the machine itself can do at most, measured in the same run.

    Attributes:
        device: ``"CPU"``, or a GPU's name.
        gflops_fp32: billions of float32 operations a second in a large product of matrices; a multiply-add counts as
            two.
        copy_gigabytes_per_second: bytes read and written by a large copy in memory, both counted.
        measured_by: the library that did it, such as ``"NumPy (OpenBLAS)"``.
    """

    device: str
    gflops_fp32: float
    copy_gigabytes_per_second: float
    measured_by: str


@dataclass(frozen=True)
class Machine:
    """Where it ran, and with what.

    Attributes:
        name: one line: the board's or the processor's name.
        cores: that may be used.
        gpus: by name, with memory and driver, one line each.
        versions: of Python, overnet and every library in use, by name.
        settings: what else has a say in speed, by name, such as the governor, the power mode, JetPack's version.
    """

    name: str
    system: str
    processor: str
    cores: int
    memory_bytes: int
    gpus: list[str]
    versions: dict[str, str]
    settings: dict[str, str]


@dataclass(frozen=True)
class SampleImages:
    """Images for the report's before/after slider: PNG files as base64 text, all of the same detail and size.

    Attributes:
        name: of the image.
        scale: that it was upscaled by.
        before: bicubic enlargement.
        after: by the name of a case (``"openvino fp32"``), in the order measured.
        ground_truth: the high-resolution image; None where there is none.
    """

    name: str
    scale: int
    before: str
    after: dict[str, str]
    ground_truth: str | None = None


@dataclass(frozen=True)
class BenchmarkRun:
    """One run of ``overnet-bench``, with all that it takes to repeat it.

    Attributes:
        started: date and time, ISO 8601 with the offset from UTC.
        command: as it was typed.
        seconds: how long it took altogether.
        options: the command's options with their defaults, by name.
        load_average: of the machine before the run by processors, 0: idle; None where the system does not say.
        notes: what a reader has to know, one line each.
        interrupted: whether it was ended before everything was measured.
    """

    started: str
    command: list[str]
    seconds: float
    machine: Machine
    options: dict[str, str]
    results: list[CaseResult]
    ratios: list[Ratio] = field(default_factory=list)
    growth: list[MemoryGrowth] = field(default_factory=list)
    videos: list[VideoStages] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)
    images: list[SampleImages] = field(default_factory=list)
    load_average: float | None = None
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"format": FORMAT, **asdict(self)}


def write_run(run: BenchmarkRun, path: Path, *, overwrite: bool) -> None:
    """Write a run as JSON.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(run.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_run(path: Path) -> BenchmarkRun:
    """Read a run that `write_run` wrote.

    Raises:
        InputError: the file cannot be read, is too large, or no such run; the field is named.
    """
    name = printable(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise InputError(f"{name}: larger than any benchmark's results")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not JSON, or damaged") from error
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise InputError(f"{name}: not the results of overnet-bench, or of another version of it")
    return from_json(BenchmarkRun, value, name=name)
