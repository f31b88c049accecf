"""The optimisers AdamP and Muon."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the Newton-Schulz iteration, and how often it is done.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class AdamP(torch.optim.Optimizer):
    """AdamP, Adam whose steps do not lengthen weights of which only the direction matters; without weight decay.

    B. Heo et al., "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights", ICLR 2021,
    https://arxiv.org/abs/2006.08217. With Adam's step p, a weight w of dimension d and its gradient g::

        q = p - (w . p) w / |w|^2   where |cos(w, g)| < delta / sqrt(d),     else   q = p
        w <- w - rate * q

    A gradient at right angles to its weight shows that the weight's length does not matter, as under weight
    normalisation. As in the paper's section on filters, the test is made first with each output channel as w, and all
    channels must pass. If they do not, it is made with the whole tensor as w. Tensors of one dimension are not tested.

    Args:
        parameters: to optimise.
        rate: the learning rate; the loop sets it anew each step in ``param_groups[i]["lr"]``.
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        # Decay of the means of gradients and of their squares, added to the root of the mean square, the test's limit.
        super().__init__(list(parameters), {"lr": rate, "betas": (0.9, 0.999), "epsilon": 1e-8, "delta": 0.1})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change the parameters by their gradients; `closure` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                mean, root = _adam_moments(self.state[parameter], parameter, group)
                change = mean / root
                if parameter.ndim > 1:
                    change = projected(parameter, parameter.grad, change, group["delta"])
                parameter.sub_(change, alpha=group["lr"])


def _adam_moments(state: dict[str, Any], parameter: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Update Adam's moments by a gradient; return the corrected mean and the root that it is divided by."""
    gradient = parameter.grad
    assert gradient is not None
    if not state:
        state["step"] = 0
        state["mean"] = torch.zeros_like(parameter)
        state["mean_square"] = torch.zeros_like(parameter)
    state["step"] += 1
    decay, square_decay = group["betas"]
    state["mean"].lerp_(gradient, 1 - decay)
    state["mean_square"].mul_(square_decay).addcmul_(gradient, gradient, value=1 - square_decay)
    root = (state["mean_square"] / (1 - square_decay ** state["step"])).sqrt_().add_(group["epsilon"])
    return state["mean"] / (1 - decay ** state["step"]), root


def projected(weight: Tensor, gradient: Tensor, change: Tensor, delta: float) -> Tensor:
    """Remove the part along the weight from a change, where the gradient shows that the weight's length is free.

    All tensors have the same shape, of at least two dimensions. Both views are computed and the test selects one, so
    that no number has to be read back from the device.
    """
    by_channel = (weight.flatten(1), gradient.flatten(1), change.flatten(1))
    whole = (weight.reshape(1, -1), gradient.reshape(1, -1), change.reshape(1, -1))
    channel_free, channel_change = _without_radial(*by_channel, delta)
    whole_free, whole_change = _without_radial(*whole, delta)
    other = torch.where(whole_free, whole_change.view_as(channel_change), by_channel[2])
    return torch.where(channel_free, channel_change, other).view_as(change)


def _without_radial(weight: Tensor, gradient: Tensor, change: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Return whether every row passes the test, and the change without its part along the weight, row by row."""
    cosine = torch.nn.functional.cosine_similarity(weight, gradient, dim=1).abs()
    free = cosine.max() < delta / math.sqrt(weight.shape[1])
    direction = torch.nn.functional.normalize(weight, dim=1)
    return free, change - direction * (direction * change).sum(1, keepdim=True)


class Muon(torch.optim.Optimizer):
    """Muon, momentum whose update of each weight matrix is made orthogonal; Adam for vectors and numbers.

    A weight of two dimensions or more counts as a matrix, channels_out x rest.

    K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon. With a weight's gradient g as a matrix of r rows and c columns::

        m <- momentum * m + g
        w <- w - rate * 0.2 sqrt(max(r, c)) * orthogonal(g + momentum * m)

    The factor makes an update about as large as Adam's (J. Liu et al., "Muon is Scalable for LLM Training", 2025,
    https://arxiv.org/abs/2502.16982), so one learning rate serves both. `torch.optim.Muon` takes matrices only, and no
    other parameters beside them.

    Args:
        parameters: what to optimise.
        rate: the learning rate; the loop sets it anew each step in ``param_groups[i]["lr"]``.
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        # Decay of the sum of gradients; Adam's decays of means and of squares, and what is added to its root.
        super().__init__(list(parameters), {"lr": rate, "momentum": 0.95, "betas": (0.9, 0.99), "epsilon": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change the parameters by their gradients; `closure` is not used."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                rows = parameter.shape[0] if parameter.ndim else 1
                # A weight of one column, such as the lengths of weight normalisation, is a vector.
                if parameter.ndim < 2 or parameter.numel() == rows:
                    mean, root = _adam_moments(self.state[parameter], parameter, group)
                    parameter.addcdiv_(mean, root, value=-group["lr"])
                else:
                    by_shape.setdefault(parameter.flatten(1).shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = torch.stack([self._momentum(each, group) for each in parameters])
                change = orthogonal(updates).mul_(-group["lr"] * 0.2 * max(shape) ** 0.5)
                for parameter, each in zip(parameters, change, strict=True):
                    parameter.add_(each.view(parameter.shape))

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Add the gradient to the parameter's momentum; return Nesterov's update as a matrix."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
        return parameter.grad.add(state["momentum"], alpha=group["momentum"]).flatten(1)


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices, count x rows x columns, near 1 (0.7 to 1.2) and keep their directions."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    transposed: Tensor = x.mT if tall else x
    return transposed
