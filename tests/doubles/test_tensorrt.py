"""Tests that the doubles of TensorRT have no name or parameter that the libraries lack, run, and refuse."""

import importlib.util
import inspect
import json
import re
import sys

import pytest

from overnet.files.engine_sidecar import Profile
from tests.conftest import ROOT, SHARED, needs_shared
from tests.doubles.engines import write_engine
from tests.doubles.running import needs_cuda_core, run_over_stand_in

PLACE = "tests.doubles.trt_scenarios"
VERSIONS = ["tensorrt 10.3.0", "tensorrt 11.4.0", "tensorrt_rtx 1.7.1"]
HERE = ROOT / "tests" / "doubles"


def run(name, *args, **options):
    return run_over_stand_in(f"{PLACE}:{name}", *args, **options)


def double(version, monkeypatch):
    """Import the module of a version as a program over the doubles does."""
    name, number = version.split()
    monkeypatch.setenv("OVERNET_TENSORRT_VERSION" if name == "tensorrt" else "OVERNET_TENSORRT_RTX_VERSION", number)
    spec = importlib.util.spec_from_file_location(f"double_of_{name}", HERE / f"{name}_double" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.__version__ == number
    return module


def public(thing):
    return [name for name in dir(thing) if not name.startswith("_")]


def members(double_class):
    """Return the public names of a class of the double; of an enumeration its members."""
    return list(getattr(double_class, "__members__", None) or public(double_class))


def classes(module):
    return {name: getattr(module, name) for name in module.__all__ if isinstance(getattr(module, name), type)}


@needs_shared
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_the_names(version, monkeypatch):
    recorded = json.loads((SHARED / "reference" / "trt-api-names.json").read_text())[version]
    module = double(version, monkeypatch)
    assert [name for name in module.__all__ if name not in recorded] == []
    lacking = {
        f"{name}.{member}"
        for name, one in classes(module).items()
        for member in members(one)
        if member not in recorded[name]
    }
    assert lacking == set()


def test_the_library_that_is_here_has_the_names(monkeypatch):
    trt = pytest.importorskip("tensorrt_rtx")
    for name, one in classes(double(VERSIONS[2], monkeypatch)).items():
        real = getattr(trt, name)
        assert set(members(one)) <= set(dir(real))
        for member in members(one):
            if hasattr(one, "__members__"):
                assert int(getattr(one, member)) == int(getattr(real, member))
            else:
                assert callable(getattr(one, member)) == callable(getattr(real, member)), f"{name}.{member}"


def parameters(docstring, name):
    """Return the parameter names of each signature in the bindings' docstring."""
    found = []
    for line in docstring.splitlines():
        signature = re.fullmatch(rf"(?:\d+\. )?{name}\(self: [\w.]+(?:, )?(.*)\) -> .*", line.strip())
        if signature:
            found.append(re.findall(r"(?:^|, )(\w+): ", signature[1]))
    return found


def test_calls_are_those_of_the_library_that_is_here(monkeypatch):
    trt = pytest.importorskip("tensorrt_rtx")
    checked = set()
    for name, one in classes(double(VERSIONS[2], monkeypatch)).items():
        for member in public(one):
            function = getattr(one, member)
            overloads = parameters(getattr(getattr(trt, name), member).__doc__ or "", member)
            if not (inspect.isfunction(function) and overloads):
                continue
            checked.add(f"{name}.{member}")
            own = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
            together = [parameter for overload in overloads for parameter in overload]
            assert own in overloads or own == together, f"{name}.{member}"
    assert {"IExecutionContext.execute_async_v3", "ICudaEngine.create_execution_context"} <= checked
    assert len(checked) >= 25


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_engine_says(version):
    name, number = version.split()
    found = run("describe", name, env={"OVERNET_TENSORRT_VERSION": number}, rtx=True)
    assert found["tensors"] == {
        "image": ["TensorIOMode.INPUT", "DataType.UINT8", [-1, -1, -1, 3]],
        "given_means": ["TensorIOMode.INPUT", "DataType.FLOAT", [-1, 3, 1, 1]],
        "use_given_means": ["TensorIOMode.INPUT", "DataType.FLOAT", [1, 1, 1, 1]],
        "upscaled": ["TensorIOMode.OUTPUT", "DataType.UINT8", [-1, -1, -1, 3]],
        "means": ["TensorIOMode.OUTPUT", "DataType.FLOAT", [-1, 3, 1, 1]],
    }
    assert found["profile"] == [[1, 4, 4, 3], [2, 8, 8, 3], [2, 16, 16, 3]]
    assert found["profile of the means"] == [[1, 3, 1, 1], [2, 3, 1, 1], [2, 3, 1, 1]]
    assert found["memory"] == 2 * 16 * 16 * 100
    assert found["version"] == number
    assert found["has config"] == (number != "10.3.0")
    assert found["said"] == ""


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_images(name):
    assert run("images", name, rtx=True) == {
        "done": [True, True],
        "right": [True, True],
        "races": [],
        "said": "",
        "weights counted": True,
        "static": 2 * 16 * 16 * 100,
        "left": 0,
    }


def test_misuse_is_refused():
    found = run("misuse")
    expected = {
        "foreign": (None, "magicTag"),
        "of another version": (None, "expecting library version 10.3.0 got 10.9.0"),
        "no shape": (False, "no shape is set for image"),
        "no profile": (-1, "no optimization profile is chosen"),
        "shape outside": (False, "image of (1, 17, 8, 3) is outside of the profile"),
        "size unknown": (0, "input shapes are missing"),
        "no address": (False, "no address is set for image, upscaled"),
        "misaligned": (False, "image is not aligned to 256 bytes"),
        "no memory": (False, "no device memory is set"),
        "small memory": (False, "are needed"),
        "memory of another shape": (False, "are needed"),
        "beyond an allocation": (False, "CUresult 1"),
        "freed": (False, "CUresult 1"),
        "no room": (None, "OutOfMemory"),
        "default stream": (True, "WARNING: Using default stream"),
        "destroyed while running": (None, "destroyed while it was running"),
    }
    assert set(found) == set(expected)
    for what, (result, text) in expected.items():
        assert found[what][0] == result, what
        assert text in found[what][1], what


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        ("context", "the same object"),
        ("activations", "bytes 0 to 4864 of a device allocation of 4864 bytes"),
        ("output", "DtoH on stream 2 (its operation 2) reads bytes 0 to 576 of a device allocation"),
    ],
)
def test_what_is_shared_without_order_is_found(kind, shared):
    found = run("races", kind)
    assert found
    assert shared in found[0]


def test_an_input_may_be_replaced_once_it_was_read():
    assert run("races", "input") == []


@needs_cuda_core
def test_captured_runs():
    found = run("graphs")
    assert found["refused"] is False
    assert "captured before a plain run" in found["said"]
    assert found["allowed"] is True
    assert found["results"] == [[10], [20]]
    assert found["races"] == []


@pytest.mark.parametrize(("switch", "shape"), [("FLOAT", [1, 1, 1, 1]), ("FLOAT16", [1]), ("BOOL", [])])
def test_further_inputs_and_outputs(switch, shape):
    own, given = run("further_tensors", switch, shape)
    assert own == [True, [100, 100, 100], [100, 100, 100]]
    assert given == [True, [10, 20, 30], [100, 100, 100]]


def test_an_engine_of_our_own_graph(tmp_path):
    model = ROOT / "overnet" / "weights" / "overnet_x3.onnx"
    engine = write_engine(tmp_path / "x3.engine", model, Profile((8, 8), (16, 16), (32, 32)))
    shape, mean, source_mean = run("bundled", str(engine), [1, 10, 12, 3])
    assert shape == [1, 30, 36, 3]
    assert abs(mean - source_mean) < 10


def test_options_of_rtx():
    assert run("rtx_config", rtx=True) == {
        "allocated": 0,
        "made": True,
        "cache": [True, False, True],
        "version": True,
    }


def test_an_engine_loaded_without_a_context_leaves_one():
    assert run("primary_made_by_the_library")["contexts"] == 1
