from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnxruntime
import torch

from overnet.benchmarks.studies.fsrcnn import Fsrcnn, train_fsrcnn
from overnet.imaging.sample_images import photographs_folder
from overnet.training.data.packed_images import pack


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_onnx_file_computes_what_the_network_does(scale):
    torch.manual_seed(scale)
    network = Fsrcnn(scale)
    torch.nn.init.normal_(network.enlarge.weight, std=0.1)
    luma = np.random.default_rng(0).random((2, 1, 9, 7), np.float32)
    session = onnxruntime.InferenceSession(network.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    (large,) = session.run(None, {"luma": luma})
    assert large.shape == (2, 1, 9 * scale, 7 * scale)
    with torch.inference_mode():
        np.testing.assert_allclose(large, network(torch.from_numpy(luma)).numpy(), atol=1e-4)


@pytest.mark.slow
def test_training_reduces_the_loss(tmp_path: Path):
    lines: list[str] = []
    images = pack([photographs_folder()], tmp_path / "packed", report=lines.append)
    lines.clear()
    train_fsrcnn(images, 2, steps=30, report=lines.append)
    first, last = (float(line.rpartition(" ")[2]) for line in lines)
    assert last < first / 2
