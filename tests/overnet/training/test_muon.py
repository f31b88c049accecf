import torch

from overnet.training.optimisers import Muon, orthogonal


def test_the_singular_values_of_an_update_come_near_one():
    torch.manual_seed(0)
    for shape in ((3, 8, 40), (2, 40, 8), (1, 6, 6)):
        matrices = torch.randn(shape)
        changed = orthogonal(matrices)
        values = torch.linalg.svdvals(changed)
        assert 0.5 < values.min() < values.max() < 1.3
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        expected = left @ right
        cosine = torch.nn.functional.cosine_similarity(changed.flatten(1), expected.flatten(1))
        assert cosine.min() > 0.95
    assert torch.equal(orthogonal(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 3))


def test_a_convolution_follows_the_formula():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    optimiser = Muon([weight], 0.1)
    optimiser.param_groups[0]["momentum"] = 0.5
    expected, momentum = weight.detach().clone(), torch.zeros(4, 27)
    for _ in range(3):
        weight.grad = torch.randn(4, 3, 3, 3)
        momentum = 0.5 * momentum + weight.grad.flatten(1)
        update = orthogonal((weight.grad.flatten(1) + 0.5 * momentum)[None])[0]
        expected -= 0.1 * 0.2 * 27**0.5 * update.view(4, 3, 3, 3)
        optimiser.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_biases_scalars_and_lengths_are_changed_as_by_adam():
    torch.manual_seed(0)
    shapes = [(5,), (1,), (5, 1, 1, 1)]
    ours = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimisers = [Muon(ours, 0.01), torch.optim.Adam(theirs, 0.01, betas=(0.9, 0.99))]
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_of_one_shape_are_changed_as_each_by_itself_and_those_without_gradient_not():
    torch.manual_seed(0)
    together = [torch.nn.Parameter(torch.randn(4, 2, 3, 3)) for _ in range(3)]
    alone = [torch.nn.Parameter(each.detach().clone()) for each in together]
    for one, other in zip(together[:2], alone[:2], strict=True):
        one.grad = torch.randn(one.shape)
        other.grad = one.grad.clone()
    Muon(together, 0.1).step()
    for each in alone:
        Muon([each], 0.1).step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)
