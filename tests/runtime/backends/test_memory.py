"""What a run takes for each input pixel, measured: the tiles' size is chosen by the figures that backends state."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

MEASURE = """
import json, re, sys
import numpy as np
from overnet import Upscaler

def peak_bytes():
    # Not getrusage's: that begins with the peak of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

model, backend, scale, side = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
upscaler = Upscaler(scale, model=model, backend=backend, tile=0)
backend = upscaler.backend_for(scale)
upscaler(np.zeros((16, 16, 3), np.uint8))
before = peak_bytes()
upscaler(np.zeros((side, side, 3), np.uint8))
print(json.dumps({"taken": peak_bytes() - before, "stated": backend.bytes_per_pixel}))
"""


MANY_SIZES = """
import json, sys
import numpy as np, psutil
from overnet import Upscaler

upscaler, random, used = Upscaler(2, model="fast", backend="openvino"), np.random.default_rng(0), []
for number in range(120):
    upscaler(np.zeros((*random.integers(100, 220, 2), 3), np.uint8))
    used.append(psutil.Process().memory_info().rss)
print(json.dumps(used))
"""


@pytest.mark.slow
def test_images_of_many_sizes_take_no_more_and_more_memory():
    """OpenVINO's own cache took 440 MB for 106 sizes of OverNet's, and went on."""
    result = subprocess.run(
        [sys.executable, "-c", MANY_SIZES],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    used = json.loads(result.stdout)
    assert used[-1] - used[39] < 40 << 20


def measured(*arguments):
    """Return what a run takes for each pixel of an image, and what the backend states."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    figures = json.loads(result.stdout)
    return figures["taken"] / arguments[-1] ** 2, figures["stated"]


@pytest.mark.slow
@pytest.mark.parametrize("side", [256, pytest.param(448, marks=pytest.mark.weekly)])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_backends_state_what_they_take(backend, side):
    """No less than it takes, or memory runs out; not three times as much, or tiles are needlessly small."""
    taken, stated = measured("best", backend, 4, side)
    assert taken <= stated <= 3 * taken


@pytest.mark.parametrize("scale", [pytest.param(2, marks=pytest.mark.weekly), pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", ["realtime", "fast"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_with_plain_networks_they_state_much_less(backend, model, scale):
    taken, stated = measured(model, backend, scale, 896)
    assert taken <= stated <= 3.5 * taken
