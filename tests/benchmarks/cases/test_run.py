import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest

from overnet.benchmarks.cases.child import EngineBuiltError, measure_case
from overnet.benchmarks.cases.method import Method, import_backend
from overnet.benchmarks.cases.quality import Reference, check_image, write_reference
from overnet.benchmarks.cases.run import CaseRequest, run_case
from overnet.benchmarks.results import Case
from overnet.errors import InputError, OverNetError
from overnet.files.checked_json import from_json

WIDTH, HEIGHT = 64, 48

# A process that measures a method of the test's own: `LOAD` is done when it is loaded, `WORK` for each batch.
DOUBLE = """
import os, signal, sys, time
import numpy as np
from pathlib import Path
from overnet.benchmarks.cases.child import answer
from overnet.benchmarks.cases.method import Method
from overnet.errors import BackendError

held = []

def imports(request):
    def load(on_progress):
        LOAD
        def upscale(images):
            WORK
            return images.repeat(2, axis=1).repeat(2, axis=2)
        return Method("a double", "double.onnx", upscale, lambda one: one.repeat(2, axis=0).repeat(2, axis=1))
    return load

answer(imports)
"""


def double(*, load="pass", work="pass"):
    return ("-c", DOUBLE.replace("LOAD", load).replace("WORK", work))


@pytest.fixture(scope="module")
def reference_file(tmp_path_factory):
    """What the doubles make is exact."""
    image = check_image(WIDTH, HEIGHT)
    path = tmp_path_factory.mktemp("reference") / "reference.npz"
    write_reference(Reference(image, image.repeat(2, axis=0).repeat(2, axis=1), "nearest pixels"), path)
    return path


@pytest.fixture
def request_for(reference_file):
    def made(**options):
        case = Case("double", "backend", "fp32", 2, WIDTH, HEIGHT, options.pop("batch", 1))
        return CaseRequest(case, reference_file=reference_file, **{"seconds": 0.1, "least_runs": 2, **options})

    return made


def children():
    return {process for process in psutil.Process().children() if process.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.timing
def test_figures_agree_with_what_is_known(request_for, tmp_path):
    """A method that loads in 300 ms, takes 40 ms for two images, holds 200 MB, and keeps a record of its own."""
    record = tmp_path / "own.txt"
    child = double(
        # The file is made here: in the first run, that would be outside of the time that the method measures itself.
        load=f"time.sleep(0.3); held.extend([np.ones(200 << 20, np.uint8), open({str(record)!r}, 'a', buffering=1)])",
        work="""
            before = time.monotonic()
            # Awake before the end: a busy machine wakes a process up late.
            time.sleep(0.03)
            while time.monotonic() < before + 0.04:
                pass
            print(1000 * (time.monotonic() - before), file=held[-1])""",
    )
    said = []
    request = request_for(batch=2, seconds=0.5, least_runs=10)
    result = run_case(request, child=child, on_progress=lambda *told: said.append(told[0]))
    assert result.error is None
    assert result.case == request.case
    assert (result.device, result.model) == ("a double", "double.onnx")
    assert result.latency.host.p50_ms == pytest.approx(40, rel=0.05)
    own_ms = [float(line) for line in record.read_text().split()]
    # Others at work now and then stretch a run, and with it the mean: it is compared with the method's own.
    assert result.first_ms == pytest.approx(own_ms[0], rel=0.05)
    own_ms = own_ms[-result.latency.host.runs :]
    assert result.latency.host.p50_ms == pytest.approx(np.median(own_ms), rel=0.05)
    assert result.images_per_second == pytest.approx(2000 / np.mean(own_ms), rel=0.05)
    assert result.load_ms >= 300
    taken = result.memory.peak_host_bytes - result.memory.before_host_bytes
    assert taken == pytest.approx(200 << 20, rel=0.05)
    assert result.memory.bytes_per_input_pixel == pytest.approx(taken / (2 * WIDTH * HEIGHT))
    assert result.memory.device_bytes is None
    assert result.quality.largest_difference_levels == 0
    assert result.quality.reference == "nearest pixels"
    assert result.quality.ground_truth_psnr_db > 20
    assert result.sustained is None
    assert said == ["loading", "latency", "throughput", "quality"]


def test_a_case_is_kept_busy_for_as_long_as_asked_for(request_for):
    result = run_case(request_for(sustained_seconds=1.0), child=double(work="time.sleep(0.02)"))
    assert result.sustained.seconds == pytest.approx(1.0, rel=0.1)
    assert len(result.sustained.images_per_second) == 10
    # A busy machine oversleeps.
    assert 25 < np.median(result.sustained.images_per_second) < 51
    assert result.images_per_second == pytest.approx(np.mean(result.sustained.images_per_second))


def test_power_is_measured_or_it_is_said_why_not(request_for):
    result = run_case(request_for(measure_power=True), child=double(work="time.sleep(0.01)"))
    assert result.error is None
    why_not = [warning for warning in result.warnings if warning.startswith("power is not measured")]
    assert (result.power is None) == bool(why_not)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL; memory may have run out"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("raise BackendError('the engine is for another machine')", "the engine is for another machine"),
        ("raise MemoryError('12 GB for one tensor')", "out of memory (12 GB for one tensor)"),
        ("raise RuntimeError('a defect')", "RuntimeError: a defect"),
        ("sys.exit(3)", "ended with code 3 and no error output"),
    ],
)
@pytest.mark.parametrize("where", ["load", "work"])
def test_every_failure_of_the_process_is_one_line(request_for, what, said, where):
    result = run_case(request_for(), child=double(**{where: what}))
    assert said in result.error
    assert "\n" not in result.error
    assert result.case == request_for().case
    assert (result.latency, result.memory, result.quality) == (None, None, None)


def test_a_process_that_takes_too_long_is_ended(request_for):
    before = children()
    began = time.monotonic()
    result = run_case(request_for(), child=double(work="time.sleep(60)"), timeout_seconds=2)
    assert result.error == "it took longer than 2 s"
    assert time.monotonic() - began < 20
    assert children() <= before


def test_a_process_that_does_not_start_is_one_line(request_for):
    assert "no_such_module" in run_case(request_for(), child=("-m", "no_such_module")).error


def test_what_libraries_print_does_not_disturb(request_for):
    """Neither from Python nor from C, and not even if it looks like an answer."""
    noise = (
        """os.write(1, b'{"result": 1}' + b'\\n'); print('{"again": true}', flush=True); os.write(2, b'x' * 200_000)"""
    )
    result = run_case(request_for(), child=double(load=noise, work=noise.replace("200_000", "10")))
    assert result.error is None
    assert result.latency.host.runs >= 2


@pytest.mark.slow
def test_where_an_engine_was_built_another_process_measures(request_for, tmp_path):
    """It finds the engine; if it does not, because none is kept, its figures are given all the same, with a warning."""
    marker = tmp_path / "engine"
    build = "on_progress('building', 1, 2); held.append(np.ones(300 << 20, np.uint8))"
    said = []
    child = double(
        load=f"path = Path({str(marker)!r}); path.exists() or ({build}); path.touch()".replace("; held", ", held")
    )
    result = run_case(request_for(), child=child, on_progress=lambda *told: said.append(told))
    assert result.error is None
    assert said.count(("loading", 0, 0)) == 2
    assert said.count(("building", 1, 2)) == 1
    assert result.memory.peak_host_bytes - result.memory.before_host_bytes < 100 << 20
    assert not any("building" in warning for warning in result.warnings)
    again = run_case(request_for(), child=double(load="on_progress('building', 1, 2)"))
    assert again.error is None
    assert any("building" in warning for warning in again.warnings)


def test_ctrl_c_ends_the_process_and_is_passed_on(request_for):
    def interrupt(doing, done, total):
        if doing == "loading":
            os.kill(os.getpid(), signal.SIGINT)

    before = children()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_case(request_for(), child=double(load="time.sleep(100)"), on_progress=interrupt)
    assert time.monotonic() - began < 20
    assert children() <= before


def test_a_process_whose_parent_is_gone_ends(request_for):
    arguments = [sys.executable, *double(load="time.sleep(100)")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps({"may_ask_again": True, "request": asdict(request_for())}, default=str) + "\n")
        process.stdin.flush()
        assert "loading" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=20) == 1


def test_a_request_goes_through_a_pipe_unchanged(request_for):
    model, data = Path("some/modèle.onnx"), Path("a folder")
    request = request_for(model=model, threads=2, measure_power=True, data=data, batch=3)
    assert from_json(CaseRequest, json.loads(json.dumps(asdict(request), default=str)), name="it") == request


def test_measuring_closes_the_method_whatever_happens(request_for):
    closed = []

    def imports(request):
        def load(on_progress):
            on_progress("building", 0, 1)
            return Method("", "", lambda images: images, lambda one: one, close=lambda: closed.append(1))

        return load

    with pytest.raises(EngineBuiltError):
        measure_case(request_for(), imports, may_ask_again=True)
    assert closed == [1]


def backend_request(method, model, precision="fp32", **options):
    case = Case(method, "backend", precision, options.pop("scale", 2), WIDTH, HEIGHT, options.pop("batch", 1))
    return CaseRequest(case, model=model, seconds=0.1, least_runs=2, **options)


@pytest.mark.parametrize("method", ["openvino", "onnxruntime"])
def test_a_backend_is_measured(method, small_models):
    pytest.importorskip(method)
    result = run_case(backend_request(method, small_models, batch=2))
    assert result.error is None
    assert "CPU" in result.device
    assert result.model == "small_x2.onnx"
    assert result.latency.host.runs >= 2
    assert result.images_per_second == pytest.approx(2000 / result.latency.host.mean_ms, rel=0.01)
    assert result.memory.peak_host_bytes > result.memory.before_host_bytes
    assert result.quality.largest_difference_levels <= 1
    assert result.multiply_accumulates > 1_000 * WIDTH * HEIGHT
    assert result.load_ms > 0 < result.first_ms


@pytest.mark.slow
def test_pytorch_is_measured(small_checkpoint):
    result = run_case(backend_request("torch", small_checkpoint))
    assert result.error is None
    assert result.quality.reference.startswith("PyTorch")
    assert result.quality.largest_difference_levels <= 1
    assert result.multiply_accumulates > 1_000 * WIDTH * HEIGHT


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path):
    result = run_case(backend_request("openvino", tmp_path / "missing.onnx"))
    assert "missing.onnx" in result.error
    assert "\n" not in result.error


@pytest.mark.slow
@pytest.mark.parametrize("integrated", ["0", "1"])
def test_an_engine_is_measured_in_all_its_stages(small_models, tmp_path, monkeypatch, integrated):
    """On the doubles of CUDA's driver and of TensorRT: the times are theirs, but all that is asked is answered."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from overnet.export.engine.engine_graph import with_means
    from overnet.files.engine_sidecar import Profile
    from tests.doubles.engines import write_engine
    from tests.doubles.running import stand_in_environment

    content = (small_models / "small_x2.onnx").read_bytes()
    write_engine(tmp_path / "small_x2.engine", with_means(content), Profile((16, 16), (96, 96), (512, 512)))
    (tmp_path / "beside.onnx").write_bytes(content)
    settings = {"OVERNET_CUDA_INTEGRATED": integrated, "OVERNET_CACHE": str(tmp_path)}
    environment = stand_in_environment(settings)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for folder in reversed(environment["PYTHONPATH"].split(os.pathsep)):
        monkeypatch.syspath_prepend(folder)
    result = run_case(backend_request("tensorrt", tmp_path / "small_x2.engine"))
    assert result.error is None
    assert result.device == "Stand-in"
    latency = result.latency
    assert latency.compute.runs >= 2
    assert latency.compute.p50_ms > 0
    assert (latency.copy_in.mean_ms == 0) == (integrated == "1")
    assert latency.copy_out.runs == latency.copy_in.runs == latency.compute.runs
    assert result.images_per_second > 0
    assert result.memory.activation_bytes > 0
    assert result.memory.device_bytes is not None
    # The weights are known by the ONNX file beside it.
    assert "beside.onnx" in result.quality.reference
    assert result.quality.largest_difference_levels <= 1
    assert result.multiply_accumulates > 1_000 * WIDTH * HEIGHT


def load(request):
    return import_backend(request)(lambda doing, done, total: None)


def test_a_file_s_precision_is_chosen_and_said_where_it_is_computed_in_another(small_models, tmp_path):
    content = (small_models / "small_x2.onnx").read_bytes()
    (tmp_path / "exact.onnx").write_bytes(content)
    (tmp_path / "half.onnx").write_bytes(content.replace(b"fp32", b"fp16"))
    method = load(backend_request("openvino", tmp_path, "fp16"))
    assert method.model == "half.onnx"
    assert method.pop_notes() == ["openvino computes half.onnx in fp32, not fp16"]
    method = load(backend_request("openvino", tmp_path, "fp32"))
    assert method.model == "exact.onnx"
    assert method.pop_notes() == []


def test_a_model_of_another_scale_or_precision_is_refused(small_models):
    with pytest.raises(InputError, match="no ONNX file for x2 in int8"):
        load(backend_request("openvino", None, "int8"))
    with pytest.raises(OverNetError, match="there is no backend 'nonsense'"):
        load(backend_request("nonsense", None))
    with pytest.raises(InputError, match="there is no model for x2; the nearest is for x3"):
        load(backend_request("openvino", small_models / "small_x3.onnx", scale=2))


def test_an_image_too_large_for_the_memory_goes_in_tiles(small_models, monkeypatch):
    monkeypatch.setattr("overnet.runtime.tiling.available_memory_bytes", lambda: 1 << 20)
    request = CaseRequest(Case("openvino", "backend", "fp32", 2, 150, 120), model=small_models)
    method = load(request)
    images = np.stack([check_image(150, 120)] * 2)
    upscaled = method.upscale(images)
    assert upscaled.shape == (2, 240, 300, 3)
    assert method.open_stream() is None
    assert any("tiles" in note for note in method.pop_notes())
