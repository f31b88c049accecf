"""``overnet bench``, in this process but for the cases, each of which is measured in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import typer

from overnet.benchmarks.benchmark import run_benchmark
from overnet.benchmarks.cases.memory import growth
from overnet.benchmarks.cases.run import run_case
from overnet.benchmarks.options import BenchmarkOptions, ImageSize
from overnet.benchmarks.results import Peak, read_run, write_run
from overnet.cli import main
from overnet.cli.bench import bench_command
from overnet.cli.common import PLAIN
from overnet.cli.plain_help import SeveralValuesCommand
from overnet.errors import ArtifactError, BackendError, InputError, InterruptedRun, MissingDependency, OutputError
from overnet.weights import bundled_folder
from tests.conftest import ROOT
from tests.support.commands import environment, run_process

app = typer.Typer(**PLAIN)
app.command(cls=SeveralValuesCommand)(bench_command)

# Typer brings a copy of click of its own, and gives its errors no name.
USAGE_ERROR = typer.BadParameter.__mro__[1]
QUICK = ["--seconds", "0.1", "--no-power"]


@pytest.fixture
def quick_peaks(monkeypatch):
    """Let runs in this process measure no peaks of the machine, which takes three seconds each time."""
    peaks = [Peak("CPU", 20.0, 5.0, "nothing")]
    monkeypatch.setattr("overnet.benchmarks.benchmark.measure_peaks", lambda gpu: peaks)


def bench(*arguments):
    return typer.main.get_command(app)([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def measured(small_models, tmp_path_factory):
    """Everything that one command writes, of two backends at two sizes."""
    folder = tmp_path_factory.mktemp("bench")
    done = run_process(
        *("--backend", "openvino", "onnxruntime", "--size", "48x32", "64x48", "--scale", "2", *QUICK),
        *("--model", small_models, "--json", folder / "run.json", "--report", folder / "report.html"),
        *("--markdown", folder / "report.md", "--plots", folder / "plots"),
        program="overnet-bench",
    )
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_one_command_gives_figures_tables_report_and_plots(measured):
    folder, done = measured
    run = read_run(folder / "run.json")
    assert [result.case.title for result in run.results] == [
        "openvino fp32 x2 48x32",
        "onnxruntime fp32 x2 48x32",
        "openvino fp32 x2 64x48",
        "onnxruntime fp32 x2 64x48",
    ]
    for result in run.results:
        assert result.error is None
        assert result.latency.host.runs >= 10 and result.latency.host.p50_ms > 0
        assert result.images_per_second > 0 and result.load_ms > 0 and result.first_ms > 0
        assert result.memory.peak_host_bytes > result.memory.before_host_bytes > 1e7
        assert result.quality.reference_psnr_db is None or result.quality.reference_psnr_db > 50
        assert 5 < result.quality.ground_truth_psnr_db < 60
        assert result.multiply_accumulates > 0 and 0 < result.share_of_peak < 1
    assert {line.method for line in run.growth} <= {"openvino", "onnxruntime"}
    assert [(video.method, video.width, video.height) for video in run.videos] == [
        ("openvino", 48, 32),
        ("onnxruntime", 48, 32),
    ]
    assert run.peaks[0].gflops_fp32 > 1
    assert list(run.images[0].after) == ["openvino fp32", "onnxruntime fp32"]
    assert run.command[0] == "-c" and "--report" in run.command
    assert run.options["size"] == "48x32 64x48"
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "onnxruntime fp32" in text and "48x32" in text
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "plots").iterdir())
    assert len(list((folder / "plots").iterdir())) >= 2
    assert "Summary" in done.stdout and "openvino fp32" in done.stdout
    assert re.search(r"\[\d+/\d+\] onnxruntime fp32 x2 64x48", done.stderr)


@pytest.mark.slow
def test_files_that_are_there_are_kept(measured, tmp_path):
    folder, _ = measured
    for option in ("--json", "--report", "--markdown"):
        before = (folder / "run.json").stat().st_mtime_ns
        with pytest.raises(OutputError, match="exists already"):
            bench(option, folder / "run.json", "--size", "48x32", *QUICK)
        assert (folder / "run.json").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="no such folder"):
        bench("--json", tmp_path / "none" / "run.json")


@pytest.mark.slow
def test_a_report_is_made_of_earlier_results_as_well(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("overnet.benchmarks.benchmark.measure_peaks", lambda gpu: pytest.fail("measured"))
    earlier = measured[0] / "run.json"
    assert not bench(
        "--results", earlier, "--report", tmp_path / "again.html", "--compare", earlier, "--fail-above", "1"
    )
    assert (tmp_path / "again.html").read_text().count("data:image/png;base64") >= 3
    assert "onnxruntime fp32" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_the_scale_is_that_of_a_model_file(small_models, tmp_path):
    model = next(small_models.glob("*_x3.onnx"))
    assert not bench("--model", model, "--size", "48x32", "--no-video", *QUICK, "--json", tmp_path / "run.json")
    (result,) = read_run(tmp_path / "run.json").results
    assert result.error is None and result.case.scale == 3


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_the_largest_image_for_a_given_memory_is_reported(small_models):
    sizes = [ImageSize(64, 48), ImageSize(320, 240)]
    options = BenchmarkOptions(["openvino"], [2], sizes, [], model=small_models, seconds=0.1, video=False, power=False)
    run = run_benchmark(replace(options, memory_bytes=2 * 10**9), command=[])
    (of_two,), (of_four,) = run.growth, growth(run.results, 4 * 10**9)
    assert (of_two.available_bytes, of_four.available_bytes) == (2 * 10**9, 4 * 10**9)
    assert 1.5 < of_four.largest_pixels / of_two.largest_pixels < 3


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_compared_with_a_faster_run_it_fails_and_with_itself_it_does_not(measured, small_models, tmp_path, capsys):
    old = read_run(measured[0] / "run.json")
    result = old.results[0]
    latency = result.latency
    # As if a thousandth of the time had been enough: more than any noise.
    fast = replace(
        latency,
        samples_ms=[each / 1000 for each in latency.samples_ms],
        host=replace(latency.host, p50_ms=latency.host.p50_ms / 1000),
    )
    write_run(replace(old, results=[replace(result, latency=fast)]), tmp_path / "fast.json", overwrite=False)
    same = ["--backend", "openvino", "--size", "48x32", "--model", small_models, *QUICK, "--no-video"]
    assert bench(*same, "--compare", tmp_path / "fast.json", "--fail-above", "50") == 1
    said, complaint = capsys.readouterr()
    assert "overnet: worse than allowed: openvino fp32 x2 48x32" in complaint
    assert "Worse than allowed: openvino fp32 x2 48x32" in said and "slower" in said
    assert not bench(*same, "--compare", tmp_path / "fast.json"), "without a limit nothing fails"


@pytest.mark.usefixtures("quick_peaks")
def test_results_on_standard_output(small_models, capsys):
    bench(
        "--backend", "openvino", "--size", "48x32", "--model", small_models, *QUICK, "--no-video", "--json", "-", "-q"
    )
    captured = capsys.readouterr()
    run = json.loads(captured.out)
    assert run["results"][0]["case"]["method"] == "openvino" and captured.err == ""


def test_options_by_their_old_names(capsys):
    """`--rivals` was in a README; the help has the new name only."""
    main(["--rivals", "--rival-models", "none", "--seconds", "0"], "overnet-bench")
    assert "No such option" not in capsys.readouterr().err
    assert main(["--help"], "overnet-bench") == 0
    shown = capsys.readouterr().out
    assert "--baselines" in shown and "rival" not in shown


def test_without_arguments_it_measures(monkeypatch, capsys):
    def measure(options, **_):
        raise BackendError(f"{options.backends} x{options.scales} {options.sizes}")

    monkeypatch.setattr("overnet.benchmarks.benchmark.run_benchmark", measure)
    assert main([], "overnet-bench") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "overnet: ['auto'] x[2] [ImageSize(width=640, height=360)]\n"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_a_case_that_fails_does_not_keep_others_from_being_measured(small_models):
    options = BenchmarkOptions(
        ["openvino", "onnxruntime"],
        [2],
        [ImageSize(48, 32)],
        ["fp32", "bf16"],
        model=small_models,
        seconds=0.1,
        video=False,
    )
    results = run_benchmark(options, command=[]).results
    failed = {result.case.name: result.error for result in results if result.error}
    assert "onnxruntime bf16" in failed and "\n" not in failed["onnxruntime bf16"]
    assert {"openvino fp32", "onnxruntime fp32"}.isdisjoint(failed)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_all_cases_failed(small_models, capsys):
    wrong = ["--backend", "onnxruntime", "--precision", "bf16"]
    assert bench(*wrong, "--size", "48x32", "--model", small_models, *QUICK, "--no-video", "--quiet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("overnet: no case could be measured: onnxruntime bf16 x2 48x32: onnxruntime computes")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_baselines_are_raced(small_checkpoint):
    options = BenchmarkOptions(
        ["torch"],
        [2],
        [ImageSize(48, 32)],
        [],
        model=small_checkpoint,
        seconds=0.2,
        baselines=True,
        video=False,
        power=False,
    )
    run = run_benchmark(options, command=[])
    raced = {ratio.baseline.method: ratio for ratio in run.ratios}
    assert {"bicubic", "eager PyTorch"} <= set(raced)
    assert all(ratio.low <= ratio.times_as_fast <= ratio.high for ratio in run.ratios)
    baselines = [result for result in run.results if result.case.kind == "baseline" and not result.error]
    assert all(result.quality is not None for result in baselines), "a speed without its quality is not printed"


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        (["--size", "640"], InputError, "such as 640x480"),
        (["--size", "0x10"], InputError, "such as 640x480"),
        (["--size", "99999x10"], InputError, "each side must be from 1"),
        (["--seconds", "0"], USAGE_ERROR, "from 0.1"),
        (["--seconds", "nan"], USAGE_ERROR, "from 0.1"),
        (["--sustained", "-1"], USAGE_ERROR, "from 0 to"),
        (["--fail-above", "5"], USAGE_ERROR, "needs --compare"),
        (["--memory", "-1"], USAGE_ERROR, "must be at least 0"),
        (["--memory", "inf"], USAGE_ERROR, "must be at least 0"),
        (["--results", "none.json"], InputError, "none.json"),
        (["--results", "none.json", "--quiet", "--overwrite"], InputError, "none.json"),
        (["--results", "none.json", "--scale", "3"], USAGE_ERROR, "--scale changes nothing with --results"),
        (["--results", "none.json", "--no-video"], USAGE_ERROR, "--video changes nothing with --results"),
        (["--baseline-models", "x"], USAGE_ERROR, "needs --baselines"),
        (["--compare", "none.json", "--fail-above", "-1"], USAGE_ERROR, "must be at least 0"),
        (["--compare", "none.json"], InputError, "none.json"),
        (["--scale", "0"], InputError, "from 1 to"),
        (["--batch", "0"], InputError, "from 1 to"),
        (["--precision", "fp31"], InputError, "it can be fp32"),
        (["--backend", "onyx"], InputError, "choose from"),
        (["--backend", "openvino", "--provider", "cuda"], InputError, "for the backend onnxruntime"),
        (["--provider", "cudo"], InputError, "no provider"),
        (["--json", "."], OutputError, "is a folder"),
        (["--plots", __file__], OutputError, "is not a folder"),
        (["--data", "none"], InputError, "none"),
        (["--model", "none.onnx"], InputError, "none.onnx"),
        (["--model", __file__], ArtifactError, "not an ONNX file"),
        (["--backend", "torch", "--model", str(bundled_folder() / "overnet_x2.onnx")], InputError, "checkpoint"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_measured(arguments, error, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("overnet.benchmarks.benchmark.measure_peaks", lambda gpu: pytest.fail("measured"))
    with pytest.raises(error, match=expected):
        bench(*arguments)


def test_a_gpu_that_is_not_there(monkeypatch):
    with pytest.raises((BackendError, MissingDependency)):
        bench("--backend", "tensorrt-rtx", *QUICK)


@pytest.mark.slow
def test_without_torch_display_and_plots(tmp_path):
    """As on a Jetson: what may be missing there cannot be imported, and the figures come all the same."""
    for name in ("torch", "matplotlib", "pynvml", "onnx", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden by a test')\n")
    # With a last cache that is not a server's, of which four times as much is copied.
    code = (
        "import overnet.benchmarks.peak; from overnet.__main__ import main_bench\n"
        "overnet.benchmarks.peak.last_cache_bytes = lambda: 16 << 20; main_bench()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-c", code, "--seconds", "0.1", "--size", "64x48", "--report", tmp_path / "report.html"],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "openvino fp32" in done.stdout and "from overnet_x2.onnx" in done.stdout
    assert "overnet[bench]" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_ctrl_c_keeps_what_was_measured(small_models, tmp_path, monkeypatch):
    seen = []

    def stop_at_the_second(request, **options):
        seen.append(request.case.title)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return run_case(request, **options)

    monkeypatch.setattr("overnet.benchmarks.benchmark.run_case", stop_at_the_second)
    sizes = ["--size", "48x32", "64x48", "--model", small_models, *QUICK]
    with pytest.raises(InterruptedRun, match="the cases measured before that"):
        bench("--backend", "openvino", *sizes, "--json", tmp_path / "run.json")
    run = read_run(tmp_path / "run.json")
    assert run.interrupted and [result.case.title for result in run.results] == seen[:1]
    assert "interrupted" in " ".join(run.notes)


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_leaves_nothing(tmp_path):
    options = ["--seconds", 60, "--size", "64x48", "--json", tmp_path / "run.json", "-q"]
    program = (
        "import overnet.benchmarks.benchmark; from overnet.benchmarks.results import Peak\n"
        "from overnet.__main__ import main_bench\n"
        "overnet.benchmarks.benchmark.measure_peaks = lambda gpu: [Peak('CPU', 20.0, 5.0, 'nothing')]\n"
        "main_bench()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, options)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Its child is there once a case is measured.
    deadline = time.monotonic() + 60
    while not psutil.Process(process.pid).children():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    # As a terminal does, to all processes of the command.
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (130, "", "overnet: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick_peaks")
def test_a_bundled_model_by_name_in_every_backend(tmp_path):
    methods = "--model", "realtime", "--backend", "openvino", "onnxruntime", "torch"
    assert not bench(*methods, "--size", "48x32", *QUICK, "--json", tmp_path / "run.json")
    for result in read_run(tmp_path / "run.json").results:
        assert result.error is None and "realtime" in result.model
        assert result.quality.reference_psnr_db is None or result.quality.reference_psnr_db > 70
