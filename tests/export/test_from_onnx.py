"""Files exported from an ONNX file of an earlier export."""

import hashlib
import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from overnet.errors import ArtifactError, InputError, OutputError
from overnet.export import exporter, from_onnx
from overnet.export.engine.profile import make_profile
from overnet.export.exporter import export
from overnet.export.options import CalibrationOptions, EngineOptions, ExportOptions
from overnet.export.precision.half import to_half
from overnet.export.verify.comparison import TOLERANCES, Parity, in_openvino
from overnet.files.engine_sidecar import read_sidecar
from overnet.files.onnx_metadata import read_artifact
from overnet.system.cuda_device import CudaDevice, cuda_device_count
from tests.export.verify.test_divergence import spoiled

ENGINE = EngineOptions("tensorrt-rtx", make_profile("16x16:32x32:64x64"))


@pytest.fixture
def source(small_models):
    return small_models / "small_x2.onnx"


@pytest.fixture(scope="module")
def small_files(small_checkpoint, tmp_path_factory):
    """The small network for x2 in lower precisions, from its checkpoint."""
    folder = tmp_path_factory.mktemp("files")
    return {
        precision: next(export(small_checkpoint, folder, ExportOptions(scales=(2,), precision=precision))).path
        for precision in ("fp16", "bf16")
    }


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_it_is_the_file_that_the_checkpoint_gives(source, small_files, tmp_path, precision):
    (file,) = export(source, tmp_path, ExportOptions(precision=precision))
    assert file.path == tmp_path / f"small_x2_{precision}.onnx"
    assert file.path.read_bytes() == small_files[precision].read_bytes()
    assert file.artifact == read_artifact(file.path) and file.artifact.precision == precision
    assert TOLERANCES[precision].holds(file.parity) and math.isfinite(file.parity.psnr_db)
    assert file.parity.statement.startswith("OpenVINO ")
    assert file.parity.statement.endswith(", against the FP32 ONNX file")
    assert list(tmp_path.iterdir()) == [file.path]


def test_fp16_is_the_default_and_names_can_be_given(source, tmp_path):
    (file,) = export(source, tmp_path, ExportOptions(), name="mine")
    assert file.path.name == "mine_fp16.onnx"


def test_what_fp16_cannot_hold_stays_in_fp32(source, tmp_path):
    graph = onnx.load(source)
    for part in ("weight", "bias"):
        graph = spoiled(graph, f"group.0.block.0.expand.0.{part}", 1e6)
    graph = spoiled(graph, "group.0.block.0.reduce.0.weight", 1e-6)
    onnx.save(graph, tmp_path / "huge.onnx")
    (file,) = export(tmp_path / "huge.onnx", tmp_path, ExportOptions())
    (note,) = file.notes
    assert "group.0.block.0.expand.0" in note and "65,504" in note
    assert TOLERANCES["fp16"].holds(file.parity)


def test_a_conversion_that_is_wrong_is_refused(source, tmp_path, monkeypatch):
    def wrong(exact, precision, images):
        return to_half(spoiled(exact, "fusion.share.0.weight", 3), precision), []

    monkeypatch.setattr(from_onnx, "converted", wrong)
    with pytest.raises(ArtifactError, match=r"^small_x2_fp16\.onnx is refused: it differs from the FP32 ONNX file by"):
        list(export(source, tmp_path, ExportOptions()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines(source, tmp_path, precision):
    pytest.importorskip("tensorrt_rtx")
    (file,) = export(source, tmp_path, ExportOptions(precision=precision, engine=ENGINE))
    stem = "small_x2" if precision == "fp32" else f"small_x2_{precision}"
    assert file.engine.path == tmp_path / f"{stem}.engine"
    sidecar = read_sidecar(file.engine.path)
    assert sidecar == file.engine.sidecar
    if not cuda_device_count():
        assert file.engine.not_run == f"{stem}.engine was not run: there is no NVIDIA GPU here"
    assert sidecar.artifact == read_artifact(tmp_path / f"{stem}.onnx")
    if precision == "fp32":
        assert sidecar.measured_by == "nothing, as the ONNX file is unchanged"
        assert (sidecar.psnr_db, sidecar.largest_difference) == (None, 0)
        assert file.path.read_bytes() == source.read_bytes()
    else:
        assert sidecar.measured_by == file.parity.statement
        assert sidecar.psnr_db == file.parity.psnr_db


def test_an_engine_comes_to_lie_beside_its_file(small_files, tmp_path):
    """The file stays what it is, even where what is there may not be replaced."""
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "model.onnx"
    path.write_bytes(small_files["fp16"].read_bytes())
    before = path.stat()
    (file,) = export(path, tmp_path, ExportOptions(engine=ENGINE))
    assert file.path == path and path.stat() == before
    assert file.engine.path == tmp_path / "model.engine"
    assert file.engine.sidecar.onnx_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.engine.sidecar.artifact.precision == "fp16"
    with pytest.raises(OutputError, match=r"model\.engine exists already"):
        list(export(path, tmp_path, ExportOptions(engine=ENGINE)))


def test_another_file_of_its_name_is_kept(small_files, tmp_path):
    (tmp_path / "small_x2_fp16.onnx").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        list(export(small_files["fp16"], tmp_path, ExportOptions(engine=ENGINE)))
    assert (tmp_path / "small_x2_fp16.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ExportOptions(scales=(3,)), r"is for scale 2, not 3"),
        (ExportOptions(scales=(2, 3)), r"is for scale 2, not 2, 3"),
        (ExportOptions(precision="int8"), r"cannot be converted to INT8, .* give the checkpoint"),
        (ExportOptions(precision="fp32"), r"in fp32 already; there is nothing to export"),
        (ExportOptions(form="lean-memory"), r"the form and the numbers that it was exported with"),
        (ExportOptions(calibration=CalibrationOptions(max_loss_db=1)), r"the form and the numbers"),
    ],
)
def test_refused_conversions(source, tmp_path, options, expected):
    with pytest.raises(InputError, match=rf"small_x2\.onnx .*{expected}"):
        list(export(source, tmp_path, options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", ["fp32", "bf16", "int8"])
def test_a_lower_precision_is_taken_as_it_is(small_files, tmp_path, wanted):
    with pytest.raises(InputError, match="is in fp16, and only FP32 can be converted to another precision"):
        list(export(small_files["fp16"], tmp_path, ExportOptions(precision=wanted, engine=ENGINE)))


@pytest.mark.parametrize("kept_bytes", [0, 100, 0.5])
def test_a_truncated_file(source, tmp_path, kept_bytes):
    content = source.read_bytes()
    cut = content[: int(kept_bytes * len(content) if kept_bytes < 1 else kept_bytes)]
    (tmp_path / "cut.onnx").write_bytes(cut)
    with pytest.raises(ArtifactError, match=r"cut\.onnx: "):
        list(export(tmp_path / "cut.onnx", tmp_path, ExportOptions()))


def test_a_file_whose_inside_is_damaged(source, tmp_path):
    """Whole from outside, and with the metadata in place."""
    model = onnx.load(source)
    metadata = onnx.ModelProto(metadata_props=model.metadata_props).SerializeToString()
    graph = b"\xff" * 100
    (tmp_path / "odd.onnx").write_bytes(metadata + b"\x3a" + bytes([len(graph)]) + graph)
    assert read_artifact(tmp_path / "odd.onnx").scale == 2
    with pytest.raises(ArtifactError, match=r"odd\.onnx: not a complete ONNX file"):
        list(export(tmp_path / "odd.onnx", tmp_path, ExportOptions()))


def test_an_engine_is_compared_with_the_file_where_a_gpu_is(source, tmp_path, monkeypatch, image):
    pytest.importorskip("tensorrt_rtx")
    given = {}

    def gate(serialized, target, profile, artifact, exact, *, name):
        upscale, title = in_openvino(exact)
        given.update(target=target, artifact=artifact, upscaled=upscale(image), name=name)
        return Parity(2, 55.0, "TensorRT on a GPU", title)

    monkeypatch.setattr(exporter, "cuda_device", lambda: CudaDevice("a GPU", "8.9", shares_memory=False))
    monkeypatch.setattr(exporter, "check_engine", gate)
    (file,) = export(source, tmp_path, ExportOptions(engine=ENGINE))
    assert file.engine.sidecar.measured_by.startswith("TensorRT on a GPU, against OpenVINO")
    assert file.engine.not_run == ""
    assert (file.engine.sidecar.psnr_db, file.engine.sidecar.largest_difference) == (55.0, 2)
    assert (given["target"], given["artifact"].precision) == ("tensorrt-rtx", "fp16")
    assert given["name"] == "small_x2_fp16.engine"
    assert given["upscaled"].shape == (2 * image.shape[0], 2 * image.shape[1], 3)
    assert np.ptp(given["upscaled"]) > 50


def test_weights_are_not_touched(source, tmp_path):
    """The file that is converted, and compared with, is the one that was given."""
    before = source.read_bytes()
    (file,) = export(source, tmp_path, ExportOptions())
    assert source.read_bytes() == before
    kinds = {numpy_helper.to_array(constant).dtype for constant in onnx.load(file.path).graph.initializer}
    assert np.dtype(np.float16) in kinds
