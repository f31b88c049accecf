"""Regenerate everything that derives from the bundled weights: run it when there are better ones.

    python -m overnet.export.bundle WEIGHTS --data ../shared/sets

writes the weights as a checkpoint, one ONNX file for each scale, and the model card with the measured quality to
``overnet/weights/``; the table of results to the README, between its markers; and the README's image to ``docs/``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2

from overnet.errors import OverNetError
from overnet.evaluation.datasets import find_pairs
from overnet.evaluation.measure import Quality, bicubic, evaluate, mean_quality
from overnet.evaluation.side_by_side import largest_gain, side_by_side
from overnet.export.exporter import ExportedFile, export
from overnet.export.options import ExportOptions
from overnet.files.atomic import atomic_write
from overnet.imaging.image_io import read_rgb
from overnet.imaging.metrics import psnr_luma
from overnet.network.checkpoint import folded, load_overnet, read_metadata, save_checkpoint, weights_sha256
from overnet.network.model import OverNet, reference
from overnet.types import Image
from overnet.weights import CHECKPOINT_NAME, bundled_folder

SCALES = (2, 3, 4)

# The ONNX files keep 16 of 24 significant bits of each weight, because the zeros compress well and the package stays
# small. On photographs this changes no pixel by more than one grey level.
SIGNIFICANT_BITS = 16

# Side of the detail in the README's image, in pixels of the large image.
_DETAIL = 144

# From the original's README: three networks, one for each scale, trained on DIV2K for 600,000 steps each.
_PUBLISHED = {
    "Set5": ("38.11 / 0.9608", "34.46 / 0.9273", "32.26 / 0.8958"),
    "Set14": ("33.71 / 0.9183", "30.41 / 0.8429", "28.64 / 0.7821"),
}

_README_MARKERS = ("<!-- results: begin -->", "<!-- results: end -->")


@dataclass(frozen=True)
class Measured:
    """Quality of the network and of bicubic enlargement on one set at one scale."""

    dataset: str
    scale: int
    network: Quality
    bicubic: Quality


def measure(model: OverNet, folder: Path) -> list[Measured]:
    """Measure the network, in PyTorch, and bicubic enlargement on every set in a folder, at every scale."""
    measured = []
    for dataset in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
        for scale in SCALES if dataset.is_dir() else ():
            pairs = find_pairs(dataset, scale)

            def network(image: Image, scale: int = scale) -> Image:
                return reference(model, image, scale)

            qualities = [mean_quality(evaluate(upscale, pairs, scale)) for upscale in (network, bicubic(scale))]
            measured.append(Measured(dataset.name, scale, *qualities))
            print(f"{dataset.name} x{scale}: {qualities[0].psnr_db:.2f} dB", file=sys.stderr)
    return measured


def results_table(measured: list[Measured]) -> str:
    """Return a Markdown table with rows for each set, and a column for each scale."""
    lines = ["| PSNR / SSIM on Y | x2 | x3 | x4 |", "|---|---|---|---|"]
    for dataset in dict.fromkeys(item.dataset for item in measured):
        rows = [item for item in measured if item.dataset == dataset]
        for name, qualities in (
            ("bicubic", [row.bicubic for row in rows]),
            ("**OverNet, bundled weights**", [row.network for row in rows]),
        ):
            cells = " | ".join(f"{quality.psnr_db:.2f} / {quality.ssim:.4f}" for quality in qualities)
            lines.append(f"| {dataset}, {name} | {cells} |")
        if dataset in _PUBLISHED:
            lines.append(f"| {dataset}, the original's weights, as published | {' | '.join(_PUBLISHED[dataset])} |")
    return "\n".join(lines)


def model_card(model: OverNet, metadata: dict[str, str], files: list[ExportedFile], table: str) -> str:
    """Return the model card's text."""
    trained = "\n".join(
        f"- {key.replace('_', ' ')}: {value}"
        for key, value in sorted(metadata.items())
        if key not in ("overnet.config", "naming", "weight_norm", "architecture")
    )
    exported = "\n".join(
        f"| `{file.path.name}` | {file.size_bytes / 1e6:.1f} MB | {file.parity.largest_difference} | "
        f"{file.parity.psnr_db:.1f} dB |"
        for file in files
    )
    parameters = sum(parameter.numel() for parameter in folded(model).parameters())
    return f"""# The bundled weights

One OverNet (Behjati et al., WACV 2021) for every scale from 1 to {model.config.overscale}, fractional ones too:
overscale factor {model.config.overscale}, {parameters:,} parameters with weight normalisation folded away.

- file: `{CHECKPOINT_NAME}`
- SHA-256 of the weights, as `overnet.network.checkpoint.weights_sha256` gives it: `{weights_sha256(model)}`

## How it was trained

From scratch, by this project; not the original authors' weights.

{trained}

No image of Set5, Set14, B100 or Urban100 was trained on.

## What it is for

Enlarging photographs and video frames that were reduced cleanly. It was not trained to remove noise or compression
artefacts, and enlarges them too. It invents little: where detail is lost it stays soft rather than making things up.

## Quality

On the luma of MATLAB's rgb2ycbcr, a border of `scale` pixels left out, measured in PyTorch when this card was written.
Bicubic is MATLAB's.

{table}

## The ONNX files

Made from these weights by `overnet.export`; uint8 N x H x W x 3 RGB in and out, fp32 inside, weights kept to
{SIGNIFICANT_BITS} significant bits. How far each is from the network in PyTorch, on the export's check images:

| file | size | largest difference in grey levels | PSNR to the network |
|---|---|---|---|
{exported}

Written by `python -m overnet.export.bundle`, like everything in this folder.
"""


def draw_results(model: OverNet, samples: Path, target: Path) -> None:
    """Draw the README's image: a detail of the sample, upscaled bicubically, by the network, and in the original.

    Args:
        samples: the folder with ``harbour_large.png``, and ``harbour.png``, which is its reduction by 4.
        target: the PNG to write.
    """
    low, high = read_rgb(samples / "harbour.png"), read_rgb(samples / "harbour_large.png")
    enlarged, network = bicubic(4)(low), reference(model, low, 4)
    top, left = largest_gain(high, enlarged, network, side=_DETAIL)
    images = {
        f"bicubic x4: {psnr_luma(high, enlarged, border=4):.2f} dB": enlarged,
        f"OverNet x4: {psnr_luma(high, network, border=4):.2f} dB": network,
        "the original": high,
    }
    drawn = side_by_side(images, top=top, left=left, side=_DETAIL, enlarge=2)
    encoded, content = cv2.imencode(".png", drawn[..., ::-1])
    if not encoded:
        raise RuntimeError("OpenCV could not encode the image")
    target.parent.mkdir(exist_ok=True)
    with atomic_write(target, overwrite=True) as temporary:
        temporary.write_bytes(content.tobytes())


def bundle(weights: Path, data: Path, folder: Path, readme: Path | None) -> None:
    """Regenerate everything that derives from a checkpoint.

    Args:
        weights: a checkpoint in any form.
        data: a folder of evaluation sets; see `overnet.evaluation.datasets.find_pairs`.
        folder: the folder for the bundled files.
        readme: the README to update, or None.
    """
    model = load_overnet(weights)
    metadata = read_metadata(weights) if weights.suffix == ".safetensors" else {}
    checkpoint = folder / CHECKPOINT_NAME
    save_checkpoint(folded(model), checkpoint, metadata=metadata)
    options = ExportOptions(scales=SCALES, precision="fp32", significant_bits=SIGNIFICANT_BITS)
    files = list(export(checkpoint, folder, options, name="overnet", overwrite=True))
    table = results_table(measure(model, data))
    _write(folder / "MODEL_CARD.md", model_card(model, metadata, files, table))
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        begin, end = (text.index(marker) for marker in _README_MARKERS)
        draw_results(model, readme.parent / "samples", readme.parent / "docs/harbour_x4.png")
        _write(readme, f"{text[: begin + len(_README_MARKERS[0])]}\n\n{table}\n\n{text[end:]}")


def _write(path: Path, text: str) -> None:
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the checkpoint to bundle")
    parser.add_argument("--data", type=Path, required=True, help="folder of evaluation sets (Set5, Set14)")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="the README to update")
    options = parser.parse_args()
    try:
        bundle(options.weights, options.data, bundled_folder(), options.readme)
    except OverNetError as error:
        sys.exit(f"bundle: {error}")


if __name__ == "__main__":
    main()
