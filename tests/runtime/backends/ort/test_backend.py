"""ONNX Runtime's providers. A stand-in says that there are GPUs, and computes on the CPU."""

import gc
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import platformdirs
import pytest

from overnet import Upscaler
from overnet.errors import BackendError, InputError, MissingDependency
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.ort import backend as ort_backend
from overnet.runtime.backends.ort import binding as ort_binding
from overnet.runtime.backends.ort import providers as ort_providers
from overnet.runtime.backends.ort.backend import OnnxRuntimeBackend
from overnet.system.cuda_device import CudaDevice
from tests.doubles.onnxruntime_stand_in import CPU, CUDA, RTX, TENSORRT, StandIn
from tests.support.commands import run_process


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine with two GPUs with 8 GB free, and ONNX Runtime for it."""
    stand_in = StandIn(tmp_path)
    monkeypatch.setattr(ort_backend, "require", lambda *_, **__: stand_in)
    monkeypatch.setattr(ort_providers, "check_device", lambda number: CudaDevice(f"RTX/{number}", "8.9", False))
    monkeypatch.setattr(ort_providers, "free_device_memory_bytes", lambda number: 8_000_000_000 - number)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="10.9"))
    return stand_in


def backend(models, name="small_x2.onnx", **options):
    return OnnxRuntimeBackend(models / name, 2, BackendOptions(**options))


def sized(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def plain(models, images):
    return onnxruntime.InferenceSession(models / "small_x2.onnx", providers=[CPU]).run(None, {"image": images})[0]


def test_cuda(small_models, gpu, capfd):
    """Buffers on that GPU, the CPU for what is left over, the file's precision, and no word of ONNX Runtime's."""
    loaded = backend(small_models, provider="cuda", device=1)
    image = sized(20, 30)
    assert np.array_equal(loaded.upscale(image), plain(small_models, image))
    ((name, options), rest) = gpu.opened[0].providers
    assert (name, rest, options["device_id"]) == (CUDA, CPU, "1")
    assert [buffer[:4] for buffer in gpu.buffers] == [("cuda", 1, -1, (1, 20, 30, 3)), ("cuda", 1, -1, (1, 40, 60, 3))]
    assert (loaded.device, loaded.precision) == ("RTX/1, CUDA", "fp32")
    assert gpu.severities == [4, 2]
    assert capfd.readouterr() == ("", "")


def test_means_and_tiles_on_a_gpu(small_models, gpu):
    """The means come back to the host; given ones lie on the GPU beside the image."""
    loaded, on_cpu = backend(small_models, provider="cuda"), backend(small_models)
    image = sized(40, 50)
    means = loaded.channel_means(image)
    assert all(np.array_equal(*pair) for pair in zip(means, on_cpu.channel_means(image), strict=True))
    means = [mean + 1 for mean in means]
    gpu.buffers.clear()
    assert np.array_equal(loaded.upscale(image, means), on_cpu.upscale(image, means))
    assert {buffer[0] for buffer in gpu.buffers if buffer[0] != "cpu"} == {"cuda"}
    assert sum(buffer[4] == np.float32 and buffer[0] == "cuda" for buffer in gpu.buffers) == len(means)


def test_tiles_are_chosen_by_the_gpus_memory_as_it_was(small_models, gpu, monkeypatch):
    """What a run leaves in ONNX Runtime's arena counts as used, and serves the next: it is not asked again."""
    asked = []

    def free(number):
        asked.append((number, len(gpu.opened)))
        return 10**8

    monkeypatch.setattr(ort_providers, "free_device_memory_bytes", free)
    loaded = backend(small_models, provider="cuda", device=1)
    assert loaded.tile_for(40, 50) is None
    assert loaded.tile_for(1000, 1000) == (176, 176)
    assert asked == [(1, 1)], "once, when the model was loaded"
    assert loaded.bytes_per_pixel > backend(small_models).bytes_per_pixel


def test_tensorrt(small_models, gpu):
    """CUDA takes what TensorRT cannot; engines are kept apart by file, versions and device."""
    loaded = backend(small_models, provider="tensorrt", device=1)
    ((name, options), (second, _), rest) = gpu.opened[0].providers
    assert (name, second, rest) == (TENSORRT, CUDA, CPU)
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir() and folder.parent.name == "1.31.1-10.9-RTX_1-8.9"
    assert options == {
        "device_id": "1",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }
    assert loaded.device == "RTX/1, TensorRT"
    assert loaded.pop_notes() == []
    content = bytearray((small_models / "small_x2.onnx").read_bytes())
    loaded._provider.open_session(bytes(content))
    loaded.channel_means(sized(20, 20))
    folders = [Path(session.providers[0][1]["trt_engine_cache_path"]) for session in gpu.opened]
    assert folders[0] == folders[1] != folders[2], "the same file, and another graph"
    assert folders[3] == folders[2] / "1x16x16x360x640", "an engine for a range of sizes"


SHAPES = [f"trt_profile_{kind}_shapes" for kind in ("min", "opt", "max")]


def profiles(gpu):
    """The shapes that were set for each session that was opened; None for those without."""
    return [tuple(options.get(key) for key in SHAPES) for ((_, options), *_) in (one.providers for one in gpu.opened)]


@pytest.mark.slow
def test_tensorrt_builds_one_engine_for_a_range_of_sizes(small_models, gpu):
    """It built one again for each image larger or smaller than all before, for minutes."""
    loaded = backend(small_models, provider="tensorrt")
    assert profiles(gpu) == [(None,) * 3], "nothing is built before the first image"
    for height, width in ((20, 30), (300, 500), (40, 24), (360, 640)):
        image = sized(height, width)
        assert np.array_equal(loaded.upscale(image), plain(small_models, image))
    landscape, portrait = (
        ("image:1x16x16x3", f"image:1x{size}x3", f"image:1x{size}x3") for size in ("360x640", "640x360")
    )
    assert profiles(gpu)[1:] == [landscape, portrait]
    loaded.upscale(sized(400, 500))
    assert profiles(gpu)[3][2] == "image:1x540x960x3"
    # Two are kept, of which this is one.
    loaded.upscale(sized(30, 40))
    assert len(gpu.opened) == 4
    # Smaller than any range begins.
    image = sized(9, 30)
    assert np.array_equal(loaded.upscale(image), plain(small_models, image))
    assert profiles(gpu)[4] == ("image:1x9x30x3",) * 3
    assert loaded.pop_notes() == []


def test_the_shapes_of_all_inputs_are_set_for_tensorrt(small_models, gpu):
    """ONNX Runtime refuses a profile that lacks one that may vary."""
    loaded, on_cpu = backend(small_models, provider="tensorrt"), backend(small_models)
    image = sized(40, 50)
    means = on_cpu.channel_means(image)
    expected = on_cpu.upscale(image, means)
    gpu.opened.clear()
    assert np.array_equal(loaded.upscale(image, means), expected)
    smallest, _, largest = profiles(gpu)[-1]
    assert [each.partition(":")[2] for each in smallest.split(",")] == [
        "1x16x16x3",
        *(f"1x{mean.shape[1]}x1x1" for mean in means),
    ]
    assert largest.split(",")[0] == "image:1x360x640x3" and largest.split(",")[1:] == smallest.split(",")[1:]


def test_tensorrt_that_takes_no_range_goes_on_without(small_models, gpu):
    loaded = backend(small_models, provider="tensorrt")
    assert loaded.pop_notes() == []
    message = "User needs to provide all the dynamic shape inputs\nwith associated profiles"
    gpu.refusal = RuntimeError(message)
    image = sized(40, 50)
    assert np.array_equal(loaded.upscale(image), plain(small_models, image))
    assert np.array_equal(loaded.upscale(image), plain(small_models, image))
    (note,) = loaded.pop_notes()
    assert note.startswith("TensorRT builds an engine for each new size of image") and "\n" not in note
    gpu.refusal = None
    loaded = backend(small_models, provider="tensorrt")
    gpu.refusal = RuntimeError("CUDA failure 2: out of memory")
    with pytest.raises(MemoryError, match="out of memory"):
        loaded.upscale(image)


def test_a_cache_that_cannot_be_written_is_told(small_models, gpu, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    loaded = backend(small_models, provider="tensorrt")
    assert "trt_engine_cache_enable" not in gpu.opened[0].providers[0][1]
    (note,) = loaded.pop_notes()
    assert note.startswith("what TensorRT compiles cannot be stored")
    assert loaded.pop_notes() == []


@pytest.fixture(scope="module")
def fp16_models(small_checkpoint, tmp_path_factory):
    from overnet.export.exporter import export
    from overnet.export.options import ExportOptions

    folder = tmp_path_factory.mktemp("fp16")
    list(export(small_checkpoint, folder, ExportOptions(scales=(2,), precision="fp16")))
    return folder


def test_precision(small_models, fp16_models, gpu):
    """A GPU computes in the file's precision; only TensorRT lowers an FP32 file, where that is asked for."""
    lowered = backend(small_models, provider="tensorrt", precision="fp16")
    assert lowered.precision == "fp16"
    assert gpu.opened[-1].providers[0][1]["trt_fp16_enable"] == "True"
    for provider in ("cuda", "tensorrt"):
        for asked in (None, "fp16"):
            loaded = backend(fp16_models, "small_x2_fp16.onnx", provider=provider, precision=asked)
            assert loaded.precision == "fp16"
            # With the flag TensorRT would choose types itself, and no longer keep to those in the graph.
            assert "trt_fp16_enable" not in gpu.opened[-1].providers[0][1]
    assert backend(fp16_models, "small_x2_fp16.onnx").precision == "fp32", "on the CPU"


@pytest.mark.parametrize(
    ("provider", "name", "precision"),
    [("cuda", "fp32", "fp16"), ("cuda", "fp16", "fp32"), ("tensorrt", "fp32", "bf16"), ("tensorrt", "fp16", "fp32")],
)
def test_a_precision_that_is_not_the_files(small_models, fp16_models, gpu, provider, name, precision):
    folder, file = (small_models, "small_x2.onnx") if name == "fp32" else (fp16_models, "small_x2_fp16.onnx")
    with pytest.raises(BackendError, match=f"{provider} computes in .* {name}, not in '{precision}': .*overnet-export"):
        backend(folder, file, provider=provider, precision=precision)


@pytest.fixture
def plugin(gpu, monkeypatch):
    """TensorRT-RTX in a package of its own."""
    package = types.SimpleNamespace(get_library_path=lambda: "library")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", package)
    return package


def test_tensorrt_rtx(small_models, gpu, plugin):
    """Asked for by its device: by its name alone ONNX Runtime would take the CPU."""
    for _ in range(2):
        loaded = backend(small_models, provider="tensorrt-rtx", device=1)
        assert gpu.opened[-1].by_name is None
        assert gpu.chosen == [1]
        ((name, options),) = gpu.opened[-1].providers
        assert name == RTX
        assert Path(options["nv_runtime_cache_path"]).is_dir()
        assert loaded.device == "RTX/1, TensorRT-RTX"
    assert gpu.available.count(RTX) == 1, "registered once in a process"
    image = sized(20, 30)
    assert np.array_equal(loaded.upscale(image), plain(small_models, image))
    assert {buffer[:3] for buffer in gpu.buffers} == {("gpu", 1, 0x10DE)}
    with pytest.raises(InputError, match="device is 2; TensorRT-RTX supports 2 here"):
        backend(small_models, provider="tensorrt-rtx", device=2)


def test_tensorrt_rtx_that_does_not_load(small_models, gpu, plugin, monkeypatch):
    plugin.get_library_path = lambda: "broken"
    with pytest.raises(BackendError, match=r"TensorRT-RTX does not load \(.*libcuda.*\): the NVIDIA driver"):
        backend(small_models, provider="tensorrt-rtx")
    gpu.available = [RTX]
    with pytest.raises(BackendError, match="supports none of the GPUs"):
        backend(small_models, provider="tensorrt-rtx")
    gpu.available = [CPU]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(MissingDependency, match=r"pip install 'onnxruntime>=1\.24' onnxruntime-ep-nv-tensorrt-rtx"):
        backend(small_models, provider="tensorrt-rtx")


def test_a_provider_that_was_left_out(small_models, gpu):
    """ONNX Runtime goes on with the CPU without an error; here it is one, with what the loader says."""
    gpu.leaves_out = (CUDA,)
    with pytest.raises(BackendError, match=r"CUDA does not load \(ONNX Runtime gives no reason\)$"):
        backend(small_models, provider="cuda")
    capi = Path(gpu.__file__).parent / "capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime_providers_cuda.so").write_text("no library")
    with pytest.raises(BackendError, match=r"CUDA does not load \(.*libonnxruntime_providers_cuda\.so"):
        backend(small_models, provider="cuda")
    gpu.refusal = RuntimeError("Please install TensorRT libraries\nas mentioned")
    (capi / "libonnxruntime_providers_tensorrt.so").write_text("no library")
    with pytest.raises(
        BackendError, match=r"TensorRT does not load \(.*libonnxruntime_providers_tensorrt\.so"
    ) as caught:
        backend(small_models, provider="tensorrt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("libcuda.so.1: cannot open shared object file", "the NVIDIA driver is not installed"),
        ("libcublasLt.so.13: cannot open", r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("libcudnn.so.9: cannot open", r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("libnvinfer.so.10: cannot open", r"pip install 'tensorrt==10\.\*'"),
    ],
)
def test_what_to_do_about_a_missing_library(small_models, gpu, monkeypatch, reason, advice):
    gpu.leaves_out = (TENSORRT,)
    (Path(gpu.__file__).parent / "capi").mkdir(parents=True)
    (Path(gpu.__file__).parent / "capi/libonnxruntime_providers_tensorrt.so").touch()

    def load(path, mode):
        raise OSError(reason)

    monkeypatch.setattr(ort_providers.ctypes, "CDLL", load)
    with pytest.raises(BackendError, match=advice):
        backend(small_models, provider="tensorrt")


def test_errors_in_the_graph_stay_what_they_are(small_models, gpu):
    gpu.refusal = RuntimeError("This is an invalid model")
    with pytest.raises(BackendError, match=r"small_x2\.onnx: ONNX Runtime cannot load it \(This is an invalid model\)"):
        backend(small_models, provider="cuda")


def test_built_without(small_models, gpu):
    gpu.available = [CPU]
    with pytest.raises(BackendError, match=r"built without CUDA: pip uninstall onnxruntime, .*overnet\[ort-gpu\]"):
        backend(small_models, provider="cuda")


@pytest.mark.parametrize(
    "message",
    [
        "Failed to allocate memory for requested buffer of size 5",
        "CUDA failure 2: out of memory ; GPU=0",
        pytest.param("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED", marks=pytest.mark.slow),
        pytest.param("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", marks=pytest.mark.slow),
    ],
)
def test_out_of_memory_on_the_gpu_leads_to_tiles(small_models, gpu, monkeypatch, message):
    """And the buffers of all other sizes, and of the one that did not fit, are gone by then."""
    upscaler = Upscaler(2, model=small_models, backend="onnxruntime", provider="cuda")
    upscaler(sized(20, 21)[0])
    run, alive = gpu.InferenceSession.run_with_iobinding, []

    def cramped(session, binding):
        if gpu.buffers[-1][3] == (1, 300, 400, 3):
            raise RuntimeError(message)
        sets = [value for value in gc.get_objects() if type(value) is ort_binding._Buffers]
        alive.extend(tuple(value.inputs[0].shape()) for value in sets)
        run(session, binding)

    monkeypatch.setattr(gpu.InferenceSession, "run_with_iobinding", cramped)
    assert upscaler(sized(150, 200)[0]).shape == (300, 400, 3)
    assert "6 tiles of 96x96" in " ".join(upscaler.pop_notes())
    assert (1, 96, 96, 3) in alive
    assert not {(1, 20, 21, 3), (1, 150, 200, 3)} & set(alive)


def test_memory_of_another_package_is_not_too_little_memory(small_models, gpu, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Can't allocate memory on the device using this package of OnnxRuntime.")

    monkeypatch.setattr(gpu.OrtValue, "ortvalue_from_shape_and_type", refuse)
    with pytest.raises(BackendError, match="using this package"):
        backend(small_models, provider="cuda").upscale(sized(20, 20))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"provider": "rocm", "backend": "onnxruntime"},
            "no provider 'rocm'; choose from cpu, cuda, ten",
        ),
        (
            {"provider": "cuda", "backend": "openvino"},
            "is for the backend onnxruntime, and the backend is openv",
        ),
        ({"provider": "cuda"}, "and the backend is auto"),
    ],
)
def test_wrong_providers(options, expected):
    with pytest.raises(InputError, match=expected):
        Upscaler(**options)


def test_which_providers_there_are(gpu, plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu)
    plugin.__spec__ = object()
    assert ort_providers.known_providers() == ["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert ort_providers.known_providers() == []


def test_the_command_line(tmp_path, small_models):
    """A provider that is not there is one line, and nothing of ONNX Runtime's is beside it."""
    import cv2

    cv2.imwrite(str(tmp_path / "in.png"), sized(20, 30)[0])
    asked = ("in.png", "-o", "out.png", "--model", small_models / "small_x2.onnx", "--backend", "onnxruntime")
    result = run_process(*asked, "--provider", "cuda", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "built without CUDA" in result.stderr
    assert not (tmp_path / "out.png").exists()
