"""``overnet eval``, called in this process but for one test."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from overnet.cli.common import PLAIN
from overnet.cli.eval import evaluate_command
from overnet.cli.plain_help import SeveralValuesCommand
from overnet.errors import InputError, OverNetError
from overnet.evaluation.datasets import find_pairs, read_pair
from overnet.evaluation.measure import bicubic, evaluate, mean_quality
from overnet.files.onnx_metadata import scaled_size
from overnet.imaging.metrics import psnr_luma
from overnet.runtime.upscaler import Upscaler
from tests.conftest import SHARED, needs_shared
from tests.doubles.running import run_over_stand_in
from tests.overnet.evaluation.test_measure import BUNDLED_PSNR_DB
from tests.overnet.evaluation.test_model_choice import relabelled
from tests.support.commands import run_command, run_process

app = typer.Typer(**PLAIN)
app.command(cls=SeveralValuesCommand)(evaluate_command)

# Typer brings a copy of click of its own, and gives its errors no name.
USAGE_ERROR = typer.BadParameter.__mro__[1]


@pytest.fixture
def half(small_models, tmp_path):
    """A folder with the small network for x2 in FP32, and with coarser weights, which says that it is in FP16."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(small_models / "small_x2.onnx", folder)
    relabelled(small_models / "small_x2.onnx", folder / "half_x2.onnx", "fp16", coarser=True)
    return folder


@pytest.fixture
def folder(tmp_path, image, monkeypatch):
    """The working folder, with a set of two images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for name, high in (("one", image), ("two", image[::-1, ::-1])):
        cv2.imwrite(f"set/{name}.png", high[:48, :60, ::-1])
    return tmp_path


@pytest.fixture
def overnet_eval(capsys):
    """The command: its output and what it says, or its error raised."""

    def run(*arguments):
        typer.main.get_command(app).main([*map(str, arguments)], standalone_mode=False)
        return capsys.readouterr()

    return run


@pytest.fixture
def in_json(overnet_eval):
    def run(*arguments):
        captured = overnet_eval(*arguments, "--json", "--quiet")
        assert captured.err == "" and captured.out.count("\n") == 1
        return json.loads(captured.out)

    return run


def test_the_figures_are_those_of_the_upscaler_and_of_bicubic(folder, small_models, in_json):
    report = in_json("--data", "set", "--scale", 2, "--scale", 3, "--model", small_models)
    assert [found["scale"] for found in report["sets"]] == [2, 3]
    for found in report["sets"]:
        scale = found["scale"]
        pairs = find_pairs(folder / "set", scale)
        expected = evaluate(Upscaler(scale, model=small_models), pairs, scale)
        enlarged = evaluate(bicubic(scale), pairs, scale)
        assert [image["psnr_db"] for image in found["images"]] == pytest.approx(
            [quality.psnr_db for quality in expected], abs=1e-5
        )
        assert found["mean"]["psnr_db"] == pytest.approx(mean_quality(expected).psnr_db, abs=1e-5)
        assert found["mean"]["ssim"] == pytest.approx(mean_quality(expected).ssim, abs=1e-5)
        assert found["mean"]["bicubic"]["psnr_db"] == pytest.approx(mean_quality(enlarged).psnr_db, abs=1e-5)
        gain_db = mean_quality(expected).psnr_db - mean_quality(enlarged).psnr_db
        assert found["mean"]["gain_db"] == pytest.approx(gain_db, abs=1e-5)
        assert (found["set"], found["low_resolution"], found["reference"]) == ("set", "made", None)
        assert found["mean"]["loss_db"] is None
        assert [image["image"] for image in found["images"]] == ["one", "two"]


@pytest.mark.parametrize("scale", [1.5, 2.5])
def test_a_fraction(folder, small_models, small_checkpoint, in_json, scale):
    """By a checkpoint, whose network has any scale up to its overscale factor, and by files of whole scales."""
    for model in (small_models, small_checkpoint):
        (found,) = in_json("--data", "set", "--scale", scale, "--model", model)["sets"]
        pairs = find_pairs(folder / "set", scale)
        for pair in pairs:
            low, high = read_pair(pair, scale)
            assert high.shape[:2] == scaled_size(low.shape[0], low.shape[1], scale)
            assert np.all(np.array((48, 60)) - high.shape[:2] < scale)
        expected = evaluate(Upscaler(scale, model=model), pairs, scale)
        assert found["scale"] == scale
        assert [image["psnr_db"] for image in found["images"]] == pytest.approx(
            [quality.psnr_db for quality in expected], abs=1e-5
        )
        assert found["mean"]["bicubic"]["psnr_db"] > 20


def test_quarters_need_a_whole_scale(folder, small_models, overnet_eval):
    with pytest.raises(InputError, match=r"scale 1\.5: quarters of an image"):
        overnet_eval("--data", "set", "--scale", "1.5", "--quarters", "--model", small_models)


def test_the_table(folder, small_models, overnet_eval):
    captured = overnet_eval("--data", "set", "--model", small_models / "small_x3.onnx")
    heading, titles, units, one, two, mean = captured.out.splitlines()
    assert captured.err == ""
    assert heading.startswith(
        "set x3, low-resolution side made with imresize, 2 images: small_x3.onnx (fp32), openvino"
    )
    assert titles.split() == ["image", "pixels", "bicubic", "model", "gain"]
    assert units.split() == ["PSNR", "dB", "SSIM", "PSNR", "dB", "SSIM", "dB"]
    qualities = evaluate(Upscaler(3, model=small_models), find_pairs(folder / "set", 3), 3)
    assert one.split()[:2] == ["one", "60x48"]
    assert one.split()[4:6] == [f"{qualities[0].psnr_db:.2f}", f"{qualities[0].ssim:.4f}"]
    assert two.split()[0] == "two"
    assert mean.split()[3] == f"{mean_quality(qualities).psnr_db:.2f}"
    # Columns end below one another.
    assert len({len(line) for line in (units, one, two, mean)}) == 1


@pytest.mark.parametrize("on_terminal", [False, True])
def test_an_engine_that_is_built_meanwhile_is_told(folder, small_models, on_terminal):
    """On a terminal below the line of the images, and gone with it; elsewhere in a line each."""

    terminal = {"TERM": "xterm", "COLUMNS": "100", "OVERNET_CACHE": str(folder / "cache")}

    def said(*options):
        arguments = str(small_models / "small_x2.onnx"), str(folder / "set"), str(folder), options, on_terminal
        return run_over_stand_in("tests.support.eval_scenarios:said_while_building", *arguments, env=terminal)

    lines = said()
    waiting = "another process builds this engine; waiting"
    if on_terminal:
        assert re.search(r"set x2 .*0/2.*\n.*choosing kernels .*[123]/3", lines)
        # The line of the images alone again; and a note at the end, when all lines are gone.
        assert re.search(r"set x2 [^\n]*1/2", lines)
        assert lines.rstrip().endswith(f"note: x2: {waiting}")
    else:
        assert lines.splitlines()[:2] == [waiting, "choosing kernels"]
    assert said("--quiet") == ""


def test_what_a_lower_precision_costs(folder, half, in_json, overnet_eval):
    """Against the same weights in FP32, which are found beside the file."""
    arguments = ["--data", "set", "--scale", 2, "--model", half, "--precision", "fp16"]
    found = in_json(*arguments, "--backend", "declared")["sets"][0]
    assert found["model"] == "half_x2.onnx (fp16), in its declared types"
    assert found["reference"].startswith("small_x2.onnx (fp32), openvino")
    single = evaluate(Upscaler(2, model=half / "small_x2.onnx"), find_pairs(folder / "set", 2), 2)
    assert [image["reference"]["psnr_db"] for image in found["images"]] == pytest.approx(
        [quality.psnr_db for quality in single], abs=1e-5
    )
    for row in (*found["images"], found["mean"]):
        assert row["loss_db"] == pytest.approx(row["reference"]["psnr_db"] - row["psnr_db"], abs=2e-6)
        assert 1e-4 < abs(row["loss_db"]) < 0.5
    captured = overnet_eval(*arguments)
    assert "; loss against small_x2.onnx (fp32)" in captured.out
    assert [line.split()[-1] for line in captured.out.splitlines()[1:3]] == ["loss", "dB"]
    assert float(captured.out.split()[-1]) == pytest.approx(found["mean"]["loss_db"], abs=0.01)
    assert "note: x2: openvino computed this fp16 file in FP32" in captured.err


def test_a_reference_of_ones_own_choice(folder, small_models, small_checkpoint, in_json):
    report = in_json(
        *("--data", "set", "--scale", 2, "--model", small_models, "--reference", small_checkpoint), "--backend", "auto"
    )
    assert report["sets"][0]["reference"].startswith("small.safetensors (fp32), torch on")
    assert abs(report["sets"][0]["mean"]["loss_db"]) < 0.01


def test_a_lower_precision_without_a_reference(folder, half, overnet_eval):
    (half / "small_x2.onnx").unlink()
    captured = overnet_eval("--data", "set", "--model", half / "half_x2.onnx")
    assert "loss" not in captured.out
    assert "no FP32 file of the same weights was found: --reference names one" in captured.err


def test_numbers_beyond_the_declared_type_are_told(folder, small_models, overnet_eval):
    import onnx

    model = onnx.load(small_models / "small_x2.onnx")
    for constant in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(constant)
        if weights.ndim == 4:
            constant.CopyFrom(onnx.numpy_helper.from_array(weights * np.float32(1e20), constant.name))
    onnx.save(model, "wild.onnx")
    with pytest.raises(OverNetError, match=r"^wild\.onnx: .* has numbers that are infinite or undefined$"):
        overnet_eval("--data", "set", "--model", "wild.onnx", "--backend", "declared")


def test_saved_results_measure_as_reported(folder, small_models, in_json, overnet_eval):
    arguments = ["--data", "set", "--scale", 2, "--model", small_models, "--save", "out"]
    report = in_json(*arguments)
    for pair, reported in zip(find_pairs(folder / "set", 2), report["sets"][0]["images"], strict=True):
        saved = cv2.imread(f"out/set/x2/{pair.name}.png")[..., ::-1]
        high = read_pair(pair, 2)[1]
        assert psnr_luma(high, saved, border=2) == pytest.approx(reported["psnr_db"], abs=1e-5)
        drawn = cv2.imread(f"out/set/x2/side_by_side/{pair.name}.png")
        # The label, and the detail of 48 pixels enlarged sixfold; bicubic, the model and the original beside the whole.
        assert drawn.shape == (26 + 288, 360 + 3 * (6 + 288), 3)
        assert np.array_equal(
            drawn[-288:, -288:, ::-1], high[:48, :48].repeat(6, axis=0).repeat(6, axis=1)
        ) or np.array_equal(drawn[-288:, -288:, ::-1], high[:48, 8:56].repeat(6, axis=0).repeat(6, axis=1))
    before = (folder / "out/set/x2/one.png").stat().st_mtime_ns
    with pytest.raises(OverNetError, match=r"one\.png exists already \(--overwrite replaces it\)"):
        overnet_eval(*arguments)
    assert (folder / "out/set/x2/one.png").stat().st_mtime_ns == before
    assert in_json(*arguments, "--overwrite") == report


@pytest.mark.slow
def test_tiles_quarters_and_the_self_ensemble(folder, small_models, in_json, image):
    large = np.tile(image, (4, 3, 1))
    cv2.imwrite("set/one.png", large[:, :, ::-1])
    arguments = ["--data", "set", "--scale", 2, "--model", small_models]
    ways: dict[str, list[object]] = {
        "whole images": [],
        "tiles of 96": ["--tile", 96],
        "quarters": ["--quarters"],
        "whole images, self-ensemble x8": ["--self-ensemble"],
    }
    found = {}
    for way, options in ways.items():
        report = in_json(*arguments, *options)
        assert report["images"] == way
        found[way] = report["sets"][0]["images"][0]["psnr_db"]
    # Each is another computation, and none goes astray.
    assert len(set(found.values())) == len(found)
    assert max(found.values()) - min(found.values()) < 1


def test_images_without_error_have_no_psnr(folder, small_models, in_json, overnet_eval):
    """Flat black: infinite for all, which JSON cannot hold, and no gain that could be told."""
    (folder / "flat").mkdir()
    cv2.imwrite("flat/black.png", np.zeros((48, 48, 3), np.uint8))
    arguments = ["--data", "flat", "--scale", 2, "--model", small_models]
    image = in_json(*arguments)["sets"][0]["images"][0]
    assert image["bicubic"] == {"psnr_db": None, "ssim": 1.0}
    assert "inf" in overnet_eval(*arguments).out.splitlines()[3]


def test_grey_and_opaque_images(folder, small_models, in_json, image):
    """What says the same as an RGB image measures the same."""
    grey = image[:48, :60, 0]
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    cv2.imwrite("set/one.png", grey)
    cv2.imwrite("set/two.png", opaque)
    one, two = in_json("--data", "set", "--scale", 2, "--model", small_models)["sets"][0]["images"]
    assert {**one, "image": ""} == {**two, "image": ""}


def deep(image):
    return image[..., ::-1].astype(np.uint16) * 257


def transparent(image):
    return np.dstack([image[..., ::-1], image[..., 0]])


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (lambda image: None, ["--data", "none"], "none: No such file"),
        (lambda image: None, ["--scale", "99"], "scale is 99"),
        (lambda image: None, ["--model", "none.onnx"], "none.onnx"),
        (lambda image: None, ["--model", "set/one.png"], "ONNX"),
        (lambda image: None, ["--reference", "none"], "none: No such file"),
        (lambda image: None, ["--backend", "x"], "backend"),
        (lambda image: None, ["--backend", "declared", "--scale", "4"], "declared runs ONNX files, each at its own"),
        (lambda image: None, ["--backend", "declared", "--precision", "bf16"], "in the file's own precision"),
        (lambda image: None, ["--precision", "int8"], "no ONNX file for x2 in int8"),
        (lambda image: None, ["--tile", "3"], "tile is 3"),
        (lambda image: cv2.imwrite("set/two.png", deep(image)), [], r"two\.png has 16 bits"),
        (lambda image: cv2.imwrite("set/two.png", transparent(image)), [], r"two\.png has transparent parts"),
        (lambda image: cv2.imwrite("set/two.png", image[:9, :9]), [], r"two\.png is too small"),
        (lambda image: cv2.imwrite("set/two_LR.png", image), [], r"other images, as one\.png"),
        (lambda image: Path("set/two.png").write_bytes(b""), [], r"two\.png is empty"),
        (lambda image: os.truncate("set/two.png", 900), [], r"two\.png"),
        (lambda image: Path("out").write_bytes(b""), [], "out"),
    ],
)
def test_refused_sets_and_options(folder, image, small_models, overnet_eval, capsys, spoil, arguments, message):
    """Found before anything is computed: an error of one line, nothing on stdout, and nothing written."""
    spoil(image)
    usual = {"--data": "set", "--scale": 2, "--model": small_models, "--save": "out"}
    arguments = [*arguments, *(part for option in usual.items() if option[0] not in arguments for part in option)]
    with pytest.raises(OverNetError, match=message) as caught:
        overnet_eval(*arguments)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    assert not list(folder.glob("out/**/*.png"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--data", "set", "--scale", "two"],
        ["--data", "set", "--scale", "0.5"],
        ["--data", "set", "--precision", "fp8"],
        ["--data", "set", "--quarters", "--tile", "96"],
        ["--data", "set", "--backend", "declared", "--tile", "96"],
        ["--data", "set", "--overwrite"],
        ["--data", "set", "--quiet", "stray"],
    ],
    ids=" ".join,
)
def test_wrong_usage(folder, overnet_eval, arguments):
    with pytest.raises(USAGE_ERROR):
        overnet_eval(*arguments)


def test_a_scale_of_one(folder, overnet_eval):
    with pytest.raises(USAGE_ERROR, match=r"--scale is 1; it must be at least 1\.1"):
        overnet_eval("--data", "set", "--scale", "1")


def test_a_network_that_keeps_the_size(folder, overnet_eval, monkeypatch):
    from tests.support.foreign_networks import write_onnx

    monkeypatch.setenv("OVERNET_CACHE", "cache")
    write_onnx("denoiser.onnx", "denoiser")
    with pytest.raises(InputError, match=r"denoiser_x1\.onnx keeps the size of an image"):
        overnet_eval("--data", "set", "--model", "denoiser.onnx")


def test_sets_of_one_name_are_not_saved_over_one_another(folder, small_models, overnet_eval, in_json):
    shutil.copytree("set", "other/set")
    arguments = ["--data", "set", "--data", "other/set", "--scale", 2, "--model", small_models]
    assert len(in_json(*arguments)["sets"]) == 2
    with pytest.raises(InputError, match="set and other/set would both be saved in out/set"):
        overnet_eval(*arguments, "--save", "out")


def test_test_images_are_not_saved_over(folder, small_models, overnet_eval):
    shutil.copytree("set", "out/x2/x2")
    before = (folder / "out/x2/x2/one.png").read_bytes()
    with pytest.raises(OverNetError, match=r"one\.png is a test image itself"):
        overnet_eval("--data", "out/x2/x2", "--scale", 2, "--model", small_models, "--save", "out", "--overwrite")
    assert (folder / "out/x2/x2/one.png").read_bytes() == before


def test_the_table_goes_to_stdout_though_progress_is_shown(folder, small_models, overnet_eval, monkeypatch):
    arguments = ["--data", "set", "--scale", 2, "--scale", 3, "--model", small_models]
    expected = overnet_eval(*arguments).out
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    captured = overnet_eval(*arguments)
    assert captured.out == expected
    assert "set x2" in captured.err


def test_hostile_names(folder, small_models, overnet_eval, in_json):
    """A name with a line break takes one line of the table, and is whole in JSON."""
    (folder / "set/one.png").rename(folder / "set/[red]\n\x1b[2J.png")
    arguments = ["--data", "set", "--scale", 2, "--model", small_models]
    lines = overnet_eval(*arguments).out.splitlines()
    assert len(lines) == 6
    assert lines[3].split()[0] == "[red]??[2J"
    assert in_json(*arguments)["sets"][0]["images"][0]["image"] == "[red]\n\x1b[2J"


def test_as_a_user_calls_it(folder, small_models):
    result = run_process("eval", "--data", "set", "--scale", 2, "--model", small_models, program="overnet")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("mean")
    result = run_command("eval", "--data", "none", program="overnet")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "overnet: none: No such file or directory\n"
    # Wrong usage names the help of the command that was called.
    result = run_command("eval", "--data", "set", "--quarters", "--tile", 96, program="overnet")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("--quarters and --tile exclude each other (overnet eval --help shows how)\n")


@needs_shared
@pytest.mark.slow
def test_the_bundled_weights_on_set5(in_json):
    report = in_json("--data", SHARED / "sets/Set5")
    published = {2: 33.67, 3: 30.40, 4: 28.43}
    assert [found["scale"] for found in report["sets"]] == [2, 3, 4]
    for found in report["sets"]:
        assert found["low_resolution"] == "given"
        assert found["mean"]["bicubic"]["psnr_db"] == pytest.approx(published[found["scale"]], abs=0.03)
        assert found["mean"]["psnr_db"] == pytest.approx(BUNDLED_PSNR_DB["Set5"][found["scale"]], abs=0.02)


@needs_shared
@pytest.mark.weekly
def test_half_precision_costs_the_bundled_weights_little(in_json, bundled_half):
    """Computed as a GPU does; the FP32 file compared with is the bundled one."""
    found = in_json("--data", SHARED / "sets/Set5", "--model", bundled_half(4), "--backend", "declared")["sets"][0]
    assert found["reference"].startswith("overnet_x4.onnx (fp32)")
    assert 0 < max(abs(image["loss_db"]) for image in found["images"]) < 0.01


@pytest.mark.parametrize(
    "arguments",
    [["--data", "set", "more", "--scale", 2, 3], ["--data", "set", "--scale", 2, "--data", "more", "--scale", 3]],
)
def test_options_that_are_repeated_take_several_values(folder, small_models, overnet_eval, arguments):
    shutil.copytree("set", "more")
    output, _ = overnet_eval(*arguments, "--model", small_models, "--json", "-q")
    assert output.count('"more"') >= 2 and output.count('"set"') >= 2


def test_a_value_too_many_is_refused(folder, small_models, overnet_eval):
    with pytest.raises(USAGE_ERROR, match="extra argument"):
        overnet_eval("--data", "set", "--model", small_models, "more")
