"""The engine's gate, over a stand-in for an engine whose buffers lie in the host's memory: no GPU is here."""

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overnet.artifact import INPUT_NAME, OUTPUT_NAME
from overnet.checkpoint import load_checkpoint
from overnet.deploy import deploy
from overnet.errors import ArtifactError
from overnet.export.engine_gate import fitting, judge_engine, pass_engine_gate
from overnet.export.evaluator import run_exactly
from overnet.export.lowering import lower
from overnet.export.parity import check_pictures
from overnet.sidecar import Profile


class HostEngine:
    """Has the calls of an ICudaEngine and of its context that are used, and computes on host memory."""

    def __init__(self, model, spoil=0):
        self.model, self.spoil, self.addresses, self.shape = model, spoil, {}, None

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        assert name == INPUT_NAME
        self.shape = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        size = int(np.prod(self.shape))
        given = (ctypes.c_uint8 * size).from_address(self.addresses[INPUT_NAME])
        picture = np.ctypeslib.as_array(given).reshape(self.shape)
        upscaled = run_exactly(self.model, picture)[OUTPUT_NAME] + np.uint8(self.spoil)
        ctypes.memmove(self.addresses[OUTPUT_NAME], np.ascontiguousarray(upscaled).ctypes.data, upscaled.size)
        return True


@pytest.fixture(scope="module")
def network(small_checkpoint):
    return load_checkpoint(small_checkpoint)


@pytest.fixture(scope="module")
def graph(network):
    return lower(deploy(network), 2, "fp16", check_pictures(), progress=lambda *_: None)


def judge(graph, network, spoil):
    engine = HostEngine(graph.model, spoil)
    pictures = check_pictures()[:3]
    return judge_engine(
        engine, torch.device("cpu"), graph.artifact, network, pictures, name="a.engine", label="stand-in"
    )


def test_an_engine_that_computes_what_the_network_does_passes(graph, network):
    parity = judge(graph, network, 0)
    assert parity.psnr_db >= 50
    assert parity.measured_by == "stand-in"


def test_one_that_computes_something_else_is_refused(graph, network):
    with pytest.raises(ArtifactError, match=r"a\.engine is refused: .* \(in stand-in\), and at least 50 dB is needed"):
        judge(graph, network, 40)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_nothing_is_claimed(graph, network):
    profile = Profile((16, 16), (32, 32), (64, 64))
    assert pass_engine_gate(b"", "tensorrt-rtx", profile, graph.artifact, network, check_pictures(), name="x") is None


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    minimum=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    more=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_pictures_are_brought_to_sizes_that_the_profile_takes(height, width, minimum, more):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    maximum = minimum[0] + more[0], minimum[1] + more[1]
    fitted = fitting(picture, Profile(minimum, minimum, maximum))
    for side, low, high, before in zip(fitted.shape, minimum, maximum, picture.shape, strict=False):
        assert low <= side <= high
        assert side == before or not low <= before <= high
    rows, columns = min(height, fitted.shape[0]), min(width, fitted.shape[1])
    assert np.array_equal(fitted[:rows, :columns], picture[:rows, :columns])
