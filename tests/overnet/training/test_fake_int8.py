"""Training for INT8, compared with the INT8 graphs of the export."""

import numpy as np
import pytest
import torch

from overnet.export.precision.calibration import pairs_of
from overnet.export.precision.int8 import Calibration
from overnet.export.verify.declared_types import run_exactly
from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.imaging.sample_images import centre_crop, sample_photographs, synthetic_frames
from overnet.network.checkpoint import load_checkpoint
from overnet.network.model import reference
from overnet.network.plain import PlainNet, PlainNetConfig
from overnet.training.fake_int8 import FakeInt8, _rounded
from overnet.weights import bundled_checkpoint
from tests.support.lowered import lowered


def plain(expansion, depth=2):
    torch.manual_seed(0)
    model = PlainNet(PlainNetConfig(width=8, depth=depth, scales=(2,), expansion=expansion))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("widen"):  # zeros at the beginning, which let no gradient through
                parameter.normal_(0, 0.1)
    return model


def exported(model, scale):
    """Return the INT8 graph of the export, with every layer in INT8."""
    calibration = Calibration(sample_photographs(), [], max_loss_db=100)
    return lowered(model, scale, "int8", synthetic_frames(), calibration).model


def test_it_computes_what_the_exported_graph_does():
    """Nearer to the INT8 graph of a network of few layers than that is to the network in FP32."""
    model, image = plain(0, depth=1), centre_crop(sample_photographs()[0], 96)
    with torch.no_grad():
        model.heads["2"].weight.mul_(80)  # so that more than the final rounding differs
    upscaled = run_exactly(exported(model, 2), image[None])[OUTPUT_NAME][0].astype(float)
    lost = np.mean((upscaled - reference(model, image, 2)) ** 2)
    assert lost > 0.05
    low = [pair.low for pair in pairs_of(sample_photographs(), 2)]
    FakeInt8(model, [*low, *synthetic_frames()]).measure_ranges(model)
    assert np.mean((upscaled - reference(model, image, 2)) ** 2) < 0.5 * lost


def test_it_costs_what_the_exported_graph_costs():
    """In a deep network single roundings differ; and training measures ranges on parts of the images, for speed."""
    model, image = load_checkpoint(bundled_checkpoint("realtime")), centre_crop(sample_photographs()[0], 96)
    upscaled = run_exactly(exported(model, 2), image[None])[OUTPUT_NAME][0].astype(float)
    exact = reference(model, image, 2)
    lost = np.mean((upscaled - exact) ** 2)
    FakeInt8(model).measure_ranges(model)
    assert np.mean((reference(model, image, 2) - exact.astype(float)) ** 2) == pytest.approx(lost, rel=0.3)


@pytest.mark.parametrize("expansion", [0, 2])
def test_every_weight_has_a_gradient_and_rounding_adds_none(expansion):
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    gradients = []
    for quantised in (False, True):
        model = plain(expansion)
        if quantised:
            FakeInt8(model).measure_ranges(model)
        model(images, 2).square().mean().backward()
        gradients.append({name: each.grad for name, each in model.named_parameters()})
    for name, exact in gradients[0].items():
        assert torch.nn.functional.cosine_similarity(exact.flatten(), gradients[1][name].flatten(), dim=0) > 0.99, name


def test_a_step_has_the_gradient_of_the_error_that_rounding_makes():
    x, step = torch.tensor([0.3, 1.2, -0.6]), torch.tensor(0.5, requires_grad=True)
    rounded = _rounded(x, step)
    assert rounded.tolist() == pytest.approx([0.5, 1.0, -0.5])
    rounded[0].backward()
    assert step.grad.item() == pytest.approx(1 - 0.3 / 0.5)


def test_inputs_beyond_the_range_are_clipped():
    model = plain(0)
    quantization = FakeInt8(model)
    quantization.measure_ranges(model)
    x = torch.full((1, 8, 3, 3), 1e6)
    rounded, _ = quantization("body.0", x, model.body[0].weight)
    assert rounded.max() < 1e3
    within = rounded / rounded.amax((0, 2, 3), keepdim=True)
    assert torch.all(within == 1)


def test_it_is_not_saved_with_the_weights():
    model = plain(0)
    names = set(model.state_dict())
    FakeInt8(model).measure_ranges(model)
    assert set(model.state_dict()) == names
