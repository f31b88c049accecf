"""The results of a benchmark, as they are measured, reported, kept in a file and compared with those of another run.

Times are in milliseconds, memory in bytes, power in watts, as the names say. None stands for what could not be measured
on the machine, never for a zero.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from overnet.benchmarks.timing_stats import Spread
from overnet.errors import InputError, file_errors, printable
from overnet.files.atomic import atomic_write
from overnet.files.checked_json import from_json, parse_object

FORMAT = "overnet benchmark 1"
_LARGEST_FILE_BYTES = 1 << 28

MethodKind = Literal["backend", "baseline"]


@dataclass(frozen=True)
class Case:
    """A method at one scale, for one input size.

    Attributes:
        method: a backend's name, such as ``"openvino"``, or a baseline's, such as ``"bicubic"``.
        precision: of the arithmetic: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``.
        scale: from input to output height and width.
        width, height: of the input in pixels.
        batch: images per call.
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
        """Return the pixels of one input image."""
        return self.width * self.height

    @property
    def name(self) -> str:
        """Return the method with its precision; a baseline's name implies its precision."""
        return self.method if self.kind == "baseline" else f"{self.method} {self.precision}"

    @property
    def title(self) -> str:
        """Describe the case in one short line."""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return f"{self.name} x{self.scale} {self.width}x{self.height}{batch}"


@dataclass(frozen=True)
class Latency:
    """The time of one batch, from an array in the host's memory to an array in the host's memory.

    Attributes:
        host: by the host's clock, everything included.
        samples_ms: the times of `host`, in order, for the comparison with another run.
        copy_in, compute, copy_out: by the GPU's clock (CUDA events); None on a CPU, where nothing is copied.
    """

    host: Spread
    samples_ms: list[float]
    copy_in: Spread | None = None
    compute: Spread | None = None
    copy_out: Spread | None = None


@dataclass(frozen=True)
class Memory:
    """The memory that a case takes, measured in a process of its own.

    Attributes:
        peak_host_bytes: the process's peak resident set, with Python and all libraries.
        before_host_bytes: its resident set after the imports and before a model was loaded.
        bytes_per_input_pixel: ``(peak - before) / (batch * pixels)``, plus the GPU's share if it has its own memory.
        device_bytes: the decrease of the GPU's free memory; on a Jetson part of the host's. None without a GPU.
        activation_bytes: the engine's own figure for its intermediate results; None for other backends.
    """

    peak_host_bytes: int
    before_host_bytes: int
    bytes_per_input_pixel: float
    device_bytes: int | None = None
    activation_bytes: int | None = None


@dataclass(frozen=True)
class QualityFigures:
    """The quality of a case's images.

    Attributes:
        reference: what computed the network's exact result, such as ``"PyTorch 2.13 fp32"``.
        reference_psnr_db: to the exact result, over all channels; None if the images are identical to it, and for
            methods that are not the network.
        largest_difference_levels: from the exact result, 0 to 255; None for methods that are not the network.
        ground_truth_psnr_db, ground_truth_ssim: to real high-resolution images, on luma by the papers' protocol; means.
        ground_truth: the name of these images; None without them.
    """

    reference: str
    reference_psnr_db: float | None
    largest_difference_levels: int | None
    ground_truth_psnr_db: float | None = None
    ground_truth_ssim: float | None = None
    ground_truth: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is any figure: a PSNR, or no difference at all."""
        known = self.reference_psnr_db is not None or self.ground_truth_psnr_db is not None
        return known or self.largest_difference_levels == 0

    def with_ground_truth_of(self, other: QualityFigures) -> QualityFigures:
        """Return these figures with another's figures of the ground truth."""
        return replace(
            self,
            ground_truth_psnr_db=other.ground_truth_psnr_db,
            ground_truth_ssim=other.ground_truth_ssim,
            ground_truth=other.ground_truth,
        )


@dataclass(frozen=True)
class Power:
    """The power that the machine drew while a case ran without pause.

    Attributes:
        source: where the figures come from, such as ``"INA3221"``, ``"NVML"``, ``"RAPL"``.
        covers: the part that they cover, such as ``"the whole module (VDD_IN)"`` or ``"CPU packages"``.
        joules_per_image: mean power times time, divided by the number of images.
        idle_watts: before the case ran; None if it was not measured.
        clocks_mhz: means by part, such as ``{"gpu": 918.0}``.
        temperatures_celsius: maxima by sensor.
        power_mode: such as ``"MAXN"``; None if the machine has no such modes.
        throttled: the reasons why the machine slowed down; empty if it did not; None if that cannot be known.
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
    """The throughput while a case runs without pause: images per second in each tenth of `seconds`, in order."""

    seconds: float
    images_per_second: list[float]


@dataclass(frozen=True)
class CaseResult:
    """The figures of a case, or the reason why it failed.

    Attributes:
        device: the name of the device that computed.
        model: the model's file name; empty if there is none.
        latency, quality: None only if the case failed.
        images_per_second: with as many images in flight as the method takes (on a GPU, all slots).
        load_ms: from a model's file to a method that is ready.
        first_ms: the time of the first image after loading.
        memory: None for baselines, which are measured together in one process.
        multiply_accumulates: of one image; None if unknown (baselines that are no network).
        share_of_peak: arithmetic per second relative to the machine's measured float32 peak.
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

    @property
    def has_quality(self) -> bool:
        """Whether the quality of the case's images is known; without it, its speed is not shown."""
        return self.quality is not None and self.quality.is_known

    @property
    def speed_is_shown(self) -> bool:
        """Whether the case was timed and its speed may be shown."""
        return self.error is None and self.latency is not None and self.has_quality


@dataclass(frozen=True)
class Ratio:
    """The speed of a case relative to a baseline of the same scale, size and batch, timed in turns in one process.

    Attributes:
        times_as_fast: the baseline's median time divided by the case's.
        low, high: the 95% confidence interval of that, by resampling the rounds.
        rounds: in which both took part.
    """

    case: Case
    baseline: Case
    times_as_fast: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class MemoryGrowth:
    """A method's memory by image size: ``fixed_bytes + bytes_per_pixel * pixels``, fitted by least squares.

    Attributes:
        largest_misfit_percent: the largest deviation of a measured point; a large one makes the fit doubtful.
        available_bytes: the memory available when it was measured, or the given memory.
        largest_pixels: the input size that takes all of the available memory.
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
    """The frame rates of a video, from file to file and of each stage by itself.

    Attributes:
        method, precision, scale, width, height: as in `Case`.
        frames: the length of the video.
        decode_fps, upscale_fps, encode_fps: frames divided by the time that the stage was busy.
        total_fps: frames divided by the whole time; at best that of the slowest stage.
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
    def slowest_stage(self) -> str:
        """Return the name of the slowest stage."""
        stages = {"decode": self.decode_fps, "upscale": self.upscale_fps, "encode": self.encode_fps}
        return min(stages, key=lambda stage: stages[stage])


@dataclass(frozen=True)
class Peak:
    """The highest performance of a device, measured in the same run.

    Attributes:
        device: ``"CPU"``, or a GPU's name.
        gflops_fp32: 10^9 float32 operations per second in a large matrix product; a multiply-add counts as two.
        copy_gigabytes_per_second: bytes read and written by a large copy in memory, both counted.
        measured_by: the library that reached it, such as ``"NumPy (OpenBLAS)"``.
    """

    device: str
    gflops_fp32: float
    copy_gigabytes_per_second: float
    measured_by: str


@dataclass(frozen=True)
class Machine:
    """The hardware and software of the run.

    Attributes:
        name: the board's or the processor's name.
        cores: that this process may use.
        gpus: name, memory and driver, one line each.
        versions: of Python, overnet and every library in use, by name.
        settings: other settings that affect the speed, such as the governor, the power mode, JetPack's version.
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
        scale: by which it was upscaled.
        before: upscaled by bicubic interpolation.
        after: by the name of a case (``"openvino fp32"``), in the order measured.
        ground_truth: the high-resolution image; None if there is none.
    """

    name: str
    scale: int
    before: str
    after: dict[str, str]
    ground_truth: str | None = None


@dataclass(frozen=True)
class BenchmarkRun:
    """One run of ``overnet-bench``, with everything needed to repeat it.

    Attributes:
        started: date and time, ISO 8601 with the offset from UTC.
        options: the command's options, defaults included, by name.
        load_average: before the run, divided by the number of processors; None if the system does not report it.
        notes: remarks for the reader, one line each.
        interrupted: whether the run ended before everything was measured.
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
        """Return the run as JSON values."""
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
        InputError: the file cannot be read, is too large, or holds no run; the message names the field.
    """
    name = printable(path)
    with file_errors(InputError, path), path.open("rb") as file:
        content = file.read(_LARGEST_FILE_BYTES + 1)
    if len(content) > _LARGEST_FILE_BYTES:
        raise InputError(f"{name}: larger than any benchmark's results")
    value = parse_object(content, name=name)
    if value.pop("format", None) != FORMAT:
        raise InputError(f"{name}: not the results of overnet-bench, or of another version of it")
    run = from_json(BenchmarkRun, value, name=name)
    for result in run.results:
        if result.latency is not None and not result.latency.samples_ms:
            raise InputError(f"{name}: {result.case.title}: no run was timed")
    return run
