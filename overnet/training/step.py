"""One step of training: the loss of a batch, its gradient, and the update of the weights."""

import math
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnet.errors import OverNetError
from overnet.imaging.metrics import LUMA_WEIGHTS
from overnet.network.family import Network
from overnet.network.plain import PlainNet
from overnet.training.distributed import Team
from overnet.training.fake_int8 import FakeInt8
from overnet.training.patches import Batch
from overnet.training.state import TrainState
from overnet.words import counted

# A network whose loss is not finite this many times in a row does not recover.
_MOST_SKIPPED_IN_A_ROW = 20


class Objective(nn.Module):
    """The network and its loss, for one part of a batch.

    Args:
        model: the network.
        loss: "l1" or "l2".
        teacher_share: how much of the loss is against a teacher's outputs, where there are some.
        luma_share: how much of the loss is the error of the luma; the rest is that of red, green and blue.
        exact: a network whose outputs are the only targets.
    """

    luma_weights: Tensor

    def __init__(
        self,
        model: Network,
        loss: str,
        teacher_share: float = 0.0,
        luma_share: float = 0.0,
        exact: Network | None = None,
    ) -> None:
        super().__init__()
        self.model, self.teacher_share, self.luma_share, self.exact = model, teacher_share, luma_share, exact
        self.penalty = {"l1": torch.abs, "l2": torch.square}[loss]
        # Of grey, the luma's error is then that of red, green and blue.
        weights = torch.tensor(LUMA_WEIGHTS) / sum(LUMA_WEIGHTS)
        self.register_buffer("luma_weights", weights[:, None, None], persistent=False)

    def forward(
        self, low: Tensor, targets: list[Tensor], scales: list[float], teacher_targets: list[Tensor] | None = None
    ) -> Tensor:
        """Return the mean error over the targets, uint8 images all, as a scalar of images in [0, 1]."""
        if isinstance(self.model, PlainNet) and isinstance(self.model.quantization, FakeInt8):
            self.model.quantization.measure_ranges(self.model)
        images = self.model.upscale_to(low.float() / 255, scales)
        if self.exact is not None:
            with torch.no_grad():
                exact = self.exact.upscale_to(low.float() / 255, scales)
            return self._error(images, exact)
        share = self.teacher_share if teacher_targets else 0.0
        total = torch.zeros((), device=low.device)
        for each, weight in ((targets, 1 - share), (teacher_targets or [], share)):
            if weight > 0:
                total = total + weight * self._error(images, [target.float() / 255 for target in each])
        return total

    def _error(self, images: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Return the mean error over batches of images, N x 3 x H x W each in [0, 1], as a scalar."""
        errors = []
        for image, target in zip(images, targets, strict=True):
            difference = image.float() - target
            error = self.penalty(difference).mean()
            if self.luma_share > 0:
                luma = (difference * self.luma_weights).sum(1)
                error = torch.lerp(error, self.penalty(luma).mean(), self.luma_share)
            errors.append(error)
        return torch.stack(errors).mean()


class TrainStep:
    """The training step of a run.

    Args:
        state: changed in place by each step.
        team: the place of this process among those of the run; by default it is the only one.
    """

    def __init__(self, state: TrainState, team: Team | None = None) -> None:
        self.state, self.team = state, team or Team()
        self.settings = state.settings
        self.device = next(state.model.parameters()).device
        autocast = self.settings.autocast
        if autocast == "auto":
            autocast = "bf16" if computes_in_bf16(self.device) else "off"
        self.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[autocast]
        if self.settings.compile:
            state.model.features = torch.compile(state.model.features)  # type: ignore[method-assign, assignment]
        objective = Objective(
            state.model, self.settings.loss, self.settings.teacher_share, self.settings.luma_share, state.exact
        ).to(self.device)
        self.objective: nn.Module = objective
        if self.team.world > 1:
            self.objective = DistributedDataParallel(
                objective,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,  # all buffers are constant
                # A step at one scale uses one of the heads.
                find_unused_parameters=isinstance(state.model, PlainNet),
            )

    def __call__(self, batch: Batch, rate: float) -> float | None:
        """Train on a batch.

        Args:
            batch: this process's share.
            rate: the learning rate.

        Returns:
            The mean loss over all processes; None where it or its gradient was not finite, so that nothing changed.

        Raises:
            OverNetError: the loss was not finite too many times in a row.
        """
        state, settings = self.state, self.settings
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.zero_grad()
        loss = self.team.mean(self._backward(batch))
        state.scaler.unscale_(state.optimiser)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip or math.inf)
        finite = bool(torch.isfinite(norm + loss))
        if finite:
            state.scaler.step(state.optimiser)
            state.update_average()
        state.scaler.update()
        state.step += 1
        self._count(finite)
        return float(loss) if finite else None

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradients of a batch, summed over its parts; return its mean loss."""
        parts = self.settings.accumulate
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        total = torch.zeros((), device=self.device)
        lows = batch.low.to(self.device, non_blocking=True).contiguous(memory_format=layout).chunk(parts)
        targets, teacher_targets = (
            [target.to(self.device, non_blocking=True).chunk(parts) for target in each]
            for each in (batch.targets, batch.teacher_targets)
        )
        for part, low in enumerate(lows):
            with ExitStack() as stack:
                if isinstance(self.objective, DistributedDataParallel) and part + 1 < parts:
                    stack.enter_context(self.objective.no_sync())
                with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                    true, taught = ([each[part] for each in group] for group in (targets, teacher_targets))
                    loss = self.objective(low, true, batch.scales, taught) / parts
                self.state.scaler.scale(loss).backward()
                total += loss.detach()
        return total

    def _count(self, finite: bool) -> None:
        state = self.state
        # With fp16, the scaler finds its scale by first gradients that are too large.
        state.skipped += not finite
        state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
        if state.skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW:
            raise OverNetError(
                f"the loss or its gradient was not finite for {counted(state.skipped_in_a_row, 'step')} in a row, up "
                f"to step {state.step}; a lower learning rate may help"
            )


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies faster in bf16 than in fp32.

    CPUs with AMX do, Arm's with bf16, and AMD's with AVX-512's bf16. Intel's AVX-512 bf16 is no faster than fp32: half
    as fast where a virtual machine hides AMX (Sapphire Rapids, 85 instead of 160 GFLOP/s a core).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return bool({"amx_bf16", "bf16"} & words) or {"AuthenticAMD", "avx512_bf16"} <= words
