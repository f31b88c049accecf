"""The options of overnet-run that say where and how to compute."""

from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from overnet.cli.common import PLAIN
from overnet.cli.run.command import run_command
from overnet.errors import InputError, OverNetError
from overnet.files.onnx_metadata import read_artifact
from overnet.runtime import upscaler
from overnet.weights import bundled_folder


@pytest.fixture
def run(tmp_path, image):
    """Run the command on an image."""
    import cv2

    cv2.imwrite(str(tmp_path / "in.png"), image)
    command = typer.Typer(**PLAIN)
    command.command()(run_command)

    def run(*options):
        arguments = [str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), *options]
        return CliRunner().invoke(command, arguments)

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (None, 0, "cpu", 3, None, True)),
        (
            ("--precision=fp16", "--device=2", "--provider=cuda", "--slots=4", "--zero-copy", "--no-cuda-graphs"),
            ("fp16", 2, "cuda", 4, True, False),
        ),
        (("--device", "cuda:1", "--no-zero-copy", "--cuda-graphs"), (None, 1, "cpu", 3, False, True)),
    ],
    ids=["none", "all", "others"],
)
def test_they_reach_the_upscaler(run, monkeypatch, options, expected):
    given = {}

    def stop(*_, **options):
        given.update(options)
        raise InputError("far enough")

    monkeypatch.setattr(upscaler, "Upscaler", stop)
    assert isinstance(run(*options).exception, InputError)
    names = ("precision", "device", "provider", "slots", "zero_copy", "cuda_graphs")
    assert tuple(given[name] for name in names) == expected


@pytest.mark.parametrize("wrong", ["-1", "one", "cuda:", "gpu:1", "1.5"])
def test_what_is_no_device(run, wrong):
    result = run(f"--device={wrong}")
    assert result.exit_code == 2
    assert "no number of a GPU" in result.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--slots", "0"), "slots is 0; it must be from 1 to 16"),
        (("--slots", "17"), "slots is 17"),
        (("--provider", "cuda"), "the provider cuda is for the backend onnxruntime, and the backend is auto"),
        (("--provider", "rocm", "--backend", "onnxruntime"), "there is no provider 'rocm'"),
        (("--precision", "fp64", "--backend", "openvino"), "not in 'fp64'"),
    ],
)
def test_wrong_values(run, options, expected):
    error = run(*options).exception
    assert isinstance(error, OverNetError)
    assert expected in str(error)


@pytest.mark.parametrize("known", [True, False], ids=["with an FP32 file", "without one"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast INT8", "slow INT8"])
def test_an_int8_file_on_a_cpu_without_fast_int8(run, monkeypatch, tmp_path, fast, known):
    """The FP32 file of the same weights is taken, and a line says so."""
    onnx = pytest.importorskip("onnx")
    bundled = bundled_folder("realtime") / "realtime_x2.onnx"
    artifact = replace(read_artifact(bundled), precision="int8")
    content = onnx.load(bundled)
    onnx.helper.set_model_props(
        content, (artifact if known else replace(artifact, weights_sha256="0" * 64)).to_metadata()
    )
    onnx.save(content, tmp_path / "x2_int8.onnx")
    taken = []
    monkeypatch.setattr("overnet.system.environment.has_fast_int8", lambda: fast)

    def stop(*_, model, **options):
        taken.append(model)
        raise InputError("far enough")

    monkeypatch.setattr(upscaler, "Upscaler", stop)
    result = run("--model", str(tmp_path / "x2_int8.onnx"))
    assert taken == [tmp_path / "x2_int8.onnx" if fast or not known else bundled]
    said = "" if fast else "in FP32" if known else "there is no FP32 file of these weights beside it"
    assert said in result.output and ("no fast INT8" in result.output) is not fast


@pytest.mark.parametrize("fast", [True, False], ids=["fast INT8", "slow INT8"])
def test_int8_of_a_bundled_model_on_a_cpu_without_fast_int8(run, monkeypatch, fast):
    taken = []
    monkeypatch.setattr("overnet.system.environment.has_fast_int8", lambda: fast)

    def stop(*_, model, precision, **options):
        taken.append((str(model), precision))
        raise InputError("far enough")

    monkeypatch.setattr(upscaler, "Upscaler", stop)
    result = run("--model", "realtime", "--precision", "int8")
    assert taken == [("realtime", "int8" if fast else None)]
    assert ("no fast INT8 arithmetic: FP32 files are used" in result.output) is not fast
