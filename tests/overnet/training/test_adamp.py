import math

import pytest
import torch

from overnet.training.optimisers import AdamP, projected


def run(optimiser_of, weight, gradients):
    parameter = torch.nn.Parameter(weight.clone())
    optimiser = optimiser_of([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
    return parameter.detach()


def test_it_is_adam_where_the_gradient_is_along_the_weight():
    torch.manual_seed(0)
    weight = torch.randn(4, 6)
    gradients = [weight * factor for factor in (1.0, -0.3, 2.0)]
    expected = run(lambda p: torch.optim.Adam(p, 1e-4), weight, gradients)
    torch.testing.assert_close(run(lambda p: AdamP(p, 1e-4), weight, gradients), expected, rtol=0, atol=1e-7)


def test_it_is_adam_for_biases_and_scalars():
    gradients = [torch.tensor([0.0, 1.0]), torch.tensor([0.5, -2.0])]
    weight = torch.tensor([1.0, 0.0])
    expected = run(lambda p: torch.optim.Adam(p, 1e-2), weight, gradients)
    torch.testing.assert_close(run(lambda p: AdamP(p, 1e-2), weight, gradients), expected, rtol=0, atol=1e-7)


def test_a_gradient_at_right_angles_takes_the_part_along_the_weight_out():
    torch.manual_seed(1)
    weight, change = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    other = torch.randn(5, 12)
    flat = weight.flatten(1)
    gradient = (other - flat * (other * flat).sum(1, keepdim=True) / flat.square().sum(1, keepdim=True)).view_as(weight)
    result = projected(weight, gradient, change, 0.1).flatten(1)
    assert (result * flat).sum(1).abs().max() < 1e-5
    # And nothing else: what was taken out lies along the weight.
    removed = change.flatten(1) - result
    cosine = torch.nn.functional.cosine_similarity(removed, flat, dim=1).abs()
    torch.testing.assert_close(cosine, torch.ones(5))


def test_the_whole_tensor_is_projected_where_only_it_passes_the_test():
    # In each channel the gradient is along the weight, but with opposite signs: over both it is at right angles.
    weight = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    gradient = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    change = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    result = projected(weight, gradient, change, 0.1)
    torch.testing.assert_close(result, change - weight * (weight * change).sum() / weight.square().sum())


def test_the_length_of_a_weight_whose_length_is_free_changes_less_than_with_adam():
    """What the optimiser is for: with weight normalisation, Adam changes the direction's length, and so its rate."""

    def adam(parameters):
        return torch.optim.Adam(parameters, 1e-2)

    def length_after(optimiser_of):
        torch.manual_seed(2)
        direction = torch.nn.Parameter(torch.randn(4, 8))
        target = torch.randn(4, 8)
        optimiser = optimiser_of([direction])
        for _ in range(200):
            loss = (torch.nn.functional.normalize(direction, dim=1) - target).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return direction.norm().item()

    start = length_after(lambda p: AdamP(p, 0.0))
    changes = [abs(length_after(optimiser) - start) for optimiser in (lambda p: AdamP(p, 1e-2), adam)]
    assert changes[0] < 0.5 * changes[1]


@pytest.mark.parametrize("angle", [0.0, 0.01, 0.02, 0.05])
def test_the_threshold_is_delta_over_the_root_of_the_dimension(angle):
    weight = torch.tensor([[1.0] + [0.0] * 24])
    gradient = torch.tensor([[math.sin(angle), math.cos(angle)] + [0.0] * 23])
    change = torch.ones(1, 25)
    was_projected = projected(weight, gradient, change, 0.1)[0, 0].item() == 0
    assert was_projected == (math.sin(angle) < 0.1 / 5)
