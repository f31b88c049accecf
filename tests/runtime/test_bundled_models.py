"""The bundled models by name, and plain networks in every backend."""

from pathlib import Path

import numpy as np
import pytest

from overnet import Upscaler
from overnet.evaluation.datasets import find_pairs
from overnet.evaluation.measure import evaluate, mean_quality
from overnet.imaging.metrics import psnr
from overnet.runtime.inventory import take_inventory
from overnet.runtime.models import find_models
from overnet.weights import INT8_MODEL_NAMES, MODEL_NAMES, bundled_checkpoint, bundled_folder, model_path
from tests.conftest import SHARED, needs_shared

PLAIN = ("realtime", "fast")
BACKENDS = ("openvino", "onnxruntime", "torch")


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_backends_agree_with_the_network(name, backend, scale):
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.model import reference

    image = noise(35, 22)
    upscaled = Upscaler(scale, model=name, backend=backend)(image)
    expected = reference(load_checkpoint(bundled_checkpoint(name)), image, scale)
    assert np.abs(upscaled.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("scale", [1, 1.5, 2.5, 3.75, 4.5])
def test_backends_agree_at_scales_without_a_head(scale):
    """Upscaled by the next larger head, or the largest, then resized, in every backend; and a note says so."""
    image = noise(35, 22)
    results = {}
    for backend in BACKENDS:
        upscaler = Upscaler(scale, model="realtime", backend=backend)
        results[backend] = upscaler(image).astype(int)
        assert any("there is no model for that scale" in note for note in upscaler.pop_notes())
    for result in results.values():
        assert result.shape == (*Upscaler(scale, model="realtime").output_size(35, 22), 3)
        assert np.abs(result - results["openvino"]).max() <= 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "scale", "size"), [("realtime", 2, (231, 170)), ("fast", 3, (97, 201))])
def test_tiles_equal_the_whole_image(name, backend, scale, size):
    image = noise(*size)
    whole = Upscaler(scale, model=name, backend=backend, tile=0)(image)
    tiles = Upscaler(scale, model=name, backend=backend, tile=96)
    upscaled = tiles(image)
    assert tiles.pop_notes() == [f"cut into 6 tiles of {'96x96' if name == 'realtime' else '96x64'} pixels"]
    # A sum that is a half to the last bit may be rounded otherwise in a tile; a seam would be whole rows.
    assert np.mean(upscaled != whole) < 1e-4
    assert np.abs(upscaled.astype(int) - whole).max() <= 1


def test_names_are_the_bundled_models():
    assert MODEL_NAMES == ("realtime", "fast", "best")
    assert model_path(None) == model_path("best") == bundled_folder()
    for name in MODEL_NAMES:
        assert model_path(name) == bundled_folder(name)
        assert model_path(name, checkpoint=True) == bundled_checkpoint(name)
        ((_, models),) = find_models(name, "openvino", None)
        assert [models.nearest(scale) for scale in (1.5, 2, 3, 3.5)] == [2, 2, 3, 4]
        assert models.path(3).parent == bundled_folder(name)
        # A folder of a bundled model stands for its checkpoint in the backend that runs checkpoints.
        ((_, models),) = find_models(bundled_folder(name), "torch", None)
        assert models.checkpoint == bundled_checkpoint(name)
    assert model_path("./fast") != bundled_folder("fast")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scale_above_the_files_goes_on_from_the_largest(backend):
    with Upscaler(5, model="realtime", backend=backend) as upscaler:
        assert upscaler(np.zeros((8, 9, 3), np.uint8)).shape == (40, 45, 3)
        assert upscaler.pop_notes() == [
            "upscaled by 4, then enlarged bicubically to 45x40: there is no model for that scale"
        ]


def test_the_inventory_lists_them():
    inventory = take_inventory()
    assert [(model["model"], model["scale"], model["precision"]) for model in inventory["models"]] == [
        (name, scale, precision)
        for name in MODEL_NAMES
        for scale in (2, 3, 4)
        for precision in ("fp32", *(["int8"] if name in INT8_MODEL_NAMES else []))
    ]
    assert list(inventory["checkpoints"].values()) == [
        "realtime.safetensors",
        "fast.safetensors",
        "overnet_multiscale.safetensors",
    ]
    for path in (*inventory["checkpoint_paths"].values(), *(model["path"] for model in inventory["models"])):
        assert Path(path).is_absolute() and Path(path).is_file()


@needs_shared
@pytest.mark.parametrize(("scale", "floor_db"), [(2, 37.25), (3, 33.32), (4, 30.98)])
def test_quality_of_realtime(scale, floor_db):
    pairs = find_pairs(SHARED / "sets/Set5", scale)
    assert mean_quality(evaluate(Upscaler(scale, model="realtime"), pairs, scale)).psnr_db > floor_db


@needs_shared
@pytest.mark.parametrize(("scale", "floor_db"), [(2, 37.6), (3, 33.86), (4, 31.55)])
def test_quality_of_fast(scale, floor_db):
    pairs = find_pairs(SHARED / "sets/Set5", scale)
    assert mean_quality(evaluate(Upscaler(scale, model="fast"), pairs, scale)).psnr_db > floor_db


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", INT8_MODEL_NAMES)
def test_int8_by_name(name, backend, image):
    upscaler = Upscaler(2, model=name, backend=backend, precision="int8")
    assert upscaler.backend_for(2).precision == "int8"
    upscaled = upscaler(image)
    assert psnr(Upscaler(2, model=name)(image), upscaled, border=0) > 30
    file = bundled_folder(name) / f"{name}_x2_int8.onnx"
    as_before = Upscaler(2, model=file, backend=backend, precision="fp32")  # its other nodes are in FP32
    np.testing.assert_array_equal(as_before(image), upscaled)
    assert not np.array_equal(Upscaler(2, model=name)(image), upscaled)


@needs_shared
@pytest.mark.parametrize("name", INT8_MODEL_NAMES)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_int8_loses_a_tenth_of_a_decibel_at_most(name, scale):
    pairs = find_pairs(SHARED / "sets/Set5", scale)
    exact, in_int8 = (
        mean_quality(evaluate(Upscaler(scale, model=name, precision=precision), pairs, scale)).psnr_db
        for precision in (None, "int8")
    )
    assert exact - in_int8 <= 0.1
