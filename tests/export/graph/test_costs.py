import pytest
import torch

from overnet.export.graph.costs import count_costs
from overnet.export.graph.network_graph import build_onnx
from overnet.network.deploy import deploy
from overnet.network.model import OverNet, OverNetConfig


@pytest.mark.parametrize(("overscale", "scale"), [(3, 2), (4, 3), (5, 2), (5, 3), (5, 4)])
def test_the_deployed_forms_cost_little_more_than_the_plain_graph(overscale, scale):
    """At most a tenth more multiply-accumulates, for much less memory."""
    network = deploy(OverNet(OverNetConfig(overscale=overscale)))
    plain, default, lean = (
        count_costs(build_onnx(network, scale, form=form)) for form in ("as-defined", "default", "lean-memory")
    )
    assert default.multiply_accumulates_per_pixel <= 1.1 * plain.multiply_accumulates_per_pixel
    assert lean.multiply_accumulates_per_pixel == pytest.approx(default.multiply_accumulates_per_pixel)
    memory = [costs.activation_bytes_per_pixel for costs in (lean, default, plain)]
    if overscale == 4:
        # Two overscaling stages: the second convolution works on the enlarged grid, and the tail stays there.
        assert memory[0] == memory[1] <= memory[2]
    else:
        assert memory[0] < memory[1] < memory[2]


def test_a_fraction_costs_little_more_than_the_whole_scale():
    network = deploy(OverNet(OverNetConfig(overscale=3)))
    whole, fraction = (count_costs(build_onnx(network, scale)) for scale in (3, 2.5))
    assert fraction.multiply_accumulates_per_pixel <= 1.02 * whole.multiply_accumulates_per_pixel
    assert fraction.activation_bytes_per_pixel <= 1.2 * whole.activation_bytes_per_pixel


def test_multiply_accumulates_as_published():
    """About 0.90 M for overscale 3, 1.05 M for 5, and 27.6 k in the last convolution at x4."""
    three, five = (
        count_costs(build_onnx(deploy(OverNet(OverNetConfig(overscale=u))), u - 1, form="as-defined")) for u in (3, 5)
    )
    last = 64 * 3 * 9
    assert three.multiply_accumulates_per_pixel - 4 * last == pytest.approx(0.90e6, rel=0.01)
    assert five.multiply_accumulates_per_pixel - 16 * last == pytest.approx(1.05e6, rel=0.01)


@pytest.mark.slow
def test_the_plain_graphs_convolutions_counted_by_pytorch():
    """The same count, taken from the network itself while it runs."""
    model = OverNet(OverNetConfig(overscale=3)).eval()
    size, counted = 256, 0

    def count(module, inputs, output):
        nonlocal counted
        counted += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.rand(1, 3, size, size), 2)
    graph = count_costs(build_onnx(deploy(model), 2, form="as-defined"))
    assert graph.multiply_accumulates_per_pixel * size**2 == pytest.approx(counted, rel=1e-6)


def test_the_widest_tensor():
    """Six times the width, 64, in the blocks; in the plain graph the overscaled grid, 25 times as large."""
    network = deploy(OverNet(OverNetConfig()))
    assert count_costs(build_onnx(network, 2)).widest_per_pixel == 384
    assert count_costs(build_onnx(network, 2, form="as-defined")).widest_per_pixel == 1600
