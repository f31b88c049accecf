import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.network.model import OverNet, OverNetConfig, bicubic
from overnet.network.resized_convolution import resized_convolution


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)), st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.sampled_from([1, 3, 5]), st.integers(1, 4),
)  # fmt: skip
def test_it_is_the_resize_and_the_convolution(size, target, taps, colours):
    torch.manual_seed(0)
    features = torch.randn(2, 5, *size)
    weight, bias = torch.randn(colours, 5, taps, taps), torch.randn(colours)
    expected = torch.nn.functional.conv2d(bicubic(features, target), weight, bias, padding=taps // 2)
    torch.testing.assert_close(resized_convolution(features, weight, bias, target), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 1.75, 2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_and_evaluation_give_the_same_image_and_the_same_gradients(scale, layout):
    torch.manual_seed(0)
    model = OverNet(OverNetConfig(width=16, groups=2, blocks=1, expansion=2, overscale=3, squeeze=4))
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    low = torch.rand(2, 3, 8, 12).to(memory_format=layout)
    results = []
    for training in (True, False):
        model.train(training).zero_grad()
        image = model(low, scale)
        image.square().mean().backward()
        results.append((image.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
    for fast, plain in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_matrices_made_while_nothing_is_recorded_serve_training():
    features, weight, bias = torch.randn(1, 2, 7, 7), torch.randn(1, 2, 3, 3), torch.zeros(1)
    with torch.inference_mode():
        resized_convolution(features, weight, bias, (6, 6))
    weight.requires_grad_()
    resized_convolution(features, weight, bias, (6, 6)).sum().backward()
    assert weight.grad.abs().max() > 0
