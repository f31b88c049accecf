"""The model for Triton's Python backend without Triton; tests/export/triton/test_server.py runs it in the real one."""

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from overnet import Upscaler
from overnet.errors import BackendError, InputError
from overnet.export.triton.config import upscaler_config
from overnet.runtime import triton_model
from overnet.runtime.triton_model import Settings, TritonPythonModel

PARAMETERS = {
    "backend": "auto",
    "tile": "auto",
    "threads": "1",
    "scale": "2",
    "max_pixels": "10000",
    "max_result_pixels": "50000",
}


class Backend:
    """What Triton's Python backend gives a model."""

    class TritonError(Exception):
        INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"

        def __init__(self, message, code):
            super().__init__(message)
            self.code = code

    class Tensor:
        def __init__(self, name, value):
            self.name, self.as_numpy = (lambda: name), (lambda: value)

    class InferenceResponse:
        def __init__(self, output_tensors=(), error=None):
            self.outputs, self.error = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}, error

    def __init__(self):
        self.logged = []
        self.Logger = SimpleNamespace(log_error=self.logged.append)


def request(wanted=("upscaled",), **inputs):
    tensors = [Backend.Tensor(name, value) for name, value in inputs.items()]
    return SimpleNamespace(inputs=lambda: tensors, requested_output_names=lambda: list(wanted))


def arguments(folder, **changed):
    parameters = {name: {"string_value": value} for name, value in {**PARAMETERS, **changed}.items()}
    return {
        "model_config": json.dumps({"parameters": parameters}),
        "model_repository": str(folder.parent),
        "model_version": folder.name,
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


@pytest.fixture
def backend(monkeypatch):
    backend = Backend()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    return backend


@pytest.fixture
def model(small_models, backend):
    model = TritonPythonModel()
    model.initialize(arguments(small_models))
    yield model
    model.finalize()


def test_only_what_is_asked_for_is_computed(model, small_models, image, monkeypatch):
    monkeypatch.setattr(triton_model, "encode_image", lambda *_: pytest.fail("nobody asked for a file"))
    first, second = model.execute([request(image=image), request(["notes"], image=image, scale=np.array([1.5]))])
    assert np.array_equal(first.outputs["upscaled"], Upscaler(2, model=small_models)(image))
    assert list(second.outputs) == ["notes"] and b"upscaled by 2, then reduced" in second.outputs["notes"][0]


def test_transparency_is_in_the_file_and_named_where_an_array_lacks_it(model, image):
    _, content = cv2.imencode(".png", np.dstack([image, image[..., 0]]))
    data = np.array([content.tobytes()], dtype=np.object_)
    (answer,) = model.execute([request(["upscaled", "upscaled_file", "notes"], file=data)])
    decoded = cv2.imdecode(np.frombuffer(answer.outputs["upscaled_file"][0], np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.shape == (100, 132, 4)
    assert np.array_equal(answer.outputs["upscaled"], decoded[..., 2::-1])
    assert answer.outputs["notes"].tolist() == [b"the array holds no transparency: it was dropped"]


def test_a_file_is_turned_as_it_is_shown(model, image):
    """The array is upright; the file keeps its tag."""
    exif = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    _, content = cv2.imencode(".jpg", image)
    segment = b"\xff\xe1" + (len(exif) + 8).to_bytes(2, "big") + b"Exif\0\0" + exif
    data = content.tobytes()[:2] + segment + content.tobytes()[2:]
    (answer,) = model.execute([request(["upscaled", "upscaled_file"], file=np.array([data], dtype=np.object_))])
    assert answer.outputs["upscaled"].shape == (132, 100, 3)
    assert b"Exif\0\0" in answer.outputs["upscaled_file"][0]


@pytest.mark.parametrize(
    ("error", "expected", "code", "is_logged"),
    [
        (ZeroDivisionError("oh"), "a fault of OverNet, see the server's log (ZeroDivisionError)", "INTERNAL", True),
        (BackendError("it failed\nhere"), "it failed here", "INTERNAL", False),
        (MemoryError(), "out of memory", "INTERNAL", False),
        (InputError("too large"), "too large", "INVALID_ARG", False),
    ],
)
def test_a_failure_is_the_answer_to_its_own_request(
    model, backend, image, monkeypatch, error, expected, code, is_logged
):
    enlarge_image, calls = triton_model.enlarge_image, []

    def fail_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise error
        return enlarge_image(*arguments)

    monkeypatch.setattr(triton_model, "enlarge_image", fail_first)
    first, second = model.execute([request(image=image), request(image=image)])
    assert (str(first.error), first.error.code, first.outputs) == (expected, code, {})
    assert second.error is None and second.outputs["upscaled"].shape == (100, 132, 3)
    assert [is_logged] == [bool(backend.logged)] and (not is_logged or "Traceback" in backend.logged[0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"image": np.zeros((101, 100, 3), np.uint8)}, "the image is too large: 100 x 101 pixels, the limit is 10000"),
        ({"image": np.zeros(3, np.uint8)}, "an image must be H x W x 3 uint8; this is (3,) uint8"),
        ({"image": np.zeros((9, 9, 3), np.uint16)}, "an image must be H x W x 3 uint8; this is (9, 9, 3) uint16"),
        (
            {"image": np.zeros((100, 100, 3), np.uint8), "scale": np.array([2.5])},
            "the result of 250x250 pixels is too large; the limit is 50000 pixels",
        ),
        (
            {"image": np.zeros((9, 9, 3), np.uint8), "scale": np.array([2.0, 2.0])},
            "scale has 2 values; it must have one",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_is_one_line_and_the_next_is_answered(model, backend, image, given, expected):
    refused, answered = model.execute([request(**given), request(image=image)])
    assert (str(refused.error), refused.error.code, backend.logged) == (expected, "INVALID_ARG", [])
    assert answered.error is None and answered.outputs["upscaled"].shape == (100, 132, 3)


def test_an_image_too_large_for_its_format(model, backend, image):
    wide = np.zeros((1, 9000, 3), np.uint8)
    (answer,) = model.execute([request(["upscaled_file"], image=wide, format=np.array([b"webp"], np.object_))])
    assert answer.error.code == "INVALID_ARG"
    assert str(answer.error) == "the file: WebP holds at most 16383 pixels a side, and this is 18000 x 2"


def test_an_instance_for_a_gpu_uses_that_one(small_models, monkeypatch):
    used = {}
    monkeypatch.setattr(triton_model, "Upscaler", lambda scale, **options: used.update(scale=scale, **options))
    given = {**arguments(small_models, tile="256", threads="auto", backend="tensorrt")}
    TritonPythonModel().initialize({**given, "model_instance_kind": "GPU", "model_instance_device_id": "1"})
    model = used.pop("model")
    assert model == small_models
    assert used == {"scale": 2.0, "backend": "tensorrt", "tile": 256, "threads": None, "device": 1}


def test_parameters():
    given = {name: {"string_value": value} for name, value in PARAMETERS.items()}
    assert Settings.from_config({"parameters": given}) == Settings("auto", None, 1, 2.0, 10_000, 50_000)
    written = upscaler_config("x", 2)
    assert all(f'key: "{name}"' in written for name in PARAMETERS)
    with pytest.raises(InputError, match=r"config\.pbtxt: a parameter is no number \(.*'many'"):
        Settings.from_config({"parameters": {**given, "max_pixels": {"string_value": "many"}}})
    del given["tile"]
    with pytest.raises(InputError, match=r"config\.pbtxt lacks the parameter 'tile'; export the repository again"):
        Settings.from_config({"parameters": given})
