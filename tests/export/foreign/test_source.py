"""ONNX files of other programs through the whole toolkit: one here, and networks of every kind in the slow tests."""

import json
import math

import av
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from overnet.errors import InputError
from overnet.export.engine.build import BuildError, build_engine
from overnet.export.engine.profile import make_profile
from overnet.export.exporter import export
from overnet.export.options import CalibrationOptions, ExportOptions, ForeignOptions
from overnet.export.verify.comparison import TOLERANCES
from overnet.files.onnx_metadata import Foreign, read_artifact
from overnet.imaging.metrics import psnr
from overnet.imaging.sample_images import sample_photographs
from overnet.runtime.upscaler import Upscaler
from tests.conftest import SHARED, needs_shared, write_clip
from tests.export.foreign.test_read import write
from tests.support.commands import run_command, run_process
from tests.support.foreign_networks import NETWORKS, network, write_onnx

# What is said of each network, where running it does not tell: random weights work in several ranges.
GIVEN = {"espcn": ForeignOptions(input_range="0..1")}
EIGHT = ["espcn", "fsrcnn", "edsr", "rrdb", "compact", "span", "large_kernels", "windows"]
# Each network once, each precision at least twice, and the one of the most kinds of layers in the most of them.
SAMPLE = {
    *(("espcn", "fp32"), ("fsrcnn", "int8"), ("edsr", "fp16"), ("rrdb", "bf16"), ("compact", "int8")),
    *(("span", "fp16"), ("large_kernels", "fp32"), ("windows", "bf16"), ("windows", "int8")),
}
REACH = {"espcn": 4, "fsrcnn": 5, "edsr": 7, "rrdb": 11, "compact": 4, "span": 11, "large_kernels": 24, "windows": 27}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module")
def files(folder):
    """A function of a network's name: its ONNX file."""

    def file(name, **options):
        path = folder / f"{name}{''.join(f'_{key}' for key in options)}.onnx"
        return path if path.exists() else write_onnx(path, name, **options)

    return file


def converted(path, folder, precision="fp32", **options):
    options = {"foreign": GIVEN.get(path.stem, ForeignOptions()), **options}
    (file,) = export(path, folder, ExportOptions(precision=precision, **options), overwrite=True)
    return file


def photograph(height=150, width=200):
    """A mosaic of photographs, larger than a tile, with odd sides."""
    photographs = sample_photographs()
    rows = [np.concatenate(photographs[k : k + 2], axis=1) for k in (0, 2)]
    return np.ascontiguousarray(np.concatenate(rows)[:height, :width])


def test_a_file_is_wrapped_and_says_where_it_is_from(files, tmp_path):
    path = files("compact")
    file = converted(path, tmp_path)
    assert file.path == tmp_path / "compact_x2.onnx"
    assert file.artifact == read_artifact(file.path)
    # 3 x 16, 16 x 16 twice and 16 x 12 channels.
    work = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 12)
    assert file.artifact.foreign == Foreign("compact.onnx", 4, multiply_accumulates=work)
    assert (file.artifact.scale, file.artifact.reach) == (2, 4)
    assert TOLERANCES["fp32"].holds(file.parity) and ", against compact.onnx in ONNX Runtime " in file.parity.statement
    found, tiles = file.notes
    assert found.startswith("compact.onnx: x2, RGB, 0..1 in, ") and tiles.startswith("it sees 4 pixels to each side")
    image = photograph(41, 59)
    upscaled = Upscaler(2, model=file.path)(image)
    assert np.abs(upscaled.astype(int) - in_pytorch("compact", image)).max() <= 1


def in_pytorch(name, image):
    import torch

    with torch.inference_mode():
        levels = network(name)(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255) * 255
    return levels[0].permute(1, 2, 0).clamp(0, 255).round().numpy().astype(int)


def test_a_network_that_cuts_off_a_border(files, tmp_path):
    """The image gets as many pixels on each side as the network cuts off, in tiles and in lower precision too."""
    file = converted(files("unpadded"), tmp_path, foreign=ForeignOptions(input_range="0..1"))
    assert "x2, RGB" in file.notes[0] and "images get 7 pixels on each side, which it cuts off" in file.notes[0]
    image = photograph(41, 59)
    expected = in_pytorch("unpadded", np.pad(image, ((7, 7), (7, 7), (0, 0)), mode="edge"))
    for backend in ("openvino", "onnxruntime"):
        assert np.abs(Upscaler(2, model=file.path, backend=backend)(image).astype(int) - expected).max() <= 1
    image = photograph()
    whole, tiled = (Upscaler(2, model=file.path, tile=tile)(image).astype(int) for tile in (0, 96))
    assert np.abs(tiled - whole).max() <= 1
    (half,) = export(file.path, tmp_path, ExportOptions(precision="fp16"))
    assert TOLERANCES["fp16"].holds(half.parity)


def test_a_declared_size_of_a_network_that_cuts_off_a_border(files, tmp_path):
    file = converted(files("unpadded", size=(64, 80)), tmp_path, foreign=ForeignOptions(input_range="0..1"))
    assert "any size, though 80x64 is declared" in file.notes[0] and "images get 7 pixels" in file.notes[0]


def test_a_network_that_keeps_the_size(files, tmp_path):
    """It passes an image on better in a range of 0 to 255, in which its weights do nothing, but takes the usual one."""
    file = converted(files("denoiser"), tmp_path)
    assert "x1, RGB, 0..1 in" in file.notes[0] and file.path.name == "denoiser_x1.onnx"
    image = photograph(41, 59)
    assert np.abs(Upscaler(1, model=file.path)(image).astype(int) - in_pytorch("denoiser", image)).max() <= 1


def test_one_size_that_is_not_declared(files, tmp_path):
    file = converted(files("traced"), tmp_path, foreign=ForeignOptions(input_range="0..1"))
    assert "any size is declared, but it works for one only, 64x64 pixels only" in file.notes[0]
    assert file.artifact.foreign.largest == (64, 64)
    image = photograph(64, 64)
    assert np.abs(Upscaler(2, model=file.path)(image).astype(int) - in_pytorch("traced", image)).max() <= 1
    assert Upscaler(2, model=file.path)(photograph()).shape == (300, 400, 3)


def test_pooling_that_needs_more_pixels_than_a_small_image_has(files, tmp_path):
    """ONNX Runtime rounds the number of places up to one, or ends the process; OpenVINO refuses the image."""
    file = converted(files("pooling"), tmp_path, foreign=ForeignOptions(input_range="0..1"))
    assert "sides padded to at least 16" in file.notes[0]
    assert "its results depend on the image's size as well" in file.notes[1]
    for backend in ("openvino", "onnxruntime"):
        assert Upscaler(2, model=file.path, backend=backend)(photograph(3, 5)).shape == (6, 10, 3)


def test_division_by_what_a_small_number_keeps_above_zero(files, tmp_path):
    """In FP16 the number would be 0, and the result of a black image undefined."""
    file = converted(files("normalised"), tmp_path, "fp16", foreign=ForeignOptions(input_range="0..1"))
    assert TOLERANCES["fp16"].holds(file.parity)
    black = np.zeros((24, 32, 3), np.uint8)
    exact = converted(files("normalised"), tmp_path, foreign=ForeignOptions(input_range="0..1"))
    results = [Upscaler(2, model=each.path)(black).astype(int) for each in (file, exact)]
    assert np.abs(results[0] - results[1]).max() <= 1


def test_an_engine_of_a_network_for_one_image(files, tmp_path):
    """It computes for one image at once, as the number of images in it was that of the example."""
    pytest.importorskip("tensorrt_rtx")
    file = converted(files("traced"), tmp_path, "fp16", foreign=ForeignOptions(input_range="0..1"))
    content, profile = file.path.read_bytes(), make_profile("64x64")
    assert build_engine(content, profile, target="tensorrt-rtx").serialized
    with pytest.raises(BuildError, match="cannot use the graph for 2 images: it is for one at once"):
        build_engine(content, make_profile("64x64", 2), target="tensorrt-rtx")


def test_bgr_in_another_range(files, tmp_path):
    """A file that takes BGR from -1 to 1 gives what the network gives that takes RGB from 0 to 1."""
    path = files("compact")
    model = onnx.load(path)
    (image,), (result,) = model.graph.input, model.graph.output
    for node in model.graph.node:
        node.input[:] = ["inner" if name == image.name else name for name in node.input]
        node.output[:] = ["outer" if name == result.name else name for name in node.output]
    order = numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order")
    one, half, two = (numpy_helper.from_array(np.float32(v), f"n{v}") for v in (1, 0.5, 2))
    model.graph.initializer.extend([order, one, half, two])
    make = onnx.helper.make_node
    before = [make("Gather", [image.name, "order"], ["g"], axis=1), make("Add", ["g", "n1"], ["h"])]
    before += [make("Mul", ["h", "n0.5"], ["inner"])]
    after = [make("Mul", ["outer", "n2"], ["k"]), make("Sub", ["k", "n1"], ["l"])]
    after += [make("Gather", ["l", "order"], [result.name], axis=1)]
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "bgr.onnx")
    options = ForeignOptions(input_range="-1..1", colour="bgr")
    (file,) = export(tmp_path / "bgr.onnx", tmp_path, ExportOptions(precision="fp32", foreign=options))
    assert "BGR, -1..1 in" in file.notes[0]
    image = photograph(41, 59)
    assert np.abs(Upscaler(2, model=file.path)(image).astype(int) - in_pytorch("compact", image)).max() <= 1


def test_it_is_converted_once_by_the_command(files, tmp_path, monkeypatch):
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path / "cache"))
    write_clip(tmp_path / "clip.mp4", frames=3)
    first = run_process(tmp_path / "clip.mp4", "-o", tmp_path / "big.mp4", "--model", files("compact"))
    assert first.returncode == 0 and "note: compact.onnx: x2, RGB, 0..1 in" in first.stderr, first.stderr
    with av.open(str(tmp_path / "big.mp4")) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (128, 96)
    (made,) = (tmp_path / "cache/models").glob("compact-*/compact_x2.onnx")
    stamp = made.stat().st_mtime_ns
    assert Upscaler(2, model=files("compact"))(photograph(30, 40)).shape == (60, 80, 3)
    assert made.stat().st_mtime_ns == stamp


def test_a_refusal_is_one_line_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "theirs.onnx", shape=("n", 4, "h", "w"))
    result = run_command("photo.png", "-o", "big.png", "--model", path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "theirs.onnx: its input is ? x 4 x ? x ?" in result.stderr
    assert [entry.name for entry in (tmp_path / "cache/models").iterdir()] == ["locks"]


def test_options_are_for_files_of_other_programs(small_models):
    result = run_command(small_models / "small_x2.onnx", "--colour", "bgr", program="overnet-export")
    assert result.returncode == 2 and "are for ONNX files of other programs" in result.stderr


def test_lower_precision_of_a_converted_file(files, tmp_path):
    """A file that was converted before needs the original no more."""
    exact = converted(files("compact"), tmp_path)
    (half,) = export(exact.path, tmp_path, ExportOptions(precision="fp16"))
    direct = converted(files("compact"), tmp_path, "fp16")
    assert half.path.name == direct.path.name == "compact_x2_fp16.onnx"
    assert half.artifact == direct.artifact and TOLERANCES["fp16"].holds(half.parity)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=pytest.mark.slow if (name, precision) in SAMPLE else pytest.mark.weekly)
        for name in EIGHT
        for precision in ("fp32", "fp16", "bf16", "int8")
    ],
)
def test_every_network_in_every_precision(files, tmp_path, name, precision):
    path, scale = files(name), NETWORKS[name].scale
    calibration = CalibrationOptions(max_loss_db=0.1)
    file = converted(path, tmp_path, precision, calibration=calibration)
    assert TOLERANCES[precision].holds(file.parity)
    assert 1 <= file.artifact.reach <= REACH[name]
    if precision == "int8":
        loss = float(file.notes[2].partition("it costs ")[2].partition(" dB")[0])
        assert loss <= 0.1
    image = photograph()
    whole = {}
    for backend in ("openvino",) if precision == "bf16" else ("openvino", "onnxruntime"):
        whole[backend] = Upscaler(scale, model=file.path, backend=backend)(image)
        assert whole[backend].shape == (150 * scale, 200 * scale, 3)
        tiled = Upscaler(scale, model=file.path, backend=backend, tile=96)(image)
        difference = np.abs(tiled.astype(int) - whole[backend])
        # Where rounding tips over; in INT8 it may tip by a level of a layer.
        assert difference.max() <= (8 if precision == "int8" else 1) and (difference > 0).mean() < 0.002
    assert min(psnr(each, whole["openvino"], border=0) for each in whole.values()) > 40
    if precision in ("fp16", "int8"):
        pytest.importorskip("tensorrt_rtx")
        built = build_engine(file.path.read_bytes(), make_profile("32x32:64x64:96x96"), target="tensorrt-rtx")
        assert built.serialized


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "span" else pytest.mark.weekly) for name in EIGHT]
)
def test_every_network_upscales_a_video(files, tmp_path, name):
    scale = NETWORKS[name].scale
    file = converted(files(name), tmp_path)
    write_clip(tmp_path / "clip.mp4", frames=4)
    result = run_command(tmp_path / "clip.mp4", "-o", tmp_path / "big.mp4", "--model", file.path, "--json", "--quiet")
    report = json.loads(result.stdout)
    assert (report["frames"], report["output_size"]) == (4, [64 * scale, 48 * scale])


@pytest.mark.slow
def test_means_over_the_image_are_given_to_tiles(files, tmp_path):
    file = converted(files("attention"), tmp_path)
    assert file.artifact.reach is None and 1 <= file.artifact.foreign.margin <= 7
    assert "it weighs 2 means over the whole image" in file.notes[1]
    image = photograph()
    image[:, 100:] //= 4  # tiles alone would have other means
    for backend in ("openvino", "onnxruntime"):
        whole = Upscaler(2, model=file.path, backend=backend)(image)
        tiled = Upscaler(2, model=file.path, backend=backend, tile=96)(image)
        assert np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.slow
def test_what_sees_the_whole_image_is_not_cut(files, tmp_path):
    file = converted(files("statistics"), tmp_path)
    assert (file.artifact.reach, file.artifact.foreign.margin, file.artifact.has_means) == (None, None, False)
    assert "it sees the whole image (the node /ReduceMax (ReduceMax))" in file.notes[1]
    upscaler = Upscaler(2, model=file.path, tile=96)
    assert np.array_equal(upscaler(photograph()), Upscaler(2, model=file.path)(photograph()))
    assert upscaler.pop_notes() == ["upscaled whole, not in tiles: this network sees the whole image"]


@pytest.mark.slow
def test_tiles_begin_on_the_grid_of_the_network(files, tmp_path):
    file = converted(files("unshuffle"), tmp_path)
    assert "sides padded to multiples of 2" in file.notes[0] and "begin at multiples of 2" in file.notes[1]
    assert file.artifact.foreign.align == 2
    image = photograph(151, 203)
    whole, tiled = (Upscaler(2, model=file.path, tile=tile)(image) for tile in (0, 96))
    assert whole.shape == (302, 406, 3) and np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.slow
def test_a_declared_size_is_kept_only_where_the_network_needs_it(files, tmp_path):
    free = converted(files("compact", size=(64, 80)), tmp_path)
    assert "any size, though 80x64 is declared" in free.notes[0] and free.artifact.foreign.largest is None
    fixed = converted(files("windows", size=(64, 64)), tmp_path)
    assert "64x64 pixels only" in fixed.notes[0]
    assert (fixed.artifact.foreign.largest, fixed.artifact.foreign.align) == ((64, 64), 8)
    # Larger images go in tiles, with the result of the same network without a size.
    image = photograph()
    upscaler = Upscaler(2, model=fixed.path)
    expected = Upscaler(2, model=converted(files("windows"), tmp_path).path)(image)
    assert np.abs(upscaler(image).astype(int) - expected).max() <= 1
    (note,) = upscaler.pop_notes()
    assert note.endswith("tiles of 64x64 pixels")
    assert upscaler(image[:20, :30]).shape == (40, 60, 3)


@pytest.mark.parametrize(
    "opset",
    [
        pytest.param(opset, marks=pytest.mark.weekly if opset in (13, 16) else pytest.mark.slow)
        for opset in (11, 13, 16, 20)
    ],
)
def test_old_and_new_opsets(folder, tmp_path, opset):
    path = write_onnx(folder / f"opset_{opset}.onnx", "edsr", opset=opset)
    for precision in ("fp32", "int8"):
        file = converted(path, tmp_path, precision)
        assert TOLERANCES[precision].holds(file.parity) and "0..255 in" in file.notes[0]
    model = onnx.load(path)
    if opset == 20:  # nothing in it changed until 25
        for later in (22, 25):
            model.opset_import[0].version = later
            onnx.save(model, folder / f"opset_{later}.onnx")
            assert converted(folder / f"opset_{later}.onnx", tmp_path, "fp16").artifact.scale == 2


@pytest.mark.slow
def test_fp16_inside(files, tmp_path):
    file = converted(files("compact", half=True), tmp_path, precision=None)
    assert file.artifact.precision == "fp16" and math.isfinite(file.parity.psnr_db)
    with pytest.raises(InputError, match="is for scale 2, not 4"):
        converted(files("compact", half=True), tmp_path, scales=(4,))


@needs_shared
@pytest.mark.parametrize(
    ("scale", "expected_db"),
    [
        pytest.param(2, 38.12, marks=pytest.mark.weekly),
        pytest.param(3, 34.53, marks=pytest.mark.weekly),
        pytest.param(4, 32.39, marks=pytest.mark.slow),
    ],
)
def test_a_published_network_has_its_published_quality(tmp_path, monkeypatch, scale, expected_db):
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path))
    model = SHARED / f"teachers/lkdn_x{scale}.onnx"
    arguments = ["eval", "--data", SHARED / "sets/Set5", "--model", model, "--json"]
    result = run_process(*arguments, program="overnet")
    (found,) = json.loads(result.stdout)["sets"]
    assert found["scale"] == scale
    assert abs(found["mean"]["psnr_db"] - expected_db) <= 0.02
