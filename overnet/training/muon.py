"""The optimiser Muon: momentum whose update of each weight matrix is made orthogonal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from overnet.training.adamp import adam_moments

# Coefficients of the Newton-Schulz iteration, and how often it is done.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for weights of two dimensions or more, each as a matrix channels_out x rest; Adam for all others.

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
        momentum: decay of the sum of gradients.
        betas: Adam's decay of the means of gradients and of their squares.
        epsilon: added to Adam's root of the mean square.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rate: float = 1e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(list(parameters), {"lr": rate, "momentum": momentum, "betas": betas, "epsilon": epsilon})

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
                    self._change_by_adam(parameter, parameter.grad, group)
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

    def _change_by_adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        mean, root = adam_moments(self.state[parameter], parameter, gradient, group)
        parameter.addcdiv_(mean, root, value=-group["lr"])


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
