"""Train a plain network's trunk with its own heads and with the paper's OverscalingHead, and compare the two.

    python -m overnet.benchmarks.studies.overscaling_head --data FOLDER --sets Set5 Set14

Both begin with the same random trunk and see the same patches. The head of a plain network makes the pixels of one
scale from the features (3x3 convolution, pixel shuffle); OverscalingHead makes an image of any size up to the
overscale factor from the same weights. Printed are the multiply-accumulates of both, the time of a step, and PSNR.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from overnet.errors import OverNetError
from overnet.files.onnx_metadata import scaled_size
from overnet.network.family import NETWORKS, build
from overnet.network.model import OverscalingHead, bicubic
from overnet.network.plain import PlainNet, PlainNetConfig
from overnet.training.data.packed_images import PackedImages, pack
from overnet.training.optimisers import Muon
from overnet.training.patches import Patches
from overnet.training.settings import TrainSettings
from overnet.training.validation import load_examples, validate

SCALES = (2, 3, 4)
OVERSCALE = 5
_RATE = 3e-3


class OverscaledTrunk(nn.Module):
    """A plain network's trunk with the paper's head: any scale from 1 to the overscale factor with one set of weights.

    Args:
        trunk: the network whose features are used; its own heads are removed.
        overscale: see `OverscalingHead`.
    """

    def __init__(self, trunk: PlainNet, overscale: int = OVERSCALE) -> None:
        super().__init__()
        self.trunk, self.head = trunk, OverscalingHead(trunk.config.width, overscale)
        del trunk.heads

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """N x 3 x H x W in, RGB in [0, 1]; N x 3 x round(H * scale) x round(W * scale) out."""
        size = scaled_size(x.shape[2], x.shape[3], scale)
        upscaled: Tensor = self.head(self.trunk.features(x), size) + bicubic(x, size)
        return upscaled


def train(
    model: nn.Module, images: PackedImages, *, steps: int, report: Callable[[str], None] = lambda line: None
) -> float:
    """Train a network that is called with images and a scale, and return the median time of a step in milliseconds."""
    patches = Patches(images, TrainSettings(network="realtime"))
    optimiser = Muon(model.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    times_ms = []
    for step in range(steps):
        batch = patches[step]
        began = time.perf_counter()
        image = model(batch.low.float() / 255, batch.scales[0])
        loss = functional.l1_loss(image, batch.targets[0].float() / 255)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        times_ms.append(1000 * (time.perf_counter() - began))
        if step % 500 == 0 or step == steps - 1:
            report(f"step {step}: loss {loss.item():.5f}")
    return statistics.median(times_ms)


def head_costs(config: PlainNetConfig, scale: int, overscale: int = OVERSCALE) -> tuple[int, int]:
    """Return the multiply-accumulates for each input pixel of a plain network's head and of OverscalingHead.

    The latter's bicubic resize takes 4 taps along rows and 4 along columns for each of the trunk's channels.
    """
    width = config.width
    resize = width * 4 * (scale * overscale + scale**2)
    overscaling = 9 * (width // 4) * width * overscale**2 + resize + 9 * width * 3 * scale**2
    return 9 * width * 3 * scale**2, overscaling


def main() -> None:
    """Train both networks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images to train on, or a packed file")
    parser.add_argument("--sets", type=Path, nargs="+", required=True, help="test sets")
    parser.add_argument("--network", choices=[name for name in NETWORKS if name != "overnet"], default="realtime")
    parser.add_argument("--steps", type=int, default=3000, help="of 16 patches of 32x32 pixels (default: 3000)")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    config = NETWORKS[args.network]
    assert isinstance(config, PlainNetConfig)
    try:
        examples = [load_examples(each, list(SCALES)) for each in args.sets]  # before hours of training
        with TemporaryDirectory() as folder:
            images = pack([args.data], Path(folder) / "packed", report=print)
            rows = []
            for number, name in enumerate(("own heads", "OverscalingHead")):
                torch.manual_seed(0)
                model: Any = build(config)
                if number:
                    model = OverscaledTrunk(model)
                print(f"{name}:")
                step_ms = train(model, images, steps=args.steps, report=print)
                model.eval()
                measured = [validate(model, each)[0] for each in examples]
                quality = [of_set[scale] for of_set in measured for scale in SCALES]
                trunk = config.multiply_accumulates(2) - head_costs(config, 2)[0]
                arithmetic = [trunk + head_costs(config, scale)[number] for scale in SCALES]
                rows.append(
                    [name, *(f"{each:,}" for each in arithmetic), f"{step_ms:.0f}", *(f"{q:.2f}" for q in quality)]
                )
    except OverNetError as error:
        sys.exit(f"overscaling_head: {error}")
    titles = ["head", *(f"x{scale}, MAC/pixel" for scale in SCALES), "ms a step"]
    titles += [f"{each.name} x{scale}, dB" for each in args.sets for scale in SCALES]
    for line in (titles, ["---"] * len(titles), *rows):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
