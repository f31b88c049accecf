import threading
import tracemalloc

import numpy as np
import onnxruntime
import pytest

from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.ort.backend import OnnxRuntimeBackend


def backend(models):
    return OnnxRuntimeBackend(models / "small_x2.onnx", 2, BackendOptions())


def sized(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def plain(models, images):
    return onnxruntime.InferenceSession(models / "small_x2.onnx", providers=["CPUExecutionProvider"]).run(
        None, {"image": images}
    )[0]


@pytest.fixture
def counted(monkeypatch):
    """Every buffer and value of ONNX Runtime's that is made."""
    made = []
    before = onnxruntime.OrtValue.__init__

    def make(value, *arguments, **options):
        made.append(arguments)
        before(value, *arguments, **options)

    monkeypatch.setattr(onnxruntime.OrtValue, "__init__", make)
    return made


def test_nothing_is_allocated_for_a_frame_but_its_result(small_models, counted):
    loaded = backend(small_models)
    images = [sized(90, 120), sized(70, 60)]
    for image in images:
        loaded.upscale(image)
    assert len(counted) == 4, "an input and an output for each size"
    for seed in range(1, 6):
        loaded.upscale(sized(90, 120, seed))
        loaded.upscale(sized(70, 60, seed))
    assert len(counted) == 4, "two sizes that alternate"
    tracemalloc.start()
    result = loaded.upscale(images[0])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.nbytes <= most < 1.2 * result.nbytes


def test_buffers_of_many_sizes_do_not_pile_up(small_models, counted):
    loaded = backend(small_models)
    for height in (20, 30, 40, 50):
        loaded.upscale(sized(height, 20))
    kept = loaded._session._buffers
    assert [size[0][1] for size in kept] == [40, 50]
    loaded.upscale(sized(40, 20))
    loaded.upscale(sized(60, 20))
    assert [size[0][1] for size in kept] == [40, 60], "that which was used last stays"


def test_results_are_right_and_the_callers_own(small_models):
    """In buffers that are used again: neither an earlier result nor the caller's image changes."""
    loaded = backend(small_models)
    image, other = sized(20, 30), sized(20, 30, 1)
    first = loaded.upscale(image)
    before, expected = first.copy(), plain(small_models, image)
    second = loaded.upscale(other)
    assert np.array_equal(first, before) and np.array_equal(first, expected)
    assert np.array_equal(second, plain(small_models, other))
    assert first.flags.owndata and first.flags.writeable
    batch = np.concatenate([image, other])
    assert np.array_equal(loaded.upscale(batch), np.concatenate([first, second]))


def test_several_threads(small_models, counted):
    """They wait for one another, and share the buffers."""
    loaded = backend(small_models)
    images = [sized(30, 40, seed) for seed in range(4)]
    expected = [plain(small_models, image) for image in images]
    wrong = []

    def work(index):
        for _ in range(15):
            if not np.array_equal(loaded.upscale(images[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(counted) == 2
