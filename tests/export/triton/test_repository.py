import shutil

import numpy as np
import onnxruntime
import pytest

from overnet import Upscaler
from overnet.errors import InputError, OutputError
from overnet.export import exporter
from overnet.export.engine.build import BuildError, BuiltEngine
from overnet.export.engine.profile import make_profile
from overnet.export.options import EngineOptions, ExportOptions, TritonOptions
from overnet.export.triton.repository import export_repository
from overnet.system.environment import current_environment
from tests.support.foreign_networks import write_onnx

TWO_SCALES = ExportOptions(scales=(2, 3), precision="fp32", is_copied=True)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def repository(small_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "repository"
    files, upscaler = export_repository(small_checkpoint, folder, TWO_SCALES, TritonOptions())
    assert [file.path for file in files] == [folder / f"small_x{scale}/1/model.onnx" for scale in (2, 3)]
    assert upscaler == "small_upscaler"
    return folder


def test_a_model_for_each_scale_and_one_for_whole_images(repository):
    assert tree(repository) == [
        "small_upscaler/1/model.py",
        "small_upscaler/1/small_x2.onnx",
        "small_upscaler/1/small_x3.onnx",
        "small_upscaler/config.pbtxt",
        "small_x2/1/model.onnx",
        "small_x2/config.pbtxt",
        "small_x3/1/model.onnx",
        "small_x3/config.pbtxt",
    ]
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]
    for name in ("small_x2", "small_x3", "small_upscaler"):
        assert f'\nname: "{name}"\n' in (repository / name / "config.pbtxt").read_text()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_networks_take_batches_of_any_size(repository, backend):
    random = np.random.default_rng(5)
    path = repository / "small_x2/1/model.onnx"
    upscaler = Upscaler(2, model=path, backend=backend)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count, height, width in ((1, 16, 24), (4, 33, 17)):
        images = random.integers(0, 256, (count, height, width, 3), np.uint8)
        if backend == "onnxruntime":
            (large,) = session.run(["upscaled"], {"image": images})
        else:
            large = upscaler.backend_for(2).upscale(images)
        assert (large.shape, large.dtype) == ((count, 2 * height, 2 * width, 3), np.uint8)
        alone = np.stack([upscaler(image) for image in images])
        assert np.abs(large.astype(int) - alone).max() <= 1


def test_models_are_added_to_a_repository(small_models, repository, tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(repository, folder)
    (folder / "other").mkdir()
    (folder / "other/config.pbtxt").write_text("of another")
    before = tree(folder)
    _, upscaler = export_repository(
        small_models / "small_x2.onnx", folder, ExportOptions(precision="fp16"), TritonOptions("openvino")
    )
    assert upscaler == "small_x2_fp16_upscaler"
    added = {
        "small_x2_fp16/1/model.onnx",
        "small_x2_fp16/config.pbtxt",
        "small_x2_fp16_upscaler/1/model.py",
        "small_x2_fp16_upscaler/1/small_x2_fp16.onnx",
        "small_x2_fp16_upscaler/config.pbtxt",
    }
    assert set(tree(folder)) == {*before, *added}
    config = (folder / "small_x2_fp16/config.pbtxt").read_text()
    for line in ('backend: "openvino"', "max_batch_size: 0", "KIND_CPU", "dims: [ 1, 180, 320, 3 ]"):
        assert line in config


@pytest.mark.slow
def test_a_network_for_a_fraction(small_checkpoint, tmp_path):
    options = ExportOptions(scales=(2.5, 2), precision="fp32", is_copied=True)
    _, upscaler = export_repository(small_checkpoint, tmp_path / "new", options, TritonOptions())
    assert upscaler == "small_upscaler"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["small_upscaler", "small_x2", "small_x2.5"]
    config = (tmp_path / "new/small_x2.5/config.pbtxt").read_text()
    assert "# OverNet x2.5, FP32" in config and 'name: "small_x2.5"' in config
    session = onnxruntime.InferenceSession(tmp_path / "new/small_x2.5/1/model.onnx", providers=["CPUExecutionProvider"])
    (large,) = session.run(["upscaled"], {"image": np.zeros((3, 17, 24, 3), np.uint8)})
    assert large.shape == (3, 43, 60, 3)


def test_models_of_the_same_names_are_kept_unless_they_may_be_replaced(small_models, repository, tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(repository, folder)
    (folder / "small_x2/config.pbtxt").write_text("edited")
    (folder / "small_x2/2").mkdir()
    source, options = small_models / "small_x2.onnx", ExportOptions(precision="fp32", is_copied=True)
    with pytest.raises(OutputError, match=r"small_x2 exists already \(--overwrite replaces it\)"):
        export_repository(source, folder, options, TritonOptions())
    assert (folder / "small_x2/config.pbtxt").read_text() == "edited" and "small_x2_upscaler" not in tree(folder)
    export_repository(source, folder, options, TritonOptions(), overwrite=True)
    assert [path.name for path in sorted((folder / "small_x2").iterdir())] == ["1", "config.pbtxt"]
    assert "onnxruntime" in (folder / "small_x2/config.pbtxt").read_text()
    # An ONNX file in the wanted precision is copied as it is.
    assert (folder / "small_x2/1/model.onnx").read_bytes() == source.read_bytes()
    assert len(list(folder.iterdir())) == 4


def test_a_failed_export_leaves_nothing(small_checkpoint, tmp_path, monkeypatch):
    def fail_at_the_second(source, *arguments, progress=None):
        if source.scale == 3:
            raise InputError("it fails")
        return export_source(source, *arguments, progress=progress)

    export_source = exporter.export_source
    monkeypatch.setattr("overnet.export.triton.repository.export_source", fail_at_the_second)
    with pytest.raises(InputError, match="it fails"):
        export_repository(small_checkpoint, tmp_path / "new", TWO_SCALES, TritonOptions())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a folder"):
        export_repository(small_checkpoint, tmp_path / "file", TWO_SCALES, TritonOptions())


def test_names_that_addresses_can_hold(small_models, tmp_path):
    shutil.copy(small_models / "small_x2.onnx", tmp_path / 'a b"é_x2.onnx')
    options = ExportOptions(precision="fp16")
    _, upscaler = export_repository(tmp_path / 'a b"é_x2.onnx', tmp_path / "new", options, TritonOptions())
    assert upscaler == "a_b___x2_fp16_upscaler"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a_b___x2_fp16", upscaler]


def test_engines_are_for_whole_images_and_state_their_own_batch(small_checkpoint, tmp_path, monkeypatch):
    """Triton passes images on and nothing else, so an engine must have no other inputs."""
    built = []

    def build(content, profile, **options):
        built.append(options["is_tiled"])
        return BuiltEngine(b"engine", 1000, current_environment("tensorrt-rtx"), ())

    monkeypatch.setattr(exporter, "check_builder", lambda target: None)
    monkeypatch.setattr(exporter, "build_engine", build)
    engine = EngineOptions("tensorrt", make_profile("16x16:48x64:64x64", 3), is_tiled=False)
    options = ExportOptions(scales=(2,), precision="fp16", engine=engine, is_copied=True)
    folder = tmp_path / "repository"
    (file,), upscaler = export_repository(small_checkpoint, folder, options, TritonOptions("tensorrt", 3))
    assert built == [False]
    assert file.engine.path == folder / "small_x2_fp16/1/model.plan"
    assert file.engine.path.read_bytes() == b"engine"
    # The model for whole images runs ONNX files, which do for tiles too.
    assert tree(folder) == [
        "small_x2_fp16/1/model.plan",
        "small_x2_fp16/config.pbtxt",
        f"{upscaler}/1/model.py",
        f"{upscaler}/1/small_x2_fp16.onnx",
        f"{upscaler}/config.pbtxt",
    ]
    config = (folder / "small_x2_fp16/config.pbtxt").read_text()
    for part in ('backend: "tensorrt"', '"model.plan"', "max_batch_size: 3", "KIND_GPU", "dims: [ 48, 64, 3 ]"):
        assert part in config


def test_engines_need_the_gpu_they_are_for(small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("overnet.export.engine.build.Library", lambda target: None)
    options = ExportOptions(engine=EngineOptions("tensorrt", make_profile(None), is_tiled=False))
    with pytest.raises(BuildError, match="on the GPU that it is for, and there is none here"):
        export_repository(small_checkpoint, tmp_path / "new", options, TritonOptions("tensorrt"))
    assert list(tmp_path.iterdir()) == []


def test_a_network_for_one_size_is_warmed_up_with_it(tmp_path):
    write_onnx(tmp_path / "theirs.onnx", "windows", size=(64, 64))
    options = ExportOptions(precision="fp32")
    (file,), _ = export_repository(tmp_path / "theirs.onnx", tmp_path / "new", options, TritonOptions())
    assert file.artifact.foreign.largest == (64, 64)
    assert "dims: [ 64, 64, 3 ]" in (tmp_path / f"new/theirs_x{file.artifact.scale:g}/config.pbtxt").read_text()
