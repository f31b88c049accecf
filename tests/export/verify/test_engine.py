"""The check of engines, with a stand-in for an engine in host memory, as no GPU is needed."""

import ctypes

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overnet.errors import ArtifactError
from overnet.export.engine.engine_graph import with_means
from overnet.export.verify.comparison import drawn_images
from overnet.export.verify.engine import check_engine, check_loaded_engine, fitting
from overnet.export.verify.onnx_file import in_network
from overnet.files.engine_sidecar import Profile
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, INPUT_NAME, MEANS_NAME, OUTPUT_NAME, USE_GIVEN_MEANS_NAME
from overnet.network.checkpoint import load_checkpoint
from tests.support.lowered import lowered


class HostEngine:
    """Has the calls of an ICudaEngine and of its context that are used, and computes on host memory.

    Args:
        model: the ONNX file's graph.
        spoil, spoil_given: added to the result; only where the means are given.
    """

    def __init__(self, model, spoil=0, spoil_given=0):
        self.session = onnxruntime.InferenceSession(with_means(model.SerializeToString()))
        self.channels = self.session.get_outputs()[1].shape[1]
        self.spoil, self.spoil_given, self.addresses, self.shapes = spoil, spoil_given, {}, {}

    def create_execution_context(self):
        return self

    def get_tensor_shape(self, name):
        assert name == MEANS_NAME
        return -1, self.channels, 1, 1

    def set_input_shape(self, name, shape):
        assert name in (INPUT_NAME, GIVEN_MEANS_NAME, USE_GIVEN_MEANS_NAME)
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def read(self, name, number_type):
        size = int(np.prod(self.shapes[name]))
        given = (number_type * size).from_address(self.addresses[name])
        return np.ctypeslib.as_array(given).reshape(self.shapes[name])

    def execute_async_v3(self, stream):
        use = self.read(USE_GIVEN_MEANS_NAME, ctypes.c_float)
        inputs = {
            INPUT_NAME: self.read(INPUT_NAME, ctypes.c_uint8),
            GIVEN_MEANS_NAME: self.read(GIVEN_MEANS_NAME, ctypes.c_float),
            USE_GIVEN_MEANS_NAME: use,
        }
        upscaled, means = self.session.run([OUTPUT_NAME, MEANS_NAME], inputs)
        upscaled = upscaled + np.uint8(self.spoil_given if use.item() else self.spoil)
        for name, value in ((OUTPUT_NAME, upscaled), (MEANS_NAME, means)):
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return True


@pytest.fixture(scope="module")
def network(small_checkpoint):
    return load_checkpoint(small_checkpoint)


@pytest.fixture(scope="module")
def graph(network):
    return lowered(network, 2, "fp16", drawn_images())


def judge(graph, network, **spoil):
    engine = HostEngine(graph.model, **spoil)
    images = drawn_images()[:3]
    return check_loaded_engine(
        engine, torch.device("cpu"), graph.artifact, in_network(network, 2), images, name="a.engine", label="stand-in"
    )


def test_an_engine_that_computes_what_the_network_does_passes(graph, network):
    parity = judge(graph, network)
    assert parity.psnr_db >= 50
    assert parity.measured_by == "stand-in"


@pytest.mark.parametrize("spoilt", ["spoil", "spoil_given"])
def test_one_that_computes_something_else_is_refused(graph, network, spoilt):
    with pytest.raises(ArtifactError, match=r"a\.engine is refused: .* \(in stand-in\), and at least 50 dB is needed"):
        judge(graph, network, **{spoilt: 40})


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_nothing_is_claimed(graph, network):
    profile = Profile((16, 16), (32, 32), (64, 64))
    reference = in_network(network, 2)
    assert check_engine(b"", "tensorrt-rtx", profile, graph.artifact, reference, drawn_images(), name="x") is None


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    minimum=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    more=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_images_are_brought_to_sizes_that_the_profile_takes(height, width, minimum, more):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    maximum = minimum[0] + more[0], minimum[1] + more[1]
    fitted = fitting(image, Profile(minimum, minimum, maximum))
    for side, low, high, before in zip(fitted.shape, minimum, maximum, image.shape, strict=False):
        assert low <= side <= high
        assert side == before or not low <= before <= high
    rows, columns = min(height, fitted.shape[0]), min(width, fitted.shape[1])
    assert np.array_equal(fitted[:rows, :columns], image[:rows, :columns])
