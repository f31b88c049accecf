"""The repository in a real Triton Inference Server, by HTTP and gRPC."""

import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from overnet import Upscaler
from overnet.export import exporter
from overnet.export.engine.build import BuiltEngine
from overnet.export.engine.profile import make_profile
from overnet.export.options import EngineOptions, ExportOptions, TritonOptions
from overnet.export.triton.repository import export_repository
from overnet.imaging.image_io import DecodedImage, read_image, read_rgb
from overnet.imaging.image_write import write_image
from overnet.system.environment import current_environment
from tests.conftest import ROOT
from tests.support.pages import BY_TRITON, blocks_of, commands_in
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.slow

MODEL, TILED = "small_upscaler", "tiled_upscaler"
ALL = ["upscaled", "upscaled_file", "notes"]
RUN_HERE = {"small_x2": "joined", "small_x2_fp16": "separate"}
PROTOCOLS = ["http", "grpc"]
PAGE = ROOT / "docs/serving.md"
ADMIN = {"admin": "SECRET"}
MOST_PIXELS = 60_000


@pytest.fixture(scope="module")
def repository(small_checkpoint, tmp_path_factory):
    """A repository with networks for each platform, and models for whole images, one of which cuts them into tiles."""
    folder = tmp_path_factory.mktemp("served") / "repository"
    scales = ExportOptions(scales=(2, 3), precision="fp32")
    export_repository(small_checkpoint, folder, scales, TritonOptions())
    half = ExportOptions(scales=(2,), precision="fp16")
    export_repository(small_checkpoint, folder, half, TritonOptions("openvino"))
    with pytest.MonkeyPatch.context() as patch:  # there is no GPU to build an engine on
        built = BuiltEngine(b"engine", 1000, current_environment("tensorrt-rtx"), ())
        patch.setattr(exporter, "check_builder", lambda target: None)
        patch.setattr(exporter, "build_engine", lambda *_, **__: built)
        engine = EngineOptions("tensorrt", make_profile("16x16:32x64:64x64", 2), is_tiled=False)
        options = ExportOptions(scales=(2,), precision="bf16", engine=engine)
        export_repository(small_checkpoint, folder, options, TritonOptions("tensorrt", 2))
    for precision in ("fp16", "bf16"):
        shutil.rmtree(folder / f"small_x2_{precision}_upscaler")
    shutil.copytree(folder / MODEL, folder / TILED)
    for name, tile, most in ((MODEL, "auto", MOST_PIXELS), (TILED, "96", 1 << 20)):
        text = (folder / name / "config.pbtxt").read_text()
        for old, new in (
            (f'"{MODEL}"', f'"{name}"'),
            (f'"{1 << 26}"', f'"{most}"'),
            (f'"{1 << 28}"', f'"{8 * MOST_PIXELS}"'),
            ('"tile" value { string_value: "auto"', f'"tile" value {{ string_value: "{tile}"'),
        ):
            assert old in text
            text = text.replace(old, new)
        (folder / name / "config.pbtxt").write_text(text)
    # The networks in Python, as the wheel has no backend for them, with all else in their configurations as it is.
    for name, here in RUN_HERE.items():
        shutil.copytree(folder / name, folder / here)
        text = (folder / name / "config.pbtxt").read_text()
        text = re.sub(r'^(default_model_filename|name): .*\n|"(onnxruntime|openvino)"', set_python, text, flags=re.M)
        (folder / here / "config.pbtxt").write_text(text)
        model = "from tests.support.triton_network import TritonPythonModel\n"
        (folder / here / "1/model.py").write_text(model)
    return folder


def set_python(match):
    return '"python"' if match[2] else ""


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    """A server with the arguments that the page shows."""
    (shown,) = (words for words in commands_in(PAGE) if words[0] == "tritonserver")
    flags = [word for word in shown if word.startswith("--") and not word.startswith("--model-repository")]
    assert len(flags) == 6
    with TritonServer(repository, tmp_path_factory.mktemp("server"), flags) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Image files and arrays by name."""
    folder = tmp_path_factory.mktemp("images")
    photo = cv2.imread(str(ROOT / "samples/harbour.png"))[:120, :140]
    for name, parameters in (("photo.png", []), ("photo.jpg", [cv2.IMWRITE_JPEG_QUALITY, 90])):
        cv2.imwrite(str(folder / name), photo, parameters)
    alpha = np.dstack([photo, np.linspace(0, 255, photo.shape[1]).astype(np.uint8)[None].repeat(len(photo), 0)])
    cv2.imwrite(str(folder / "alpha.png"), alpha.astype(np.uint16) * 257)
    (folder / "truncated.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:700])
    (folder / "text.png").write_text("no image")
    (folder / "empty").touch()
    (folder / "bomb.png").write_bytes(stated_png(60_000, 60_000))
    rgb = np.ascontiguousarray(photo[..., ::-1])
    large = np.resize(rgb, (250, 250, 3))
    for name, array in {
        "rgb": rgb,
        "large": large,
        "float": rgb.astype(np.float32),
        "nothing": rgb[:0, :0],
        "grey": rgb[..., :1].copy(),
        "batch": rgb[None],
    }.items():
        np.save(folder / f"{name}.npy", array)
    return {path.stem if path.suffix == ".npy" else path.name: str(path) for path in folder.iterdir()}


def stated_png(width, height):
    """A small PNG file whose header states a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def test_every_configuration_by_the_definition_of_triton(server, repository):
    found = server.client("configs", repository)
    batches = {"small_x2": 4, "small_x3": 4, "small_x2_fp16": 0, "small_x2_bf16": 2}
    assert found.keys() == {*batches, MODEL, TILED, *RUN_HERE.values()}
    for name, batch in batches.items():
        config = found[name]
        # Proto3 leaves out a number that is 0, and the first value of an enumeration.
        assert config["name"] == name and config.get("max_batch_size", 0) == batch
        image = {"data_type": "TYPE_UINT8", "dims": ["-1", "-1", "3"] if batch else ["-1", "-1", "-1", "3"]}
        assert config["input"] == [{"name": "image", **image}] and config["output"] == [{"name": "upscaled", **image}]
        assert config["dynamic_batching"]["default_queue_policy"] == {"max_queue_size": 64}
        assert (repository / name / "1" / config["default_model_filename"]).is_file()
        (group,), (warm_up,) = config["instance_group"], config["model_warmup"]
        assert group["count"] == 1 and warm_up["inputs"]["image"]["zero_data"]
    backends = [found[name]["backend"] for name in batches]
    assert backends == ["onnxruntime", "onnxruntime", "openvino", "tensorrt"]
    kinds = [found[name]["instance_group"][0].get("kind", "KIND_AUTO") for name in batches]
    assert kinds == ["KIND_AUTO", "KIND_AUTO", "KIND_CPU", "KIND_GPU"]
    whole = found[MODEL]
    assert whole["backend"] == "python" and "max_batch_size" not in whole
    assert [tensor["name"] for tensor in whole["input"]] == ["image", "file", "scale", "format"]
    assert all(tensor["optional"] for tensor in whole["input"])
    assert [tensor["name"] for tensor in whole["output"]] == ALL


def test_the_server_reads_every_configuration(server):
    """It lacks nothing but the backends of the networks, which the wheel does not have."""
    status, text = server.get("v2/repository/index", data=b"{}", headers=ADMIN)
    states = {model["name"]: (model["state"], model.get("reason", "")) for model in json.loads(text)}
    assert status == 200 and states[MODEL] == states[TILED] == ("READY", "")
    for name, backend in (("small_x2", "onnxruntime"), ("small_x2_fp16", "openvino"), ("small_x2_bf16", "tensorrt")):
        state, reason = states[name]
        assert state == "UNAVAILABLE" and f"unable to find backend library for backend '{backend}'" in reason


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_images_are_those_of_the_upscaler(server, repository, images, protocol, tmp_path):
    requests = [
        (MODEL, {"image": images["rgb"]}, ALL),
        (MODEL, {"image": images["rgb"], "scale": 1.7}, ["upscaled", "notes"]),
        (MODEL, {"file": images["photo.png"], "scale": 3}, ALL),
        (MODEL, {"file": images["photo.jpg"]}, ALL),
        (MODEL, {"file": images["photo.jpg"], "format": "PNG"}, ["upscaled_file"]),
        (MODEL, {"file": images["alpha.png"]}, ["upscaled_file"]),
        (TILED, {"image": images["large"]}, ["upscaled"]),
    ]
    raw, fractional, png, jpeg, as_png, alpha, tiled = server.client(
        "infer", protocol, getattr(server, protocol), requests, tmp_path
    )
    folder = repository / MODEL / "1"
    two, rgb = Upscaler(2, model=folder), np.load(images["rgb"])
    expected = two(rgb)
    assert np.array_equal(np.load(raw["upscaled"]), expected)
    assert np.array_equal(read_file(raw, ".png").rgb, expected) and raw["notes"] == []
    assert np.array_equal(np.load(fractional["upscaled"]), Upscaler(1.7, model=folder)(rgb))
    assert fractional["notes"] == ["upscaled by 2, then reduced to 238x204: there is no model for that scale"]
    threefold = Upscaler(3, model=folder)(rgb)
    assert np.array_equal(np.load(png["upscaled"]), threefold)
    assert np.array_equal(read_file(png, ".png").rgb, threefold)
    of_jpeg = two(read_rgb(Path(images["photo.jpg"])))
    assert np.array_equal(np.load(jpeg["upscaled"]), of_jpeg)
    decoded = read_file(jpeg, ".jpg").rgb
    assert decoded.shape == of_jpeg.shape and np.abs(decoded.astype(int) - of_jpeg).mean() < 2
    assert np.array_equal(read_file(as_png, ".png").rgb, of_jpeg)
    result = read_file(alpha, ".png")
    assert (result.rgb.dtype, result.rgb.shape, result.alpha.shape) == (np.uint16, expected.shape, expected.shape[:2])
    large = np.load(images["large"])
    assert np.array_equal(np.load(tiled["upscaled"]), Upscaler(2, model=folder, tile=96)(large))
    assert not np.array_equal(np.load(tiled["upscaled"]), two(large))


def read_file(answer, suffix):
    return read_image(Path(answer["upscaled_file"]).rename(answer["upscaled_file"] + suffix))


@pytest.mark.parametrize("model", RUN_HERE.values())
def test_networks_take_batches_and_requests_of_one_size_are_joined(server, repository, model, tmp_path):
    random = np.random.default_rng(2)
    # Of four requests that come at once, three wait while the first is computed.
    shapes = [(1, 120, 160, 3), (2, 120, 160, 3)] * 4 + [(1, 33, 20, 3)] * 2
    requests = []
    for index, shape in enumerate(shapes):
        np.save(tmp_path / f"{index}.npy", random.integers(0, 256, shape, np.uint8))
        requests.append((model, {"image": str(tmp_path / f"{index}.npy")}, ["upscaled"]))
    answers = server.client("infer", "grpc", server.grpc, requests, tmp_path)
    upscaler = Upscaler(2, model=repository / model / "1/model.onnx")
    for index, answer in enumerate(answers):
        large, images = np.load(answer["upscaled"]), np.load(tmp_path / f"{index}.npy")
        expected = np.stack([upscaler(image) for image in images])
        assert large.shape == expected.shape and np.abs(large.astype(int) - expected).max() <= 1
    np.save(tmp_path / "many.npy", np.zeros((5, 8, 8, 3), np.uint8))
    (many,) = server.client(
        "infer", "http", server.http, [(model, {"image": str(tmp_path / "many.npy")}, ["upscaled"])], tmp_path
    )
    counts = counted(server, "nv_inference_exec_count", model)
    if model == "joined":
        assert "batch-size must be <= 4" in many["error"]
        assert counts < len(shapes)
    else:
        assert np.load(many["upscaled"]).shape == (5, 16, 16, 3)


def counted(server, name, model):
    """A count in the server's metrics."""
    status, text = server.get("metrics", port=server.metrics)
    assert status == 200
    return int(re.search(rf'^{name}{{model="{model}",version="1"}} (\d+)', text, re.MULTILINE)[1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_cannot_be_upscaled_is_refused_in_a_line(server, repository, images, protocol, tmp_path):
    cases = [
        ({"image": images["float"]}, "data-type is 'FP32', but model 'small_upscaler' expects 'UINT8'"),
        ({"image": images["grey"]}, "Expected [-1,-1,3], got [120,140,1]"),
        ({"image": images["batch"]}, "Expected [-1,-1,3], got [1,120,140,3]"),
        ({"image": images["nothing"]}, "an image must be H x W x 3 uint8; this is (0, 0, 3) uint8"),
        ({"image": images["large"]}, "the image is too large: 250 x 250 pixels, the limit is 60000"),
        ({"image": images["rgb"], "scale": 64}, "the result of 8960x7680 pixels is too large; the limit is 480000"),
        ({"image": images["rgb"], "scale": 0.5}, "scale is 0.5; it must be from 1 to 64"),
        ({"image": images["rgb"], "scale": float("nan")}, "scale is nan; it must be from 1 to 64"),
        ({"image": images["rgb"], "format": "gif"}, "format is 'gif'; it can be png, jpg"),
        ({"image": images["rgb"], "file": images["photo.png"]}, "needs either image, uint8 H x W x 3, or file"),
        ({"scale": 2}, "needs either image, uint8 H x W x 3, or file"),
        ({"file": images["truncated.jpg"]}, "the file is truncated: the end of the image is missing"),
        ({"file": images["text.png"]}, "the file is not a PNG, JPEG,"),
        ({"file": images["empty"]}, "the file is empty"),
        ({"file": images["bomb.png"]}, "the file is too large: 60000 x 60000 pixels, the limit is 60000"),
    ]
    requests = [(MODEL, inputs, ["upscaled"]) for inputs, _ in cases]
    requests.append((MODEL, {"image": images["rgb"]}, ["upscaled"]))
    *refusals, last = server.client("infer", protocol, getattr(server, protocol), requests, tmp_path)
    for refusal, (inputs, expected) in zip(refusals, cases, strict=True):
        assert expected in refusal["error"], (inputs, refusal)
        assert refusal["error"].strip().isprintable() and len(refusal["error"]) < 300
        assert refusal["status"] in ("400", "StatusCode.INVALID_ARGUMENT")
    assert np.array_equal(
        np.load(last["upscaled"]), Upscaler(2, model=repository / MODEL / "1")(np.load(images["rgb"]))
    )
    assert server.is_alive() and "Traceback" not in server.log()


def test_the_program_on_the_page_works(server, repository, images, tmp_path):
    (block,) = (block for block in blocks_of(PAGE) if block.reason == BY_TRITON)
    program = block.text
    for shown, here in (("realtime_upscaler", MODEL), (":8000", f":{server.http}"), (":8001", f":{server.grpc}")):
        assert shown in program
        program = program.replace(shown, here)
    shutil.copy(images["photo.jpg"], tmp_path)
    done = subprocess.run(
        [server.python, "-c", program],
        cwd=tmp_path,
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "there is no model for that scale" in done.stdout and "(360, 640, 3)" in done.stdout
    expected = Upscaler(2.5, model=repository / MODEL / "1")(read_rgb(Path(images["photo.jpg"])))
    write_image(DecodedImage(expected, None, False, None, None), tmp_path / "expected.jpg")
    found, encoded = (read_rgb(tmp_path / name).astype(int) for name in ("photo_x2.5.jpg", "expected.jpg"))
    assert found.shape == encoded.shape and np.abs(found - encoded).mean() < 0.5  # OpenCV has another version there


def test_administration_needs_the_header(server):
    for path in ("v2/systemsharedmemory/status", "v2/logging"):
        assert server.get(path)[0] == 403
        assert server.get(path, headers=ADMIN)[0] == 200


def test_metrics_count_by_model(server, images, tmp_path):
    server.client("infer", "http", server.http, [(TILED, {"image": images["rgb"]}, ["upscaled"])], tmp_path)
    status, text = server.get("metrics", port=server.metrics)
    names = re.findall(r"`(nv_\w+)`", PAGE.read_text())
    assert len(names) == 7 and all(f'{name}{{model="{TILED}"' in text for name in names)
    assert status == 200 and counted(server, "nv_inference_request_success", TILED) >= 1


def test_models_cannot_be_loaded_or_unloaded_from_outside(server):
    for action in ("load", "unload"):
        status, text = server.get(f"v2/repository/models/{MODEL}/{action}", data=b"{}", headers=ADMIN)
        assert status >= 400 and "explicit model load / unload is not allowed" in text
