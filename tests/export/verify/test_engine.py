"""The check of engines before they get their names, over the stand-in of the CUDA driver and TensorRT's double."""

import pytest

from overnet.errors import MissingDependency
from overnet.export.engine.profile import make_profile
from overnet.export.verify import engine as engine_check
from overnet.export.verify.engine import check_engine
from overnet.files.onnx_metadata import Artifact
from overnet.runtime.backends.trt import engine_check as in_slots
from overnet.system.cuda_device import CudaDevice, cuda_device_count
from tests.doubles.running import run_over_stand_in

ARTIFACT = Artifact(2, 2, "fp32", "0" * 64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path / "cache"))


def exported(source, folder, precision, spoil="", scale=2):
    scenario = "tests.support.export_scenarios:exported"
    return run_over_stand_in(scenario, str(source), str(folder), precision, spoil, scale)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_that_computes_what_the_network_does_passes(small_models, tmp_path, precision):
    """From an ONNX file: one in FP32 that is kept was "measured by nothing"."""
    found = exported(small_models / "small_x2.onnx", tmp_path, precision)
    assert found["error"] is None and found["not run"] == "" and found["notes"] == []
    assert found["measured by"].startswith("TensorRT 10.3.0 on Stand-in, against the FP32 network in OpenVINO ")
    # Equal, or nearly so, and not remembered for nothing: the runtime does not check it again.
    assert found["psnr_db"] is None or found["psnr_db"] > 60
    assert found["remembered"] and found["launches"] > 20
    assert found["files"] == sorted(found["files"]) and any(name.endswith(".engine") for name in found["files"])


def test_an_engine_for_triton_is_run_without_means(small_models, tmp_path):
    """Triton passes images alone, and so its engine has no other inputs."""
    folder = tmp_path / "repository"
    found = run_over_stand_in("tests.support.export_scenarios:served", str(small_models / "small_x2.onnx"), str(folder))
    assert found["measured by"].startswith("TensorRT 10.3.0 on Stand-in, against the FP32 network in OpenVINO ")
    assert found["not run"] == "" and found["path"] == str(folder / "small_x2_fp16/1/model.plan")
    assert "max_batch_size: 2\n" in (folder / "small_x2_fp16/config.pbtxt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [pytest.param(2, marks=pytest.mark.weekly), 2.5])
def test_an_engine_of_a_checkpoint_is_run_too(small_checkpoint, tmp_path, scale):
    found = exported(small_checkpoint, tmp_path, "fp16", scale=scale)
    assert found["error"] is None and found["remembered"]
    assert f"small_x{scale}_fp16.engine" in found["files"]
    assert found["measured by"].startswith("TensorRT 10.3.0 on Stand-in, against the FP32 network in OpenVINO ")


@pytest.mark.parametrize("spoil", ["weights", "black", "given means", "unused means", "scale"])
def test_one_that_computes_something_else_gets_no_name(small_models, tmp_path, spoil):
    found = exported(small_models / "small_x2.onnx", tmp_path, "fp16", spoil)
    expected = "as the scale 2 in its sidecar" if spoil == "scale" else "and at least 50 dB is needed"
    assert expected in found["error"] and "\n" not in found["error"]
    if spoil != "scale":
        assert found["error"].startswith("small_x2_fp16.engine is refused: ")
    assert [name for name in found["files"] if not name.endswith((".log", ".cache"))] == []
    assert not found["remembered"]


@pytest.mark.skipif(cuda_device_count() > 0, reason="here is a GPU")
def test_without_a_gpu_nothing_is_claimed():
    reason = check_engine(b"", "tensorrt-rtx", make_profile("32x32"), ARTIFACT, None, name="x")
    assert reason == "there is no NVIDIA GPU here"


def test_without_pycuda_nothing_is_claimed(monkeypatch):
    def missing(*_):
        raise MissingDependency("running an engine needs pycuda: pip install 'overnet[cuda]'")

    monkeypatch.setattr(in_slots, "cuda_device", lambda device: CudaDevice("GPU", "8.9", shares_memory=False))
    monkeypatch.setattr(in_slots.Gpu, "acquire", missing)
    reason = check_engine(b"", "tensorrt-rtx", make_profile("32x32"), ARTIFACT, None, name="x")
    assert reason == "running an engine needs pycuda: pip install 'overnet[cuda]'"


def test_a_size_that_the_cpu_has_no_memory_for(monkeypatch):
    monkeypatch.setattr(engine_check, "why_not_here", lambda: None)
    monkeypatch.setattr(engine_check, "available_memory_bytes", lambda: 8_000_000_000)
    reason = check_engine(b"", "tensorrt", make_profile("1080x1920"), ARTIFACT, None, name="x")
    assert reason == "comparing it with its network needs about 30.3 GB of the CPU's memory"
