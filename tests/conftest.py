"""What many tests share: where the material lies, and a small network that runs fast."""

import hashlib
import os
from pathlib import Path

# Before the first import that starts threads. Libraries start one for each core, and those of two test processes, or
# of a test and the process it runs, wait busily for one another: three times the processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import pytest
from hypothesis import settings

from overnet.system.cuda_device import cuda_device_count
from tests.support.workers import TimingAlone, once_for_all_workers

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the material in ../shared is not here")

# Without a deadline: how long an example takes depends on what else the machine does.
settings.register_profile("default", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Run named files in one process, where starting others costs more; None leaves the number to pytest-xdist."""
    return 0 if any(".py" in argument for argument in config.args) else None


def pytest_collection_modifyitems(items):
    """Begin with what measures time and what takes long, so that at the end no worker waits for a long test of another.

    What measures time comes first: beside it runs the second half, of short tests, for which it waits least.
    """
    markers = {item: [item.get_closest_marker(name) is None for name in ("timing", "slow")] for item in items}
    items.sort(key=markers.__getitem__)


def pytest_configure(config):
    """Let tests with the marker `timing` run alone."""
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(TimingAlone())


def pytest_runtest_setup(item):
    """Skip what needs a GPU where there is none, unless that is to be a failure: a broken one must not go unseen."""
    if item.get_closest_marker("needs_cuda") and not cuda_device_count():
        if os.environ.get("OVERNET_REQUIRE_CUDA") == "1":
            pytest.fail("OVERNET_REQUIRE_CUDA is set, and there is no NVIDIA GPU")
        pytest.skip("no NVIDIA GPU")


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """A small OverNet with random weights, saved as a checkpoint."""
    torch = pytest.importorskip("torch")
    from overnet.network.checkpoint import save_checkpoint
    from overnet.network.model import OverNet, OverNetConfig

    torch.manual_seed(7)
    model = OverNet(OverNetConfig(width=16, groups=2, blocks=1, expansion=2, overscale=3, squeeze=4))
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_checkpoint(model, path)
    return path


@pytest.fixture(scope="session")
def small_models(small_checkpoint, tmp_path_factory):
    """A folder with the small network's ONNX files for x2 and x3."""
    from overnet.export.exporter import export
    from overnet.export.options import ExportOptions

    with once_for_all_workers(tmp_path_factory, "small_models") as (folder, is_first):
        if is_first:
            list(export(small_checkpoint, folder, ExportOptions(scales=(2, 3), precision="fp32")))
    return folder


@pytest.fixture(scope="session")
def distribution(tmp_path_factory):
    """The source distribution and the wheel of this project, built once for all workers."""
    from tests.support.distribution import build_copy, files_of

    with once_for_all_workers(tmp_path_factory, "distribution") as (folder, is_first):
        return build_copy(folder) if is_first else files_of(folder)


@pytest.fixture(scope="session")
def bundled_network(tmp_path_factory):
    """A function of an image and a scale: the result of the bundled network in PyTorch, computed once for all tests."""
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.model import reference
    from overnet.weights import bundled_checkpoint

    model = load_checkpoint(bundled_checkpoint())

    def upscale(image, scale):
        name = f"network_x{scale}_{hashlib.sha256(image.tobytes()).hexdigest()}"
        with once_for_all_workers(tmp_path_factory, name) as (folder, is_first):
            if is_first:
                np.save(folder / "result.npy", reference(model, image, scale))
        return np.load(folder / "result.npy")

    return upscale


@pytest.fixture(scope="session")
def bundled_half(tmp_path_factory):
    """A function of a scale: the path of the bundled weights' ONNX file in FP16, exported once for all tests."""
    from overnet.export.exporter import export
    from overnet.export.options import ExportOptions
    from overnet.weights import bundled_checkpoint

    def export_scale(scale):
        with once_for_all_workers(tmp_path_factory, f"half_x{scale}") as (folder, is_first):
            if is_first:
                list(export(bundled_checkpoint(), folder, ExportOptions(scales=(scale,), precision="fp16")))
        (path,) = folder.glob("*.onnx")
        return path

    return export_scale


@pytest.fixture
def image():
    """An image with smooth parts, edges and noise: 50 x 66 x 3 uint8."""
    random = np.random.default_rng(3)
    rows, columns = np.mgrid[0:50, 0:66]
    smooth = np.stack([rows * 4, columns * 3, rows + columns], axis=-1).astype(float)
    smooth[10:30, 20:40] = (200, 30, 90)
    return np.clip(smooth + random.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)


def write_clip(path, frames=12, size=(64, 48)):
    """Make a small smooth video, 25 frames a second."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
        for index in range(frames):
            rgb = np.stack([rows * 4, columns * 3 + index, rows + columns], axis=-1).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        output.mux(stream.encode(None))
