"""Train FSRCNN, a common baseline, and write it as ONNX files in the form that OpenCV's dnn_superres and others take.

    python -m overnet.benchmarks.studies.fsrcnn --data FOLDER -o FOLDER

C. Dong et al., "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016: a network of 12,000
parameters on luma alone; colour is enlarged bicubically. A file for each scale is written, ``FSRCNN_x2.onnx`` and so
on: N x 1 x H x W float32 luma (BT.601 of full range, 0 to 1) in, N x 1 x sH x sW out.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from overnet.errors import OverNetError
from overnet.files.atomic import atomic_write, ensure_folder
from overnet.training.data.packed_images import PackedImages, pack
from overnet.training.patches import Patches
from overnet.training.settings import TrainSettings

SCALES = (2, 3, 4)
_FEATURES, _SHRUNK, _MAPPINGS = 56, 12, 4
_LUMA = (0.299, 0.587, 0.114)
_OPSET = 17
_RATE = 3e-3


class Fsrcnn(nn.Module):
    """FSRCNN(56, 12, 4), N x 1 x H x W luma in and N x 1 x sH x sW out, values from 0 to 1.

    Args:
        scale: s, a whole number.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        widths = [(1, _FEATURES, 5), (_FEATURES, _SHRUNK, 1), *[(_SHRUNK, _SHRUNK, 3)] * _MAPPINGS]
        widths.append((_SHRUNK, _FEATURES, 1))
        self.layers = nn.Sequential(
            *(each for i, o, k in widths for each in (nn.Conv2d(i, o, k, padding=k // 2), nn.PReLU(o, init=0.1)))
        )
        self.enlarge = nn.ConvTranspose2d(_FEATURES, 1, 9, stride=scale, padding=4, output_padding=scale - 1)
        nn.init.normal_(self.enlarge.weight, std=1e-3)

    def forward(self, luma: Tensor) -> Tensor:
        """Return the enlarged luma."""
        enlarged: Tensor = self.enlarge(self.layers(luma))
        return enlarged

    def to_onnx(self) -> onnx.ModelProto:
        """Return the network as an ONNX model with free N, H and W."""
        nodes, weights, x = [], [], "luma"

        def constant(name: str, value: Tensor) -> str:
            weights.append(numpy_helper.from_array(value.detach().cpu().numpy(), name))
            return name

        for number, layer in enumerate([*self.layers, self.enlarge]):
            weight = layer.weight.reshape(-1, 1, 1) if isinstance(layer, nn.PReLU) else layer.weight
            inputs = [x, constant(f"weight{number}", weight)]
            x = f"features{number}"
            if isinstance(layer, nn.PReLU):
                nodes.append(helper.make_node("PRelu", inputs, [x]))
                continue
            inputs.append(constant(f"bias{number}", layer.bias))
            settings: dict[str, Any] = {"pads": [layer.padding[0]] * 4, "strides": [layer.stride[0]] * 2}
            if isinstance(layer, nn.ConvTranspose2d):
                nodes.append(
                    helper.make_node("ConvTranspose", inputs, [x], output_padding=[self.scale - 1] * 2, **settings)
                )
            else:
                nodes.append(helper.make_node("Conv", inputs, [x], **settings))
        sides = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1, f"{prefix}H", f"{prefix}W"])
            for name, prefix in (("luma", ""), (x, f"{self.scale}"))
        ]
        graph = helper.make_graph(nodes, f"FSRCNN_x{self.scale}", sides[:1], sides[1:], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def train_fsrcnn(
    images: PackedImages, scale: int, *, steps: int, report: Callable[[str], None] = lambda line: None
) -> Fsrcnn:
    """Train FSRCNN at one scale: L1 loss, Adam, one cycle of the rate, and the training patches of OverNet's own runs.

    Args:
        images: the source of the patches.
        scale: a whole number from 2 on.
        steps: of 16 patches of 32x32 low-resolution pixels each.
        report: called with a line now and then.

    Raises:
        InputError: no image is large enough.
    """
    torch.manual_seed(0)
    patches = Patches(images, TrainSettings(scales=(float(scale),), fractional_share=0.0))
    network = Fsrcnn(scale)
    optimiser = torch.optim.Adam(network.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        batch = patches[step]
        loss = functional.l1_loss(network(_luma(batch.low)), _luma(batch.targets[0]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 1000 == 0 or step == steps - 1:
            report(f"x{scale}, step {step}: loss {loss.item():.5f}")
    return network


def _luma(rgb: Tensor) -> Tensor:
    """Return the luma, N x 1 x H x W from 0 to 1, of N x 3 x H x W uint8 images."""
    return torch.einsum("nchw,c->nhw", rgb.float(), torch.tensor(_LUMA))[:, None] / 255


def main() -> None:
    """Train the networks and write their files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images to train on, or a packed file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the ONNX files")
    parser.add_argument("--scale", type=int, nargs="+", default=list(SCALES))
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    if args.steps < 1 or min(args.scale) < 2:
        parser.error("--steps must be at least 1, and --scale at least 2")
    try:
        ensure_folder(args.output)
        with TemporaryDirectory() as folder:
            images = pack([args.data], Path(folder) / "packed", report=print)
            for scale in args.scale:
                network = train_fsrcnn(images, scale, steps=args.steps, report=print)
                with atomic_write(args.output / f"FSRCNN_x{scale}.onnx", overwrite=True) as temporary:
                    onnx.save(network.to_onnx(), str(temporary))
    except OverNetError as error:
        sys.exit(f"fsrcnn: {error}")


if __name__ == "__main__":
    main()
