"""A run of the benchmark as a small board could give it, for the tests of what is made of one."""

import base64
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from overnet.benchmarks.results import (
    BenchmarkRun,
    Case,
    CaseResult,
    Latency,
    Machine,
    Memory,
    MemoryGrowth,
    Peak,
    Power,
    QualityFigures,
    Ratio,
    SampleImages,
    Sustained,
    VideoStages,
)
from overnet.benchmarks.timing_stats import spread

SAMPLES = Path(__file__).parents[2] / "samples"
SIZES = ((160, 90), (320, 180), (640, 360))

# Milliseconds a megapixel of input at x2, PSNR to the reference, largest difference, PSNR to the ground truth.
BACKENDS = {
    ("tensorrt", "fp16"): (38.0, 61.4, 2, 31.62),
    ("tensorrt", "int8"): (24.0, 44.8, 19, 31.38),
    ("onnxruntime", "fp32"): (190.0, 78.2, 1, 31.63),
    ("openvino", "fp32"): (1900.0, None, 0, 31.63),
}
BASELINES = {"bicubic": (3.1, 29.14), "Real-ESRGAN": (420.0, 25.90)}


def example_run(*, seed=0, slower=1.0, spread_percent=2.0, runs=60):
    """Make a run: four backends and two baselines, two scales, three sizes.

    Args:
        seed: of the noise of the times.
        slower: what every time is multiplied by.
        spread_percent: standard deviation of the times within a case.
        runs: how many times a case has.
    """
    random = np.random.default_rng(seed)
    results = []
    for scale in (2, 4):
        for width, height in SIZES:
            megapixels = width * height / 1e6
            for (method, precision), (rate, *quality) in BACKENDS.items():
                case = Case(method, "backend", precision, scale, width, height)
                median = slower * (0.6 + rate * megapixels * (1 + 0.15 * (scale - 2)))
                results.append(_backend_result(case, random, median, spread_percent, runs, quality))
            for name, (rate, ground_truth) in BASELINES.items():
                case = Case(name, "baseline", "fp32", scale, width, height)
                times = _times(random, slower * (0.05 + rate * megapixels * scale / 2), spread_percent, runs)
                results.append(
                    CaseResult(
                        case,
                        "CPU" if name == "bicubic" else "Orin GPU",
                        latency=Latency(spread(times), times),
                        images_per_second=1000 / float(np.median(times)),
                        quality=QualityFigures("", None, None, ground_truth - 2.5 * (scale - 2), 0.86, "Set14"),
                    )
                )
    results.append(CaseResult(Case("openvino", "backend", "int8", 2, 640, 360), "CPU", error="no INT8 model is here"))
    return BenchmarkRun(
        started="2026-11-25T10:15:00+01:00",
        command=["overnet-bench", "--scale", "2", "--scale", "4", "--baselines", "--report", "my report.html"],
        seconds=412.0,
        machine=Machine(
            name="NVIDIA Jetson Orin Nano Super 8GB",
            system="Ubuntu 22.04, Linux 5.15.148-tegra, JetPack 6.2",
            processor="Cortex-A78AE",
            cores=6,
            memory_bytes=7_990_000_000,
            gpus=["Orin (compute capability 8.7), driver 540.4"],
            versions={"Python": "3.10.12", "overnet": "0.1.0", "tensorrt": "10.3.0", "onnxruntime": "1.23.0"},
            settings={"power mode": "MAXN_SUPER", "governor": "schedutil", "jetson_clocks": "on"},
        ),
        options={"seconds": "10.0", "batch": "1", "scale": "2, 4", "data": "none"},
        results=results,
        ratios=_ratios(results),
        growth=[
            MemoryGrowth("tensorrt", "fp16", 2, 512e6, 3180.0, 2.4, 6_100_000_000, 1_757_000),
            MemoryGrowth("openvino", "fp32", 2, 241e6, 5110.0, 6.0, 6_100_000_000, 1_146_000),
        ],
        videos=[VideoStages("tensorrt", "fp16", 2, 320, 180, 240, 610.0, 288.0, 131.0, 118.0, "h264")],
        peaks=[
            Peak("Orin GPU", 2430.0, 88.0, "cuBLAS"),
            Peak("CPU", 88.0, 27.0, "NumPy (OpenBLAS)"),
        ],
        images=[sample_images()],
        load_average=0.04,
        notes=["The board was cooled by its fan at full speed."],
    )


def _times(random, median, spread_percent, runs):
    """Times that spread to the longer side, as those of real machines do."""
    return (median * np.exp(np.abs(random.normal(0, spread_percent / 100, runs)))).tolist()


def _backend_result(case, random, median, spread_percent, runs, quality):
    times = _times(random, median, spread_percent, runs)
    to_reference, levels, ground_truth = quality
    on_gpu = case.method != "openvino"

    def part(share):
        return spread([share * each for each in times]) if on_gpu else None

    grown = 9800 if case.precision == "fp32" else 5200
    warnings = []
    if case.method == "openvino" and case.width == 160:
        warnings.append("Latency is doubtful: 60 runs vary by 14% (28.1 to 41 ms); is the machine busy, or hot?")
    return CaseResult(
        case,
        "Orin GPU" if on_gpu else "CPU",
        model=f"overnet_x{case.scale}_{case.precision}.onnx",
        latency=Latency(spread(times), times, part(0.07), part(0.84), part(0.09)),
        images_per_second=(1.18 if on_gpu else 1.0) * 1000 / float(np.median(times)),
        load_ms=820.0,
        first_ms=float(np.median(times)) * 3,
        memory=Memory(
            peak_host_bytes=int(310e6 + grown * case.pixels),
            before_host_bytes=96_000_000,
            bytes_per_input_pixel=(214e6 + grown * case.pixels) / case.pixels,
            device_bytes=int(180e6 + 0.8 * grown * case.pixels) if on_gpu else None,
            activation_bytes=int(0.7 * grown * case.pixels) if case.method == "tensorrt" else None,
        ),
        quality=QualityFigures(
            "PyTorch 2.13 fp32", to_reference, levels, ground_truth - 2.5 * (case.scale - 2), 0.8871, "Set14"
        ),
        power=Power(
            source="INA3221",
            covers="the whole module (VDD_IN)",
            samples=98,
            mean_watts=17.4 if on_gpu else 11.2,
            largest_watts=21.9 if on_gpu else 12.0,
            joules_per_image=(17.4 if on_gpu else 11.2) * float(np.median(times)) / 1000,
            idle_watts=5.1,
            clocks_mhz={"gpu": 1018.0, "cpu": 1728.0},
            temperatures_celsius={"gpu": 61.5, "cpu": 63.0},
            power_mode="MAXN_SUPER",
            throttled=[],
        ),
        sustained=Sustained(10.0, [1000 / float(np.median(times)) * (1 - 0.004 * tenth) for tenth in range(10)]),
        multiply_accumulates=160e3 * case.pixels,
        share_of_peak=min(0.93, 160e3 * case.pixels * 2 / (median / 1000) / (2430e9 if on_gpu else 88e9)),
        warnings=warnings,
    )


def _ratios(results):
    medians = {result.case: result.latency.host.p50_ms for result in results if result.latency}
    ratios = []
    for case, median in medians.items():
        for baseline, other in medians.items():
            same = (case.scale, case.width, case.height) == (baseline.scale, baseline.width, baseline.height)
            if same and case.kind == "backend" and baseline.kind == "baseline":
                ratio = other / median
                ratios.append(Ratio(case, baseline, ratio, 0.96 * ratio, 1.05 * ratio, 30))
    return ratios


def sample_images():
    """A detail of the harbour before and after: bicubic, sharpened more and less, and as it was drawn."""
    whole = cv2.imread(str(SAMPLES / "harbour_large.png"))
    ground_truth = whole[280:520, 420:780]
    small = cv2.resize(ground_truth, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    bicubic = cv2.resize(small, (ground_truth.shape[1], ground_truth.shape[0]), interpolation=cv2.INTER_CUBIC)
    after = {}
    for share, (method, precision) in zip((0.65, 0.55, 0.7, 0.7), BACKENDS, strict=True):
        after[f"{method} {precision}"] = png_text(cv2.addWeighted(ground_truth, share, bicubic, 1 - share, 0))
    return SampleImages("harbour", 4, png_text(bicubic), after, png_text(ground_truth))


def png_text(image):
    """An image as a PNG file in base64."""
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode("ascii")


def with_times(run, change):
    """The run with `change` applied to each case's times, a list of milliseconds, and to its throughput accordingly."""
    results = []
    for result in run.results:
        if result.latency is None:
            results.append(result)
            continue
        times = change(result.latency.samples_ms)
        by = float(np.median(times) / np.median(result.latency.samples_ms))
        results.append(
            replace(
                result,
                latency=replace(result.latency, host=spread(times), samples_ms=times),
                images_per_second=result.images_per_second / by,
            )
        )
    return replace(run, results=results)


def with_result(run, index, **changes):
    """The run with some fields of one result changed."""
    results = list(run.results)
    results[index] = replace(results[index], **changes)
    return replace(run, results=results)
