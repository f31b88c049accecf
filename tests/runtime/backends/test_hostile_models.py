"""ONNX files whose graph is not what their metadata say: refused at loading, by every backend that runs them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from overnet.errors import ArtifactError
from overnet.files.onnx_metadata import INPUT_NAME, OUTPUT_NAME, Artifact
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.openvino_backend import OpenVinoBackend
from overnet.runtime.backends.ort.backend import OnnxRuntimeBackend
from tests.conftest import SHARED, needs_shared

BACKENDS = [OpenVinoBackend, OnnxRuntimeBackend]


def model_file(path, nodes, *, scale, output_type=TensorProto.UINT8, output_shape=("n", "H", "W", 3)):
    """Write an ONNX file with the given nodes between the image and the result."""
    image = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["n", "h", "w", 3])
    result = helper.make_tensor_value_info(OUTPUT_NAME, output_type, output_shape)
    graph = helper.make_graph(nodes, "test", [image], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    artifact = Artifact(scale=scale, overscale=scale, precision="fp32", weights_sha256="a" * 64)
    helper.set_model_props(model, artifact.to_metadata())
    onnx.save(model, path)
    return path


def repeated(times):
    """Nodes that enlarge by repeating pixels."""
    scales = helper.make_node(
        "Constant", [], ["scales"], value=onnx.numpy_helper.from_array(np.array([1, times, times, 1], np.float32))
    )
    resize = helper.make_node("Resize", ["float", "", "scales"], ["large"], mode="nearest")
    to_float = helper.make_node("Cast", [INPUT_NAME], ["float"], to=TensorProto.FLOAT)
    return [scales, to_float, resize, helper.make_node("Cast", ["large"], [OUTPUT_NAME], to=TensorProto.UINT8)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_does_what_its_metadata_say(tmp_path, backend):
    path = model_file(tmp_path / "a.onnx", repeated(2), scale=2)
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(1, 5, 7, 3)
    upscaled = backend(path, 2, BackendOptions()).upscale(image)
    assert np.array_equal(upscaled, image.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("nodes", "options", "found"),
    [
        (repeated(2), {}, "uint8 1 x 8 x 12 x 3"),
        ([helper.make_node("Identity", [INPUT_NAME], [OUTPUT_NAME])], {}, "uint8 1 x 4 x 6 x 3"),
        (
            [helper.make_node("Transpose", [INPUT_NAME], [OUTPUT_NAME], perm=[0, 3, 1, 2])],
            {"output_shape": ("n", 3, "H", "W")},
            "uint8 1 x 3 x 4 x 6",
        ),
        (
            [helper.make_node("Cast", [INPUT_NAME], [OUTPUT_NAME], to=TensorProto.FLOAT)],
            {"output_type": TensorProto.FLOAT},
            "float32 1 x 4 x 6 x 3",
        ),
        (
            [helper.make_node("Shape", [INPUT_NAME], [OUTPUT_NAME])],
            {"output_type": TensorProto.INT64, "output_shape": (4,)},
            "int64 4",
        ),
    ],
)
def test_a_graph_that_does_something_else(tmp_path, backend, nodes, options, found):
    path = model_file(tmp_path / "lie.onnx", nodes, scale=4, **options)
    with pytest.raises(ArtifactError, match=found) as caught:
        backend(path, 4, BackendOptions())
    assert "as its scale 4 asks for" in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_fails(tmp_path, backend):
    nodes = [
        helper.make_node("Constant", [], ["five"], value=onnx.numpy_helper.from_array(np.array([5, 5, 5, 5]))),
        helper.make_node("Reshape", [INPUT_NAME, "five"], [OUTPUT_NAME]),
    ]
    with pytest.raises(ArtifactError, match=r"fails\.onnx: it cannot upscale an image"):
        backend(model_file(tmp_path / "fails.onnx", nodes, scale=2), 2, BackendOptions())


@needs_shared
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("file", "scale"), [("identity", 2), ("lie_scale4", 4), ("nchw", 2)])
def test_handed_files(backend, file, scale):
    with pytest.raises(ArtifactError, match="as its scale"):
        backend(SHARED / "cases" / "hostile" / f"{file}.onnx", scale, BackendOptions())
