import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from overnet import Upscaler
from overnet.errors import ArtifactError, BackendError, CheckpointError, InputError, MissingDependency
from overnet.imaging.metrics import psnr
from overnet.imaging.resample import imresize, network_bicubic
from overnet.runtime.backends import base as backends_base
from overnet.runtime.backends import registry as backends
from overnet.runtime.backends.base import Backend
from overnet.runtime.backends.registry import BACKENDS, choose_backends
from overnet.runtime.models import find_models
from overnet.weights import bundled_checkpoint, bundled_folder
from tests.conftest import ROOT, SHARED, needs_shared
from tests.support.local_backend import LocalBackend, upscale_tiled
from tests.support.workers import once_for_all_workers


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_backends_agree(image, small_models, small_checkpoint, backend):
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.model import reference

    model = small_checkpoint if backend == "torch" else small_models
    upscaled = Upscaler(3, model=model, backend=backend)(image)
    expected = reference(load_checkpoint(small_checkpoint), image, 3)
    assert upscaled.dtype == np.uint8
    assert np.abs(upscaled.astype(int) - expected.astype(int)).max() <= 1


def test_the_bundled_model_enlarges(image):
    upscaled = Upscaler()(image)
    assert upscaled.shape == (100, 132, 3)
    # Close to a plain enlargement, and not the same.
    assert 20 < psnr(network_bicubic(image, (100, 132)), upscaled, border=2) < 60


@pytest.fixture(scope="session")
def lower_precisions(small_checkpoint, tmp_path_factory):
    """A folder with the small network's x2 in FP16, BF16 and INT8."""
    from overnet.export.exporter import export
    from overnet.export.options import ExportOptions

    with once_for_all_workers(tmp_path_factory, "lower") as (folder, is_first):
        for precision in ("fp16", "bf16", "int8") if is_first else ():
            list(export(small_checkpoint, folder, ExportOptions(scales=(2,), precision=precision)))
    return folder


@pytest.mark.parametrize(
    ("precision", "backend", "levels"),
    [
        ("fp16", "openvino", 2),
        ("fp16", "onnxruntime", 2),
        ("bf16", "openvino", 4),
        ("int8", "openvino", 12),
        ("int8", "onnxruntime", 12),
    ],
)
@pytest.mark.parametrize("tile", [0, 96])
def test_files_of_lower_precision(image, small_models, lower_precisions, precision, backend, levels, tile):
    """They run on a CPU too, in one piece and in tiles that are given the means of the whole."""
    large = np.tile(image, (3, 2, 1))
    exact = Upscaler(2, model=small_models)(large).astype(int)
    upscaler = Upscaler(2, model=lower_precisions / f"small_x2_{precision}.onnx", backend=backend, tile=tile)
    upscaled = upscaler(large).astype(int)
    assert bool(upscaler.pop_notes()) == bool(tile)
    assert np.abs(upscaled - exact).max() <= levels


def test_a_precision_hides_no_scale_of_a_folder(tmp_path):
    """A file in the precision is preferred at its own scale; others keep their most exact one."""
    for name in ("realtime_x2.onnx", "realtime_x2_int8.onnx", "realtime_x3.onnx"):
        shutil.copy(bundled_folder("realtime") / name, tmp_path)
    for precision, at_x2 in (("int8", "realtime_x2_int8.onnx"), (None, "realtime_x2.onnx")):
        ((_, models),) = find_models(tmp_path, "openvino", precision)
        assert [models.path(models.nearest(scale)).name for scale in (2, 3)] == [at_x2, "realtime_x3.onnx"]


def test_of_a_folder_the_most_exact_file_is_taken(image, lower_precisions, tmp_path):
    for path in lower_precisions.iterdir():
        shutil.copy(path, tmp_path)
    by_folder = Upscaler(2, model=tmp_path)(image)
    assert np.array_equal(by_folder, Upscaler(2, model=tmp_path / "small_x2_fp16.onnx")(image))
    shutil.copy(tmp_path / "small_x2_fp16.onnx", tmp_path / "copy.onnx")
    with pytest.raises(InputError, match=r"copy\.onnx and small_x2_fp16\.onnx are both for x2 in fp16"):
        Upscaler(2, model=tmp_path)


def test_results_are_the_callers_own(image, small_models):
    """A backend's output buffer is reused by its next run; what was returned before must not change."""
    upscaler = Upscaler(2, model=small_models)
    first = upscaler(image)
    before = first.copy()
    upscaler(255 - image)
    assert np.array_equal(first, before)


def test_images_that_are_not_contiguous(image, small_models):
    upscaler = Upscaler(2, model=small_models)
    assert np.array_equal(upscaler(image[:, ::-1]), upscaler(np.ascontiguousarray(image[:, ::-1])))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (33, 17)])
def test_odd_and_tiny_images(small_models, shape):
    assert Upscaler(2, model=small_models)(np.zeros((*shape, 3), np.uint8)).shape == (2 * shape[0], 2 * shape[1], 3)


@pytest.mark.parametrize("scale", [1, 1.5, 2.4])
def test_a_scale_without_a_model_of_its_own(image, small_models, scale):
    """Upscaled by the nearest larger model, then reduced, antialiased; and it says so."""
    upscaler = Upscaler(scale, model=small_models)
    upscaled = upscaler(image)
    size = upscaler.output_size(50, 66)
    assert upscaled.shape == (*size, 3)
    larger = Upscaler(2 if scale <= 2 else 3, model=small_models)(image)
    assert np.array_equal(upscaled, imresize(larger, size=size))
    (note,) = upscaler.pop_notes()
    assert "then reduced" in note
    assert upscaler.pop_notes() == []


def test_a_checkpoint_computes_fractional_scales_itself(image, small_checkpoint):
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.model import reference

    upscaler = Upscaler(1.5, model=small_checkpoint)
    expected = reference(load_checkpoint(small_checkpoint), image, 1.5)
    assert np.abs(upscaler(image).astype(int) - expected.astype(int)).max() <= 1
    assert upscaler.backend_name == "torch"
    assert upscaler.pop_notes() == []


@pytest.mark.parametrize(("height", "size"), [(100, (100, 132)), (75, (75, 99)), (25, (25, 33)), (120, (120, 158))])
def test_a_height_instead_of_a_scale(image, small_models, height, size):
    upscaler = Upscaler(height=height, model=small_models)
    assert upscaler(image).shape == (*size, 3)
    upscaler = Upscaler(height=height, model=small_models)
    assert upscaler.output_size(50, 66, even_width=True)[1] % 2 == 0
    assert upscaler(image, even_width=True).shape == (*upscaler.output_size(50, 66, even_width=True), 3)


@pytest.fixture
def uneven(image):
    """An image whose parts have nothing in common: black, white, noise and texture."""
    large = np.zeros((110, 150, 3), np.uint8)
    large[:55, 75:] = 255
    large[55:, :75] = np.random.default_rng(0).integers(0, 256, (55, 75, 3), dtype=np.uint8)
    large[55:, 75:] = np.tile(image, (2, 2, 1))[:55, :75]
    return large


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", pytest.param("torch", marks=pytest.mark.slow)])
def test_tiles_have_the_means_of_the_whole_image(uneven, backend):
    """Tiles differ from the whole by less than a third of what they do with each its own means.

    What is left comes from the borders of the parts that the means are computed on. How many levels that is depends on
    the weights. On photographs it is 3, see below; here the smallest tiles border on what differs most from them.
    """
    upscaler = Upscaler(2, tile=96, backend=backend)
    in_tiles = upscaler(uneven).astype(int)
    assert "4 tiles of 96x80 pixels" in " ".join(upscaler.pop_notes())
    whole = upscaler.backend_for(2).upscale(uneven[None])[0].astype(int)
    alone = upscale_tiled(uneven, 96, LocalBackend(upscaler.backend_for(2).upscale)).astype(int)
    assert np.abs(alone - whole).max() > 10
    assert np.abs(in_tiles - whole).max() < np.abs(alone - whole).max() / 3


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_given_a_images_own_means_nothing_changes(image, small_models, small_checkpoint, backend):
    model = small_checkpoint if backend == "torch" else small_models
    loaded = Upscaler(2, model=model, backend=backend).backend_for(2)
    means = loaded.channel_means(image[None])
    assert [mean.shape for mean in means] == [(1, 16, 1, 1)] * 3
    given = loaded.upscale(image[None], means).astype(int)
    assert np.abs(given - loaded.upscale(image[None])).max() <= 1
    changed = [mean + 1 for mean in means]
    other = loaded.upscale(image[None], changed).astype(int)
    assert np.abs(other - given).max() > 1
    again = loaded.channel_means(image[None], means)
    assert all(np.allclose(*pair, atol=1e-5) for pair in zip(again, means, strict=True))
    # Given others, the first mean is the image's own still, and those that follow from it are not.
    others = loaded.channel_means(image[None], changed)
    differ = [not np.allclose(*pair, atol=1e-5) for pair in zip(others, means, strict=True)]
    assert any(differ) and not all(differ)


def test_tiles_are_chosen_by_memory(image, small_models, monkeypatch):
    large = np.tile(image, (5, 5, 1))
    upscaler = Upscaler(2, model=small_models)
    asked = []

    def little(height, width, bytes_per_pixel):
        asked.append((height, width, bytes_per_pixel))
        return 96, 96

    monkeypatch.setattr(backends_base, "tile_for_memory", little)
    upscaler(large)
    assert asked == [(250, 330, upscaler.backend_for(2).bytes_per_pixel)]
    assert "24 tiles of 96x96 pixels" in " ".join(upscaler.pop_notes())


class Cramped(Backend):
    """A backend with room for so many pixels at once."""

    name, device, precision, bytes_per_pixel, scale = "cramped", "here", "fp32", 1, 2.0

    def __init__(self, pixels):
        self.pixels, self.shapes = pixels, []

    def channel_means(self, images, given=None):
        return []

    def upscale(self, images, channel_means=None):
        self.shapes.append(images.shape[1:3])
        if images.shape[1] * images.shape[2] > self.pixels:
            raise MemoryError
        return images.repeat(2, axis=1).repeat(2, axis=2)


def test_out_of_memory_leads_to_smaller_tiles_and_they_are_remembered(small_models):
    upscaler = Upscaler(2, model=small_models)
    upscaler._backends[2.0] = cramped = Cramped(200 * 200)
    large = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    assert np.array_equal(upscaler(large), large.repeat(2, axis=0).repeat(2, axis=1))
    cramped.shapes.clear()
    upscaler(large)
    assert max(cramped.shapes) == (160, 175), "what did not fit is not tried again"


@pytest.mark.parametrize("tile", [None, 0, 128])
def test_no_memory_at_all_is_one_clear_error(small_models, tile):
    upscaler = Upscaler(2, model=small_models, tile=tile)
    upscaler._backends[2.0] = Cramped(10)
    with pytest.raises(BackendError, match="out of memory on an image of 300x200"):
        upscaler(np.zeros((200, 300, 3), np.uint8))


@pytest.mark.parametrize(
    ("on_gpu", "message", "advice"),
    [
        (False, "out of memory on an image of 301x200", "take a model for a whole scale"),
        (
            True,
            "the engine is for smaller images than 301x200",
            "export it with a larger --shape, or for a whole scale",
        ),
    ],
)
def test_a_fraction_whose_tiles_would_not_join(small_checkpoint, monkeypatch, on_gpu, message, advice):
    """One clear error, with what to do."""
    upscaler = Upscaler(1.5, model=small_checkpoint)
    kind, models = upscaler._choices[0]
    upscaler._choices[0] = replace(kind, on_gpu=on_gpu), models
    upscaler._backends[1.5] = Cramped(10)
    monkeypatch.setattr(Cramped, "scale", 1.5)
    monkeypatch.setattr(Cramped, "tile_for", lambda self, height, width: (96, 96))
    with pytest.raises(BackendError) as caught:
        upscaler(np.zeros((200, 301, 3), np.uint8))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(
        f"at x1.5 only images whose sides are multiples of 2 are cut into tiles: {advice}"
    )


@pytest.mark.slow
def test_a_file_for_a_fraction(small_models, small_checkpoint, uneven, tmp_path):
    """It is used directly, whole and in tiles, and agrees with the network; beside it are files for whole scales."""
    from overnet.export.exporter import export
    from overnet.export.options import ExportOptions
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.model import reference

    (file,) = export(small_checkpoint, tmp_path, ExportOptions(scales=(2.5,), precision="fp32"))
    assert file.path.name == "small_x2.5.onnx"
    for path in small_models.glob("*.onnx"):
        shutil.copy(path, tmp_path)
    for backend in ("openvino", "onnxruntime"):
        with Upscaler(2.5, model=tmp_path, backend=backend) as upscaler:
            for image in (uneven, uneven[:77, :91]):
                expected = reference(load_checkpoint(small_checkpoint), image, 2.5).astype(int)
                assert np.abs(upscaler(image) - expected).max() <= 1
            assert upscaler.pop_notes() == []
        with Upscaler(2.5, model=file.path, backend=backend, tile=96) as upscaler:
            in_tiles = upscaler(uneven).astype(int)
            assert "4 tiles of 96x80 pixels" in " ".join(upscaler.pop_notes())
            expected = reference(load_checkpoint(small_checkpoint), uneven, 2.5).astype(int)
            assert np.abs(in_tiles - expected).max() <= 4
            upscaler(uneven[:109])
            assert upscaler.pop_notes() == [
                "upscaled whole: at x2.5 only images whose sides are multiples of 2 are cut into tiles"
            ]
        with Upscaler(2.2, model=tmp_path, backend=backend) as upscaler:
            assert upscaler(uneven).shape == (242, 330, 3)
            assert "upscaled by 2.5, then reduced" in upscaler.pop_notes()[0]


def test_sixteen_bits_stay_smooth(small_models):
    """A ramp of less than one 8-bit level a pixel comes out as a ramp, not as steps of 257."""
    ramp = np.broadcast_to((np.arange(200) * 20 + 20000).astype(np.uint16)[None, :, None], (40, 200, 3))
    upscaled = Upscaler(2)(np.ascontiguousarray(ramp))
    assert upscaled.dtype == np.uint16
    inside = upscaled[20:-20, 20:-20, 0].astype(int)
    assert len(np.unique(inside)) > 250
    assert np.abs(np.diff(inside, axis=1)).max() < 100


def test_sixteen_bits_carry_the_networks_detail(image):
    """On an image with edges, 16 bits give what 8 bits give, to within rounding."""
    upscaler = Upscaler(2)
    deep = upscaler(image.astype(np.uint16) * 257).astype(float) / 257
    assert np.abs(deep - upscaler(image)).max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty"],
)
def test_what_is_no_image_is_refused(small_models, wrong):
    with pytest.raises(InputError):
        Upscaler(2, model=small_models)(wrong)


@pytest.mark.parametrize(("scale", "size"), [(3.5, (175, 231)), (5, (250, 330))])
def test_a_scale_above_the_largest_model(image, small_models, scale, size):
    """Upscaled by the largest model, then enlarged bicubically; and it says so. It was refused."""
    with Upscaler(scale, model=small_models) as upscaler, Upscaler(3, model=small_models) as largest:
        result, expected = upscaler(image), imresize(largest(image), size=size)
        (note,) = upscaler.pop_notes()
        sixteen = upscaler(image.astype(np.uint16) * 257)
    assert result.shape == sixteen.shape == (*size, 3)
    assert np.array_equal(result, expected)
    assert note == f"upscaled by 3, then enlarged bicubically to {size[1]}x{size[0]}: there is no model for that scale"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scale": 0.5}, "scale is 0.5; it must be from 1 to 64"),
        ({"scale": 65}, "scale is 65; it must be from 1 to 64"),
        ({"scale": float("nan")}, "from 1 to 64"),
        ({"height": 0}, "height"),
        ({"tile": 10}, "smallest"),
        ({"threads": 0}, "threads"),
        ({"backend": "magic"}, "no backend 'magic'"),
        ({"model": "none.onnx"}, "no such file"),
        ({"model": bundled_checkpoint(), "backend": "openvino"}, "overnet-export"),
        ({"model": bundled_folder() / "overnet_x2.onnx", "backend": "torch"}, "not ONNX files"),
        ({"model": ROOT}, "a folder without ONNX files"),
        ({"model": ROOT / "README.md"}, "not an ONNX file"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_parameters(options, expected):
    with pytest.raises(InputError, match=expected):
        Upscaler(**options)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_unsupported_precision(backend):
    with pytest.raises(BackendError, match="fp64"):
        Upscaler(2, backend=backend, precision="fp64")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_damaged_graph(tmp_path, small_models, backend):
    """The metadata is whole, the graph is not: found by the backend, told in one line."""
    content = bytearray((small_models / "small_x2.onnx").read_bytes())
    at = content.index(b"DepthToSpace")
    content[at : at + 12] = b"DepthToSpice"
    (tmp_path / "damaged.onnx").write_bytes(content)
    with pytest.raises(BackendError) as caught:
        Upscaler(2, model=tmp_path / "damaged.onnx", backend=backend)
    assert "damaged.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint(tmp_path):
    (tmp_path / "damaged.pth.tar").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(CheckpointError, match="damaged"):
        Upscaler(2, model=tmp_path / "damaged.pth.tar")


def test_an_onnx_file_of_another_program_that_is_no_network(tmp_path, small_models, monkeypatch):
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path / "cache"))
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_models / "small_x2.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ArtifactError, match=r"foreign.onnx: its input is UINT8, and FLOAT or FLOAT16"):
        Upscaler(2, model=tmp_path / "foreign.onnx")


def test_what_fails_in_pytorch_is_one_of_our_errors(image, small_checkpoint, monkeypatch):
    backend = Upscaler(2, model=small_checkpoint).backend_for(2)

    def fail(*_):
        raise RuntimeError("a kernel\nfailed")

    monkeypatch.setattr(backend, "_network", fail)
    with pytest.raises(BackendError, match="a kernel failed"):
        backend.upscale(image[None])


def test_missing_backends_say_what_to_install(monkeypatch):
    monkeypatch.setattr(backends, "installed", lambda kind: False)
    with pytest.raises(MissingDependency, match=r"pip install openvino or pip install 'overnet\[ort\]'"):
        choose_backends("auto", "onnx")
    with pytest.raises(MissingDependency, match=r"overnet\[torch\]"):
        choose_backends("auto", "checkpoint")
    with pytest.raises(MissingDependency, match=r"overnet\[ort\]"):
        choose_backends("onnxruntime", "onnx")


def test_on_a_jetson_tensorrt_comes_from_apt(monkeypatch):
    monkeypatch.setattr(backends, "installed", lambda kind: False)
    monkeypatch.setattr(backends, "is_jetson", lambda: True)
    with pytest.raises(MissingDependency, match="sudo apt install python3-libnvinfer-dev"):
        choose_backends("tensorrt", "onnx")
    monkeypatch.setattr(backends, "is_jetson", lambda: False)
    with pytest.raises(MissingDependency, match=r"pip install 'overnet\[gpu\]'"):
        choose_backends("tensorrt", "onnx")


def test_auto_takes_the_first_that_is_there(monkeypatch):
    assert choose_backends("auto", "onnx")[0].name == "openvino"
    monkeypatch.setattr(backends, "installed", lambda kind: kind.name != "openvino")
    assert choose_backends("auto", "onnx")[0].name == "onnxruntime"
    assert list(BACKENDS) == ["tensorrt", "tensorrt-rtx", "openvino", "onnxruntime", "torch"]


@needs_shared
@pytest.mark.weekly
@pytest.mark.parametrize("number", [1, 3, 5, 12])
def test_tiles_of_real_images(number):
    """The bound of three grey levels, on the bundled weights, with the smallest tiles there are."""
    from overnet.imaging.image_io import read_rgb

    image = read_rgb(SHARED / f"sets/Set14/image_SRF_2/img_{number:03d}_SRF_2_LR.png")
    whole = Upscaler(2, tile=0)(image).astype(int)
    for tile in (96, 160):
        in_tiles = Upscaler(2, tile=tile)(image).astype(int)
        assert np.abs(whole - in_tiles).max() <= 3, tile
        # With the means taken once it is 60 dB on the first of these images, with means taken again 62.9 or more.
        assert psnr(whole, in_tiles, border=0) > 62.5, tile


def test_signals_are_heard_after_upscalers_have_gone():
    """OpenVINO's plugins leave a stack for signals behind that is gone: a segmentation fault."""
    program = """
import gc, os, signal
from overnet import Upscaler
one, other = Upscaler(2, backend="openvino"), Upscaler(2, backend="openvino")
del one; gc.collect()
del other; gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("heard", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout) == (0, "heard\n"), result.stderr


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("std::bad_alloc", True),
        ("CUDA failure 2: out of memory", True),
        # TensorRT's own spelling.
        ("[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (no further information)", True),
        ("Error Code 3: API Usage Error (Parameter check failed)", False),
    ],
)
def test_libraries_say_in_words_that_memory_ran_out(message, expected):
    assert backends_base.is_out_of_memory(RuntimeError(message)) is expected


def test_other_scales_share_the_loaded_models(small_models, image):
    upscaler = Upscaler(2, model=small_models)
    loaded = upscaler.backend_for(2)
    other = upscaler.at_scale(1.5)
    assert other.backend_for(2) is loaded
    assert np.array_equal(other(image), Upscaler(1.5, model=small_models)(image))
    assert upscaler.pop_notes() == [] and "there is no model for that scale" in other.pop_notes()[0]
    third = other.at_scale(3)
    assert np.array_equal(third(image), Upscaler(3, model=small_models)(image))
    assert third.backend_for(3) is upscaler.backend_for(3)
    for scale in (0.5, 65, float("nan")):
        with pytest.raises(InputError, match="it must be from 1 to 64"):
            upscaler.at_scale(scale)
    by_height = Upscaler(height=99, model=small_models).at_scale(2)
    assert by_height.output_size(10, 20) == (20, 40)


def test_a_path_is_read_and_upscaled(image, small_models, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    with Upscaler(2, model=small_models) as upscaler:
        expected = upscaler(image)
        for path in (tmp_path / "photo.png", str(tmp_path / "photo.png")):
            assert np.array_equal(upscaler(path), expected)
        with pytest.raises(InputError, match=r"missing.png does not exist"):
            upscaler("missing.png")
        with pytest.raises(InputError, match="must be an array or the path of a file; this is list"):
            upscaler([1, 2])  # type: ignore[call-overload]


def test_a_path_instead_of_a_scale_is_one_line_that_says_what_to_do():
    with pytest.raises(InputError, match=r"must be a number, not 'a.jpg': Upscaler\(2\)\('a.jpg'\) upscales a file"):
        Upscaler("a.jpg")
    with pytest.raises(InputError, match="scale must be a number, not None"):
        Upscaler(None)
