"""Compare the speed of a training step with that of the original, in one table.

    python -m overnet.benchmarks.studies.training_step

Both train the same network (its default shape) on patches of the same sizes at the same scale, with gradients clipped
and AdamP:

- `overnet` is the step of `overnet train` with the preset `multiscale`: bf16 if the processor is faster in it, channels
  last, channels mixed before the resize, freed memory kept, averaged weights.
- `original` is the step of the paper's own code: fp32, contiguous, 64 channels resized and then convolved in the head.

Each has its own process, and they take turns, so that a slow-down of the machine affects both. The figures are medians
over rounds of one step each, and the ratio has a 95% confidence interval by the bootstrap.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from overnet.benchmarks.timing_stats import ratio_of_medians
from overnet.errors import BackendError, InputError, OverNetError, require
from overnet.system.child_process import PythonChild

if TYPE_CHECKING:
    from overnet.training.patches import Batch
    from overnet.training.settings import TrainSettings

OVERNET, ORIGINAL = "overnet", "original"
SIDES = (OVERNET, ORIGINAL)
_CHILD = "from overnet.benchmarks.studies.training_step import take_steps; take_steps()"


@dataclass(frozen=True)
class StepSetting:
    """The work of one step.

    Attributes:
        scale: an integer.
        batch: patches per step.
        patch: height and width of a low-resolution patch in pixels.
        threads: of each process; None for PyTorch's default.
    """

    scale: int
    batch: int = 16
    patch: int = 32
    threads: int | None = None


@dataclass
class StepTimes:
    """Seconds per step by side, one per round, in the order of the rounds."""

    setting: StepSetting
    seconds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def patches_per_second(self, side: str) -> float:
        """Return the speed of the median round."""
        return self.setting.batch / statistics.median(self.seconds[side])

    def speedup(self) -> tuple[float, float, float]:
        """Return the speed relative to the original's, and the ends of its confidence interval."""
        return ratio_of_medians(self.seconds[ORIGINAL], self.seconds[OVERNET])


def compare_steps(setting: StepSetting, *, rounds: int, warm_up: int = 2) -> StepTimes:
    """Time both sides' steps in turns.

    Args:
        rounds: timed steps of each side.
        warm_up: steps of each side before them.

    Raises:
        BackendError: a side's process ended, for example because memory ran out.
        InputError: the setting is impossible.
        MissingDependency: PyTorch is not installed.
    """
    require("torch", extra="train", purpose="timing a training step")
    _settings(setting)
    times = StepTimes(setting)
    with _side(OVERNET, setting) as ours, _side(ORIGINAL, setting) as originals:
        for round_number in range(-warm_up, rounds):
            for side, step in ((OVERNET, ours), (ORIGINAL, originals)):
                seconds = step()
                if round_number >= 0:
                    times.seconds[side].append(seconds)
    return times


@contextmanager
def _side(side: str, setting: StepSetting) -> Iterator[Callable[[], float]]:
    """Start a side's process; yield a function that makes it take a step and returns the seconds."""
    with PythonChild(("-c", _CHILD), title=f"the process of the side {side!r}") as process:
        process.send({"side": side, **asdict(setting)})
        messages = process.messages()

        def step() -> float:
            process.send({})
            message = next(messages, None)
            if message is None:
                raise BackendError(process.reason())
            return float(message["seconds"])

        yield step


def take_steps() -> None:
    """Run a side's process: read the setting from stdin, then take a step for every line."""
    import torch

    request = json.loads(sys.stdin.readline())
    make = {OVERNET: make_step, ORIGINAL: make_original_step}[request.pop("side")]
    setting = StepSetting(**request)
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    step = make(setting)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def _settings(setting: StepSetting) -> TrainSettings:
    from overnet.training.settings import PRESETS, settings_from

    changes = {"scales": [setting.scale], "fractional_share": 0.0, "batch": setting.batch, "patch": setting.patch}
    return settings_from(changes, PRESETS["multiscale"], name="the setting")


def _batch(setting: StepSetting) -> Batch:
    import torch

    from overnet.training.patches import Batch

    random = torch.Generator().manual_seed(0)
    sides = (setting.patch, setting.patch * setting.scale)
    low, high = (
        torch.randint(0, 256, (setting.batch, side, side, 3), dtype=torch.uint8, generator=random).permute(0, 3, 1, 2)
        for side in sides
    )
    return Batch(low, [high], [float(setting.scale)])


def make_step(setting: StepSetting) -> Callable[[], float]:
    """Return a function that takes a step of `overnet train` and returns its loss."""
    import torch

    from overnet.network.model import OverNet
    from overnet.training.malloc import keep_freed_memory
    from overnet.training.state import new_state
    from overnet.training.step import TrainStep

    keep_freed_memory()
    torch.manual_seed(0)
    settings = _settings(setting)
    step, batch = TrainStep(new_state(settings, OverNet(), torch.device("cpu"))), _batch(setting)
    return lambda: _finite(step(batch, settings.learning_rate))


def make_original_step(setting: StepSetting) -> Callable[[], float]:
    """Return a function that takes a step of the original and returns its loss."""
    import torch

    from overnet.network.model import OverNet
    from overnet.training.optimisers import AdamP

    torch.manual_seed(0)
    settings, batch = _settings(setting), _batch(setting)
    low, high = (image.contiguous().float() / 255 for image in (batch.low, *batch.targets))
    model = OverNet().train()
    # In evaluation mode the head computes exactly the original's operations.
    model.head.eval()
    optimiser = AdamP(model.parameters(), settings.learning_rate)

    def step() -> float:
        optimiser.zero_grad()
        loss = torch.nn.functional.l1_loss(model(low, setting.scale), high)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        return _finite(float(loss.detach()))

    return step


def _finite(loss: float | None) -> float:
    if loss is None or loss != loss:  # noqa: PLR0124 - not a number
        raise InputError("the loss is not finite, so the time of the step would not be comparable")
    return loss


def table(results: list[StepTimes]) -> list[str]:
    """Return the results as lines of Markdown."""
    lines = [
        "| scale | patches per step | original, patches/s | overnet, patches/s | speed-up | 95% interval |",
        "|---|---|---|---|---|---|",
    ]
    for times in results:
        setting = times.setting
        ratio, low, high = times.speedup()
        lines.append(
            f"| x{setting.scale} | {setting.batch} of {setting.patch}x{setting.patch} "
            f"| {times.patches_per_second(ORIGINAL):.2f} | {times.patches_per_second(OVERNET):.2f} "
            f"| {ratio:.2f} | {low:.2f} to {high:.2f} |"
        )
    return lines


def _machine(threads: int | None) -> str:
    import torch

    from overnet.training.step import computes_in_bf16

    form = "bf16" if computes_in_bf16(torch.device("cpu")) else "fp32"
    count = torch.get_num_threads() if threads is None else threads
    return f"{platform.machine()}, {count} threads, PyTorch {torch.__version__}; overnet computes in {form}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, action="append", help="a scale; repeat for more (default: 2, 3 and 4)")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each side that are timed (default: 7)")
    parser.add_argument("--batch", type=int, default=16, help="patches per step (default: 16)")
    parser.add_argument("--patch", type=int, default=32, help="side of a low-resolution patch, pixels (default: 32)")
    parser.add_argument("--threads", type=int, help="CPU threads of each side (default: PyTorch's own choice)")
    options = parser.parse_args()
    try:
        results = [
            compare_steps(
                StepSetting(scale, options.batch, options.patch, options.threads), rounds=max(1, options.rounds)
            )
            for scale in options.scale or (2, 3, 4)
        ]
    except OverNetError as error:
        sys.exit(f"training_step: {error}")
    print("\n".join([_machine(options.threads), "", *table(results)]))


if __name__ == "__main__":
    main()
