"""The choice of a bundled model by the frames a second that it holds here."""

import time
from fractions import Fraction

import numpy as np
import pytest

from overnet.runtime import models
from overnet.runtime.backends.base import Backend
from overnet.runtime.backends.registry import BackendKind
from overnet.runtime.paced_upscaler import PacedUpscaler
from overnet.weights import MODEL_NAMES, model_path

# By the name of the model's folder; and of its file where there is one for INT8.
_SECONDS_PER_PIXEL: dict[str, float] = {}


class Timed(Backend):
    """In place of a backend: as slow for each pixel as it is told, by its own clock."""

    name, device, precision, bytes_per_pixel, reach = "timed", "here", "fp32", 1, None
    clock = 0.0

    def __init__(self, model, scale, options):
        self.scale = scale
        self.seconds = _SECONDS_PER_PIXEL[model.stem if model.stem.endswith("_int8") else model.parent.name]

    def upscale(self, images, channel_means=None):
        Timed.clock += images.shape[1] * images.shape[2] * self.seconds
        return images.repeat(2, axis=1).repeat(2, axis=2)

    def channel_means(self, images, given=None):
        return []


@pytest.fixture
def choose(monkeypatch):
    """Return the model and the lines for models that take a number of seconds for a frame of 640x360."""
    monkeypatch.setattr(time, "perf_counter", lambda: Timed.clock)

    def choose(
        rate, best, fast, realtime, *, size=(360, 640), source_rate=None, backend="timed", int8=(), encoding=0.0
    ):
        monkeypatch.setattr("overnet.runtime.paced_upscaler.encoding_seconds", lambda width, height: encoding)
        kind = BackendKind(backend, "overnet", "overnet", "", frozenset({"onnx"}), Timed)
        monkeypatch.setattr(models, "choose_backends", lambda *_, **options: [kind])
        spent_in_int8 = zip(("fast_x2_int8", "realtime_x2_int8"), int8, strict=False)
        _SECONDS_PER_PIXEL.update({name: spent / (360 * 640) for name, spent in spent_in_int8})
        folders = {name: model_path(name).name for name in MODEL_NAMES}
        frame_seconds = {"best": best, "fast": fast, "realtime": realtime}
        _SECONDS_PER_PIXEL.update({folders[name]: spent / (360 * 640) for name, spent in frame_seconds.items()})
        Timed.clock = 0.0
        lines = []
        upscaler = PacedUpscaler(2, rate=rate and Fraction(rate), on_choice=lines.append)
        stream = upscaler.stream(*size, rate=source_rate)
        with stream.submit(np.zeros((*size, 3), np.uint8)) as upscaled:
            assert upscaled.shape == (2 * size[0], 2 * size[1], 3)
        stream.close()
        upscaler.stream(*size, rate=source_rate).close()
        (line,) = lines
        return line

    return choose


@pytest.mark.parametrize(
    ("rate", "seconds", "line"),
    [
        (25, (0.03, 0.01, 0.01), "model best: 30 frames/s here at 640x360 x2"),
        (25, (0.3, 0.03, 0.01), "model fast: 30 frames/s here at 640x360 x2, best holds 3"),
        (25, (0.3, 0.06, 0.012), "model realtime: 75 frames/s here at 640x360 x2, best holds 3, fast holds 15"),
        (60, (25, 3, 0.12), "no bundled model holds 60 frames/s here at 640x360 x2: model realtime holds 7.5"),
        ("1/2", (1.5, 0.1, 0.01), "model best: 0.6 frames/s here at 640x360 x2"),
    ],
)
def test_the_best_model_that_holds_the_rate(choose, rate, seconds, line):
    assert choose(rate, *seconds) == line


def test_the_encoder_works_on_the_same_cores(choose):
    assert choose(25, 0.3, 0.01, 0.01, encoding=0.02).startswith("model fast: 30 frames/s")


@pytest.mark.parametrize(
    ("is_fast", "rate", "line"),
    [
        (True, 25, "model fast in INT8: 30 frames/s here at 640x360 x2, best holds 3, fast holds 15"),
        (True, 70, "model realtime in INT8: 75 frames/s here at 640x360 x2, best holds 3, fast holds 15, "),
        (False, 14, "model fast: 15 frames/s here at 640x360 x2, best holds 3"),
        (False, 25, "model realtime: 36 frames/s here at 640x360 x2, best holds 3, fast holds 15"),
    ],
)
def test_int8_on_a_cpu_that_is_fast_in_it(choose, monkeypatch, is_fast, rate, line):
    monkeypatch.setattr("overnet.runtime.paced_upscaler.has_fast_int8", lambda: is_fast)
    assert choose(rate, 0.3, 0.06, 0.025, backend="openvino", int8=(0.03, 0.012)).startswith(line)


def test_the_sources_own_rate(choose):
    assert choose(None, 0.3, 0.02, 0.01, source_rate=Fraction(2)).startswith("model best: 3 frames/s")
    assert choose(None, 0.3, 0.02, 0.01).startswith("model fast"), "30 where the source states none"
    assert choose(2, 0.3, 0.02, 0.01, source_rate=Fraction(60)).startswith("model best"), "the user's goes first"


@pytest.mark.parametrize("size", [(360, 640), (1080, 1920), (2160, 3840)])
@pytest.mark.parametrize("rate", [1, 25, 240])
@pytest.mark.parametrize("slowness", [0.1, 1, 4])
def test_the_measurement_is_bounded(choose, size, rate, slowness):
    """By this machine's clock, which the models alone move on."""
    choose(rate, 1.5 * slowness, 0.08 * slowness, 0.02 * slowness, size=size)
    first_frame_and_second_stream = 2 * 0.02 * slowness * size[0] * size[1] / (640 * 360)
    assert Timed.clock < 4 + max(1.5 * slowness, first_frame_and_second_stream)


def test_int8_alone(image):
    """Where it is asked for, the models that have no files in it are left out."""
    lines = []
    upscaler = PacedUpscaler(2, rate=Fraction(1, 1000), on_choice=lines.append, precision="int8")
    with upscaler.stream(*image.shape[:2]).submit(image) as upscaled:
        assert upscaled.shape == (100, 132, 3)
    assert lines[0].startswith("model fast in INT8: ")


def test_with_the_bundled_models(image):
    lines = []
    upscaler = PacedUpscaler(2, rate=Fraction(1, 10), on_choice=lines.append)
    stream = upscaler.stream(*image.shape[:2])
    with stream.submit(image) as upscaled:
        assert upscaled.shape == (100, 132, 3)
    assert lines[0].startswith("model best: ") and "here at 66x50 x2" in lines[0]
