import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from overnet.export.graph.builder import rounded
from overnet.export.graph.network_graph import build_onnx
from overnet.files.onnx_metadata import Artifact
from overnet.network.checkpoint import load_checkpoint
from overnet.network.deploy import deploy
from overnet.network.model import OverNet, OverNetConfig, reference
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.ort.backend import OnnxRuntimeBackend


def random_model(**config):
    torch.manual_seed(11)
    model = OverNet(OverNetConfig(**{"width": 16, "groups": 2, "blocks": 2, "expansion": 2, "squeeze": 4} | config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                # Away from their initial 1, negative ones too: a scalar that was dropped or folded wrongly shows.
                parameter.uniform_(-1.3, 1.3)
    return model.eval()


def test_the_file_itself():
    model = build_onnx(deploy(random_model(overscale=3)), 2)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version <= 20) for entry in model.opset_import] == [("", True)]
    (entry,), (result,) = model.graph.input, model.graph.output
    for value in (entry, result):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        dimensions = value.type.tensor_type.shape.dim
        assert [bool(dimension.dim_param) for dimension in dimensions] == [True, True, True, False]
        assert dimensions[3].dim_value == 3


def shapes_within(model, height, width):
    """The shape of every tensor inside the graph, for an input of this size."""
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, value in zip(dimensions, (1, height, width, 3), strict=True):
        dimension.dim_value = value
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in inferred.graph.value_info
    }


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
def test_nothing_lies_on_the_overscaled_grid(scale):
    """But for the image itself at the end, no tensor is larger than the input, and nothing is resized."""
    model = build_onnx(deploy(random_model(overscale=5)), scale)
    assert not [node for node in model.graph.node if node.op_type == "Resize"]
    shapes = shapes_within(model, 20, 30)
    assert len(shapes) > 100
    for name, shape in shapes.items():
        if name not in ("shuffled", "clipped", "rounded", "interleaved", "levels") and len(shape) == 4:
            # Two rows or columns more on either side, where edges are repeated.
            assert shape[2] <= 24 and shape[3] <= 34, (name, shape)


def float_graph(model, scale):
    """Return a function from images to what the graph computes before it clips and rounds, 0 to 1."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    name = "added" if scale == 1 or "shuffled" not in {node.name for node in model.graph.node} else "shuffled"
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: session.run([name], {"image": images})[0] / 255


@pytest.mark.parametrize(
    ("overscale", "scale"),
    [
        *((o, s) for o in (2, 3, 5) for s in range(1, o + 1)),
        (3, 2.5),
        pytest.param(2, 1.333, marks=pytest.mark.slow),
        pytest.param(5, 2.3, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", ["default", "lean-memory", "as-defined"])
def test_the_rewriting_is_exact(overscale, scale, form):
    """Before rounding, borders included, any size and batch: at most 1e-5 from the network (1 is white)."""
    model = random_model(overscale=overscale)
    built = build_onnx(deploy(model), scale, form=form)
    assert Artifact.from_metadata({entry.key: entry.value for entry in built.metadata_props}, name="").scale == scale
    graph = float_graph(built, scale)
    for shape in [(1, 16, 16, 3), (3, 17, 31, 3), (1, 1, 1, 3), (1, 1, 9, 3), (2, 24, 40, 3)]:
        images = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
        with torch.no_grad():
            expected = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, scale).numpy()
        assert np.abs(graph(images) - expected).max() <= 1e-5, shape


def test_lean_memory_cuts_the_widest_tensor():
    network = deploy(random_model(overscale=3, expansion=6))
    widest = {
        form: max(shape[1] for shape in shapes_within(build_onnx(network, 2, form=form), 8, 8).values())
        for form in ("default", "lean-memory")
    }
    assert widest == {"default": 96, "lean-memory": 32}


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 1, 7, 3), (1, 9, 1, 3), (3, 16, 16, 3), (2, 17, 31, 3)])
def test_any_size_and_batch(small_models, small_checkpoint, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    upscaled = OnnxRuntimeBackend(small_models / "small_x2.onnx", 2, BackendOptions()).upscale(images)
    model = load_checkpoint(small_checkpoint)
    for one, expected in zip(upscaled, images, strict=True):
        assert np.abs(one.astype(int) - reference(model, expected, 2).astype(int)).max() <= 1


@pytest.mark.parametrize("scale", [0, 4, 0.5, 3.5, 2.3333, 4 / 3, math.nan, math.inf])
def test_impossible_scales(scale):
    with pytest.raises(ValueError, match="at most three decimals, and this network goes from 1 to 3"):
        build_onnx(deploy(random_model(overscale=3)), scale)


def test_rounding_keeps_so_many_bits():
    values = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    kept = rounded(values, 16)
    assert np.all(kept.view(np.uint32) & 0xFF == 0)
    assert np.abs(kept / values - 1).max() <= 2**-16
    assert np.array_equal(rounded(values, 24), values)
