import shutil

import numpy as np
import pytest

from overnet.errors import InputError
from overnet.evaluation.model_choice import choose_model, describe, same_weights_in_fp32
from overnet.files.onnx_metadata import read_artifact
from overnet.weights import bundled_checkpoint, bundled_folder


def relabelled(source, target, precision, *, coarser=False):
    """Make another file of the same weights, which says that it is in another precision; coarser weights if asked."""
    import onnx

    model = onnx.load(source)
    for constant in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(constant)
        if coarser and weights.ndim == 4 and weights.dtype == np.float32:
            step = np.abs(weights).max() / 100
            constant.CopyFrom(onnx.numpy_helper.from_array(np.rint(weights / step) * step, constant.name))
    for entry in model.metadata_props:
        if entry.key == "overnet.precision":
            entry.value = precision
    onnx.save(model, target)
    assert describe(target).precision == precision
    return target


@pytest.fixture
def half(small_models, tmp_path):
    (tmp_path / "apart").mkdir()
    return relabelled(small_models / "small_x2.onnx", tmp_path / "apart/half_x2.onnx", "fp16")


@pytest.fixture
def folder(tmp_path, small_models, half):
    """Files in FP32 for x2 and x3, in FP16 for x2, and another's."""
    for path in (*small_models.glob("*.onnx"), half):
        shutil.copy(path, tmp_path)
    (tmp_path / "another.onnx").write_bytes(b"not ours")
    return tmp_path


def test_of_a_folder_the_file_for_the_scale_and_the_precision(folder, half, small_models):
    (single,) = (path.name for path in small_models.glob("*x2*"))
    assert choose_model(folder, 2, None).path.name == single
    assert choose_model(folder, 2, "fp32").path.name == single
    chosen = choose_model(folder, 2, "fp16")
    assert (chosen.path.name, chosen.precision, chosen.runtime_precision) == (half.name, "fp16", "fp32")
    # BF16 is computed by the backend where no file is in it.
    chosen = choose_model(folder, 2, "bf16")
    assert (chosen.path.name, chosen.precision, chosen.runtime_precision) == (single, "bf16", "bf16")
    # What has no file for the scale is left to the runtime, which reduces a larger result.
    assert choose_model(folder, 4, None).path == folder


@pytest.mark.parametrize(
    ("name", "scale", "precision", "message"),
    [
        ("", 3, "fp16", "no ONNX file for x3 in fp16; overnet export makes such files"),
        ("", 2, "int8", "no ONNX file for x2 in int8"),
        ("small_x2.onnx", 2, "fp16", "is in fp32, not in fp16"),
        ("half", 2, "bf16", "is in fp16, not in bf16"),
        ("half", 2, "fp32", "is in fp16, not in fp32"),
        ("none.onnx", 2, None, "none.onnx: No such file"),
        ("none.safetensors", 2, None, "none.safetensors: No such file"),
        ("another.onnx", 2, None, "not an ONNX file"),
        ("x" * 300, 2, None, "too long"),
        ("nul\0", 2, None, "null"),
    ],
)
def test_refused_models(folder, half, name, scale, precision, message):
    with pytest.raises(InputError, match=message) as caught:
        choose_model(folder / (half.name if name == "half" else name), scale, precision)
    assert "\n" not in str(caught.value)


def test_two_files_that_could_be_meant(folder, small_models):
    shutil.copy(small_models / "small_x3.onnx", folder / "again.onnx")
    with pytest.raises(InputError, match=r"again\.onnx and .*x3\.onnx are both for x3 in fp32"):
        choose_model(folder, 3, None)


def test_the_reference_is_the_same_weights_in_fp32(folder, half, small_models):
    reference = same_weights_in_fp32(choose_model(folder, 2, "fp16"))
    assert reference.path == folder / "small_x2.onnx"
    assert (reference.precision, reference.artifact) == ("fp32", read_artifact(small_models / "small_x2.onnx"))
    # In BF16 by the backend alone: the same file.
    assert same_weights_in_fp32(choose_model(folder, 2, "bf16")).path == folder / "small_x2.onnx"
    assert same_weights_in_fp32(choose_model(bundled_checkpoint(), 2, "bf16")).path == bundled_checkpoint()
    # Nothing is lost to compare, or nothing is there to compare with: the bundled files are of other weights.
    assert same_weights_in_fp32(choose_model(folder, 2, None)) is None
    assert same_weights_in_fp32(choose_model(half, 2, None)) is None


def test_the_bundled_files_serve_as_reference(tmp_path):
    """Whoever exports the bundled weights in a lower precision has no FP32 file beside them, and needs none."""
    bundled = bundled_folder() / "overnet_x2.onnx"
    mine = relabelled(bundled, tmp_path / "mine.onnx", "fp16")
    assert same_weights_in_fp32(choose_model(mine, 2, None)).path == bundled


def test_an_engine_is_described_by_its_sidecar(tmp_path):
    (tmp_path / "x.engine").write_bytes(b"an engine")
    with pytest.raises(InputError, match=r"no x\.engine\.json beside it"):
        choose_model(tmp_path / "x.engine", 2, None)
