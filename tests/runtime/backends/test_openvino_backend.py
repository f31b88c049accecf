"""The OpenVINO backend after errors."""

import numpy as np
import pytest

from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.openvino_backend import OpenVinoBackend
from tests.runtime.backends.test_hostile_models import model_file, repeated


class Interrupted:
    """A request whose first waiting fails, while it computes."""

    def __init__(self, request):
        self._request, self._is_first = request, True

    def __getattr__(self, name):
        return getattr(self._request, name)

    def wait_for(self, timeout):
        if self._is_first:
            self._is_first = False
            raise MemoryError
        return self._request.wait_for(timeout)


def test_an_error_while_it_computes_spoils_no_later_run(tmp_path):
    backend = OpenVinoBackend(model_file(tmp_path / "x2.onnx", repeated(2), scale=2), 2, BackendOptions())
    images = np.random.default_rng(1).integers(0, 256, (1, 1500, 2000, 3), np.uint8)
    backend._request = Interrupted(backend._request)
    with pytest.raises(MemoryError):
        backend.upscale(images)
    assert np.array_equal(backend.upscale(images), images.repeat(2, 1).repeat(2, 2))
