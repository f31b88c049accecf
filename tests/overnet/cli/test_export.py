"""``overnet-export`` as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from overnet.files.engine_sidecar import read_sidecar
from overnet.files.onnx_metadata import read_artifact
from tests.conftest import ROOT
from tests.support.commands import command_line, environment, run_command


def slow(*parameters):
    return pytest.param(*parameters, marks=pytest.mark.slow)


@pytest.fixture
def folder(tmp_path, small_checkpoint, small_models):
    shutil.copy(small_checkpoint, tmp_path / "small.safetensors")
    shutil.copy(small_models / "small_x2.onnx", tmp_path / "small_x2.onnx")
    (tmp_path / "foreign.onnx").write_text("no ONNX file")
    (tmp_path / "text.pth.tar").write_text("no checkpoint")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "truncated.safetensors").write_bytes(small_checkpoint.read_bytes()[:2000])
    return tmp_path


def export(*arguments, cwd):
    return run_command(*arguments, program="overnet-export", cwd=cwd)


def test_onnx_files_in_fp16(folder):
    result = export(
        "small.safetensors", "--scale", 2, "--scale", 3, "--target", "onnx", "-o", "out", "--json", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    files = json.loads(result.stdout)["files"]
    assert [file["path"] for file in files] == [f"out/small_x{scale}_fp16.onnx" for scale in (2, 3)]
    for file in files:
        assert read_artifact(folder / file["path"]).precision == file["precision"] == "fp16"
        assert file["psnr_db"] >= 50
        assert file["multiply_accumulates_per_pixel"] > 0 and file["activation_bytes_per_pixel"] > 0
        assert f"{file['multiply_accumulates_per_pixel']:,.0f} multiply-accumulates" in result.stderr
        assert f"{file['psnr_db']:.1f}" in result.stderr
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["small_x2_fp16.onnx", "small_x3_fp16.onnx"]
    shutil.copy(ROOT / "samples/harbour.png", folder / "in.png")
    run = run_command("in.png", "-o", "big.png", "--model", "out", cwd=folder)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_fraction_from_its_export_to_its_use(folder):
    """A whole number is whole however it is written; a fraction's file is used directly."""
    scales = ["--scale", "2.0", "--scale", "2", "--scale", "2.5"]
    result = export("small.safetensors", *scales, "--target", "onnx", "-o", "out", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    files = json.loads(result.stdout)["files"]
    assert [file["path"] for file in files] == ["out/small_x2_fp16.onnx", "out/small_x2.5_fp16.onnx"]
    assert [file["scale"] for file in files] == [2, 2.5] and '"scale": 2,' in result.stdout
    shutil.copy(ROOT / "samples/harbour.png", folder / "in.png")
    run = run_command("in.png", "--scale", "2.5", "--model", "out", cwd=folder)
    assert run.returncode == 0 and "reduced" not in run.stderr, run.stderr
    run = run_command("in.png", "-o", "big.png", "--model", "out/small_x2.5_fp16.onnx", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert (folder / "big.png").read_bytes() == (folder / "in_x2.5.png").read_bytes()
    from_onnx = export("out/small_x2.5_fp16.onnx", "--scale", "2.25", cwd=folder)
    assert "is for scale 2.5, not 2.25" in from_onnx.stderr


@pytest.mark.slow
def test_engines_with_sidecars(folder):
    pytest.importorskip("tensorrt_rtx")
    arguments = ["--target", "tensorrt-rtx", "--scale", 2, "--shape", "16x16:32x48:64x64", "--batch", 2]
    result = export("small.safetensors", *arguments, "-o", "out", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    (file,) = json.loads(result.stdout)["files"]
    path = folder / "out/small_x2_fp16.engine"
    sidecar = read_sidecar(path)
    assert folder / file["path"] == path
    assert file["size_bytes"] == sidecar.engine_size_bytes == path.stat().st_size
    assert file["profile"] == str(sidecar.profile) == "16x16:32x48:64x64, batch 2"
    assert file["activation_memory_bytes"] == sidecar.activation_memory_bytes > 0
    assert sidecar.artifact == read_artifact(folder / file["onnx"])
    assert sidecar.environment.runtime == "tensorrt-rtx"
    assert "small_x2_fp16.engine" in result.stderr and f"{file['psnr_db']:.1f}" in result.stderr
    again = export("small.safetensors", *arguments, "-o", "out", cwd=folder)
    assert again.returncode == 1 and "exists already" in again.stderr


def test_a_repository_for_triton(folder):
    arguments = ["--target", "triton", "--batch", 2, "--scale", 2, "--precision", "fp32"]
    result = export("small.safetensors", *arguments, "-o", "served", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert [file["path"] for file in answer["files"]] == ["served/small_x2/1/model.onnx"]
    assert answer["upscaler"] == "small_x2_upscaler"
    assert "small_x2/1/model.onnx     x2" in result.stderr
    assert "whole images; serve all with tritonserver --model-repository=served" in result.stderr
    assert "max_batch_size: 2" in (folder / "served/small_x2/config.pbtxt").read_text()
    copied = export("small_x2.onnx", *arguments, "-o", "served", cwd=folder)
    assert copied.returncode == 1 and "served/small_x2 exists already" in copied.stderr
    assert export("small_x2.onnx", *arguments, "-o", "served", "--overwrite", cwd=folder).returncode == 0


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["safetensors"] = None
from overnet.__main__ import main_export
main_export()
"""


@pytest.mark.parametrize("target", ["onnx", "tensorrt-rtx"])
def test_from_an_onnx_file_without_torch(folder, small_models, target):
    if target != "onnx":
        pytest.importorskip("tensorrt_rtx")
    options = ["--target", target, "-o", "out", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, small_models / "small_x2.onnx", *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(),
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (file,) = json.loads(result.stdout)["files"]
    made = {"out/small_x2_fp16.onnx", *(() if target == "onnx" else ("out/small_x2_fp16.engine",))}
    assert {file["onnx"], file["path"]} == made
    assert file["psnr_db"] >= 50 and file["measured_by"].endswith("against the FP32 ONNX file")
    assert f"measured by {file['measured_by']}" in result.stderr


def test_progress_as_lines(folder, small_models):
    pytest.importorskip("tensorrt_rtx")
    options = ["--target", "tensorrt-rtx", "--precision", "fp32", "--shape", "32x32", "-o", "out", "--progress-lines"]
    result = export(small_models / "small_x2.onnx", *options, "-q", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    *lines, last = map(json.loads, result.stdout.splitlines())
    assert len(lines) > 20 and all(set(line) == {"doing", "done", "total"} for line in lines)
    assert lines[0] == {"doing": "making the graph", "done": 0, "total": 0}
    assert any(line["doing"].startswith("building the engine: ") and line["total"] > 1 for line in lines)
    assert last["files"][0]["path"] == "out/small_x2.engine" and last["files"][0]["psnr_db"] is None
    assert "--progress-lines" not in export("--help", cwd=folder).stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["none.pth.tar"], "No such file"),
        (["none.onnx"], "none.onnx: No such file"),
        (["foreign.onnx"], "foreign.onnx: "),
        (["small_x2.onnx", "--scale", "3"], "is for scale 2, not 3"),
        (["small_x2.onnx", "--precision", "int8"], "give the checkpoint"),
        (["small_x2.onnx", "--precision", "fp32", "--target", "onnx"], "nothing to export"),
        (["small_x2.onnx", "--target", "triton", "--platform", "tflite"], "onnxruntime, openvino or tensorrt"),
        (["small_x2.onnx", "--platform", "openvino"], "--platform needs --target triton"),
        (["small_x2.onnx", "--target", "triton", "--batch", "0"], "--batch is 0; it must be from 1 to 64"),
        (["--target", "triton", "--platform", "openvino", "--batch", "2"], "OpenVINO takes batches as they come"),
        (["small_x2.onnx", "--target", "triton", "--shape", "32x32"], "which --platform tensorrt makes"),
        (["small_x2.onnx", "--lean-memory"], "give a checkpoint for others"),
        (["text.pth.tar"], "neither a PyTorch checkpoint"),
        (["empty.safetensors"], "empty"),
        (["truncated.safetensors"], "truncated.safetensors"),
        (["--scale", "7"], "from 1 to 5"),
        (["small.safetensors", "--scale", "4"], "from 1 to 3"),
        (["--scale", "0"], "at least 1"),
        slow(["--scale", "0.5"], "at least 1"),
        slow(["--scale", "nan"], "at least 1"),
        slow(["--scale", "inf"], "at least 1"),
        slow(["--scale", "1e9"], "from 1 to 5"),
        slow(["--scale", "2,5"], "valid number"),
        slow(["small.safetensors", "--scale", "2.3333"], "three decimals, such as 2.333"),
        slow(["realtime", "--scale", "2.5"], "has 2, 3, 4: export --scale 3, and overnet-run --scale 2.5"),
        (["-o", "text.pth.tar"], "cannot be made"),
        (["--precision", "fp8"], "fp32, fp16, bf16 or int8"),
        (["--target", "coreml"], "onnx, tensorrt, tensorrt-rtx or triton"),
        (["--target", "onnx", "--shape", "64x64"], "takes images of any size"),
        (["--target", "tensorrt-rtx", "--shape", "64"], "HEIGHTxWIDTH"),
        (["--target", "tensorrt-rtx", "--shape", "64x64:32x32:128x128"], "do not grow"),
        (["--target", "tensorrt-rtx", "--shape", "0x64"], "outside 1 to"),
        (["--target", "tensorrt-rtx", "--shape", "20000x20000"], "outside 1 to"),
        (["--target", "tensorrt-rtx", "--batch", "0"], "batch of 0"),
        (["--target", "tensorrt-rtx", "--workspace", "0"], "--workspace (MiB) is 0; it must be at least 1"),
        (["--max-loss-db", "0.2"], "need --precision int8"),
        (["--precision", "int8", "--max-loss-db", "-1"], "from 0 to 100"),
        (["--precision", "int8", "--calibration", "nowhere", "small.safetensors", "--scale", "2"], "nowhere"),
    ],
)
def test_refusals(folder, arguments, expected):
    if "tensorrt-rtx" in arguments:
        pytest.importorskip("tensorrt_rtx")
    before = sorted(folder.rglob("*"))
    result = export(*arguments, cwd=folder)
    assert result.returncode != 0
    assert expected in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_tensorrt_that_is_not_here(folder):
    if pytest.importorskip("torch").cuda.is_available():
        pytest.skip("here is a GPU, and TensorRT may well build")
    before = sorted(folder.rglob("*"))
    result = export("small.safetensors", "--scale", 2, "--target", "tensorrt", cwd=folder)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1 and "tensorrt" in result.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_unwritable_folder(folder):
    (folder / "out").mkdir(mode=0o500)
    result = export("small.safetensors", "--scale", 2, "-o", "out", cwd=folder)
    assert result.returncode == 1 and "cannot be written: Permission denied" in result.stderr


def test_a_file_that_cannot_be_written_is_one_line(folder):
    """As a full disk or an unwritable folder, also for root: /proc takes no files."""
    result = export("small.safetensors", "--scale", 2, "-o", "/proc", cwd=folder)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1 and "cannot be written" in result.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(folder):
    process = subprocess.Popen(
        command_line("-o", "out", "--target", "onnx", "--progress-lines", program="overnet-export"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    # The first of three files is written by then, and compared, which takes seconds with the bundled weights.
    assert any("comparing" in line for line in process.stdout)
    assert any((folder / "out").iterdir())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "overnet: interrupted\n")
    assert list((folder / "out").iterdir()) == []


def test_quiet_says_nothing(folder):
    result = export("small.safetensors", "--scale", 1, "--precision", "fp32", "--target", "onnx", "-q", cwd=folder)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert read_artifact(folder / "small_x1.onnx").scale == 1


@pytest.mark.parametrize(
    ("options", "scales", "limit_bytes"),
    [
        pytest.param([], [2, 3, 4], 600e6, marks=pytest.mark.weekly),
        # At this scale they take the most memory.
        pytest.param(["--scale", "4"], [4], 600e6, marks=pytest.mark.weekly),
        pytest.param(["--scale", "4", "--lean-memory"], [4], 450e6, marks=pytest.mark.slow),
    ],
)
def test_the_default_engines(tmp_path, options, scales, limit_bytes):
    """Engines of the bundled weights, within 600 and 450 MB for each 640x360 pixels of the largest input."""
    pytest.importorskip("tensorrt_rtx")
    largest = (640 * 640) / (640 * 360)  # upright videos fit too
    result = export("--target", "tensorrt-rtx", "-o", tmp_path, "--json", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    files = json.loads(result.stdout)["files"]
    assert [file["scale"] for file in files] == scales
    assert max(file["activation_memory_bytes"] for file in files) <= limit_bytes * largest
    assert min(file["psnr_db"] for file in files) >= 50
    assert np.all([read_sidecar(tmp_path / file["path"]).artifact.precision == "fp16" for file in files])
