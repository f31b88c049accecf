"""Regenerate everything that derives from the bundled models: run it when there are better weights of one of them.

    python -m overnet.export.bundle --data ../shared/sets --realtime WEIGHTS --fast WEIGHTS --best WEIGHTS

writes the weights as checkpoints, one ONNX file for each scale, and the model card with the measured quality to
``overnet/weights/``; the table of results to the README, between its markers; and the README's image to ``docs/``. A
model for which no weights are given keeps those that are bundled.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from overnet.errors import OverNetError
from overnet.evaluation.datasets import find_pairs
from overnet.evaluation.measure import Quality, bicubic, evaluate, mean_quality
from overnet.evaluation.side_by_side import largest_gain, side_by_side
from overnet.export.exporter import ExportedFile, export
from overnet.export.graph.builder import rounded
from overnet.export.options import ExportOptions
from overnet.files.atomic import atomic_write
from overnet.imaging.image_io import read_rgb
from overnet.imaging.metrics import psnr_luma
from overnet.imaging.resample import imresize
from overnet.imaging.sample_images import photographs_folder
from overnet.network.checkpoint import NetworkT, folded, load_checkpoint, read_metadata, save_checkpoint, weights_sha256
from overnet.network.family import Network
from overnet.network.model import OverNet, reference
from overnet.types import Image
from overnet.weights import BEST, INT8_MODEL_NAMES, MODEL_NAMES, bundled_checkpoint, bundled_folder, int8_checkpoint

SCALES = (2, 3, 4)

# Checkpoints keep 16 and ONNX files 12 of 24 significant bits of each weight, because the zeros compress well and the
# package stays small. On photographs 12 bits change no pixel by more than one grey level.
_CHECKPOINT_BITS = 16
SIGNIFICANT_BITS = 12

# Side of the detail in the README's image, in pixels of the large image.
_DETAIL = 144
# The photograph in it.
_PHOTOGRAPH = "raccoon.webp"

# From the original's README: three networks, one for each scale, trained on DIV2K for 600,000 steps each.
_PUBLISHED = {
    "Set5": ("38.11 / 0.9608", "34.46 / 0.9273", "32.26 / 0.8958"),
    "Set14": ("33.71 / 0.9183", "30.41 / 0.8429", "28.64 / 0.7821"),
}

_TITLES = {"realtime": "`realtime`", "fast": "`fast`", BEST: "**OverNet, `best`**"}

_COMMAND = "`overnet eval --data Set5 Set14 --scale 2 3 4 --model NAME`"

_README_MARKERS = ("<!-- results: begin -->", "<!-- results: end -->")


@dataclass(frozen=True)
class Bundled:
    """A bundled model: its network, the metadata of its checkpoint, and its ONNX files."""

    name: str
    model: Network
    metadata: dict[str, str]
    files: list[ExportedFile]


@dataclass(frozen=True)
class Measured:
    """Quality of bicubic enlargement, and of each model by its name, on one set at one scale."""

    dataset: str
    scale: int
    bicubic: Quality
    models: dict[str, Quality]


def measure(models: list[Bundled], folder: Path) -> list[Measured]:
    """Measure the models, in PyTorch, and bicubic enlargement on every set in a folder, at every scale."""
    measured = []
    for dataset in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
        for scale in SCALES if dataset.is_dir() else ():
            pairs = find_pairs(dataset, scale)
            qualities = {}
            for one in models:

                def network(image: Image, model: Network = one.model, scale: int = scale) -> Image:
                    return reference(model, image, scale)

                qualities[one.name] = mean_quality(evaluate(network, pairs, scale))
                print(f"{dataset.name} x{scale}, {one.name}: {qualities[one.name].psnr_db:.2f} dB", file=sys.stderr)
            measured.append(
                Measured(dataset.name, scale, mean_quality(evaluate(bicubic(scale), pairs, scale)), qualities)
            )
    return measured


def results_table(measured: list[Measured]) -> str:
    """Return a Markdown table with rows for each set, and a column for each scale, and the command that measures it."""
    lines = ["| PSNR / SSIM on Y | x2 | x3 | x4 |", "|---|---|---|---|"]
    for dataset in dict.fromkeys(item.dataset for item in measured):
        found = [item for item in measured if item.dataset == dataset]
        rows = {"bicubic": [item.bicubic for item in found]}
        rows |= {_TITLES[name]: [item.models[name] for item in found] for name in found[0].models}
        for title, qualities in rows.items():
            cells = " | ".join(f"{quality.psnr_db:.2f} / {quality.ssim:.4f}" for quality in qualities)
            lines.append(f"| {dataset}, {title} | {cells} |")
        if dataset in _PUBLISHED:
            lines.append(
                f"| {dataset}, the original OverNet's weights, as published | {' | '.join(_PUBLISHED[dataset])} |"
            )
    return "\n".join([*lines, "", f"A model's rows: {_COMMAND}."])


def model_card(models: list[Bundled], table: str) -> str:
    """Return the model card's text."""
    sections = "\n".join(_model_section(one) for one in models)
    exported = "\n".join(
        f"| `{file.path.name}` | {file.size_bytes / 1e6:.1f} MB | {file.parity.largest_difference} | "
        f"{file.parity.psnr_db:.1f} dB |"
        for one in models
        for file in one.files
    )
    return f"""# The bundled weights

{sections}
All were trained from scratch, by this project; none has the original authors' weights. No image of Set5, Set14, B100 or
Urban100 was trained on.

## What they are for

Enlarging photographs and video frames that were reduced cleanly. They were not trained to remove noise or compression
artefacts, and enlarge them too. They invent little: where detail is lost it stays soft.

## Quality

On the luma of MATLAB's rgb2ycbcr, a border of `scale` pixels left out, measured in PyTorch when this card was written.
Bicubic is MATLAB's.

{table}

## The ONNX files

Made from these weights by `overnet.export`; uint8 N x H x W x 3 RGB in and out, fp32 inside, weights kept to
{SIGNIFICANT_BITS} significant bits, those of the checkpoints to {_CHECKPOINT_BITS}; `_int8` files compute in INT8.
How far each is from the network in PyTorch, on the export's check images:

| file | size | largest difference in grey levels | PSNR to the network |
|---|---|---|---|
{exported}

Written by `python -m overnet.export.bundle`, like everything in this folder.
"""


def _model_section(bundled: Bundled) -> str:
    model = bundled.model
    parameters = sum(parameter.numel() for parameter in folded(model).parameters())
    if isinstance(model, OverNet):
        shape = (
            f"One OverNet (Behjati et al., WACV 2021): in PyTorch for every scale from 1 to {model.config.overscale}, "
            f"fractional ones too, and as ONNX\nfiles for x2, x3 and x4; "
            f"overscale factor {model.config.overscale}, {parameters:,} parameters with weight "
            "normalisation folded away."
        )
    else:
        config = model.config
        shape = (
            f"One plain network for the scales {', '.join(map(str, config.scales))}: {config.depth + 1} 3x3 "
            f"convolutions of {config.width} channels with {config.activation},\nand one for each scale; "
            f"{parameters:,} parameters when deployed, {config.multiply_accumulates(2):,} multiply-accumulates an "
            "input pixel at x2."
        )
    left_out = ("naming", "weight_norm", "architecture")
    trained = "\n".join(
        f"- {key.replace('_', ' ')}: {value}"
        for key, value in sorted(bundled.metadata.items())
        if key not in left_out and not key.startswith("overnet.")
    )
    return f"""## `{bundled.name}`

{shape}

- file: `{bundled_checkpoint(bundled.name).name}`
- SHA-256 of the weights, as `overnet.network.checkpoint.weights_sha256` gives it: `{weights_sha256(model)}`

How it was trained:

{trained}
"""


def draw_results(model: Network, samples: Path, target: Path) -> None:
    """Draw the README's image: details of the sample at x4 and of a bundled photograph at x2, one below the other.

    Each is upscaled bicubically and by the network, beside the original.

    Args:
        samples: the folder with ``harbour_large.png``, and ``harbour.png``, which is its reduction by 4.
        target: the PNG to write.
    """
    photograph = read_rgb(photographs_folder() / _PHOTOGRAPH)
    halves = photograph.shape[0] // 2, photograph.shape[1] // 2
    half = np.asarray(imresize(photograph, size=halves, edge="replicate"), dtype=np.uint8)
    rows = []
    for low, large, scale in (
        (read_rgb(samples / "harbour.png"), read_rgb(samples / "harbour_large.png"), 4),
        (half, photograph[: 2 * halves[0], : 2 * halves[1]], 2),
    ):
        high = np.ascontiguousarray(large)
        enlarged, network = bicubic(scale)(low), reference(model, low, scale)
        top, left = largest_gain(high, enlarged, network, side=_DETAIL)
        images = {
            f"bicubic x{scale}: {psnr_luma(high, enlarged, border=scale):.2f} dB": enlarged,
            f"OverNet x{scale}: {psnr_luma(high, network, border=scale):.2f} dB": network,
            "the original": high,
        }
        rows.append(side_by_side(images, top=top, left=left, side=_DETAIL, enlarge=2))
    encoded, content = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    if not encoded:
        raise RuntimeError("OpenCV could not encode the image")
    target.parent.mkdir(exist_ok=True)
    with atomic_write(target, overwrite=True) as temporary:
        temporary.write_bytes(content.tobytes())


def bundle(weights: dict[str, Path], data: Path, readme: Path | None) -> None:
    """Regenerate everything that derives from the bundled models.

    Args:
        weights: by the names of `overnet.weights.MODEL_NAMES`: a checkpoint in any form; models that are left out keep
            their bundled weights. With ``_int8`` behind a name: safetensors trained on for INT8 with ``int8=true``.
        data: a folder of evaluation sets; see `overnet.evaluation.datasets.find_pairs`.
        readme: the README to update, or None.
    """
    models = [
        _bundle_model(name, weights.get(name, bundled_checkpoint(name)), weights.get(f"{name}_int8"))
        for name in MODEL_NAMES
    ]
    table = results_table(measure(models, data))
    _write(bundled_folder() / "MODEL_CARD.md", model_card(models, table))
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        begin, end = (text.index(marker) for marker in _README_MARKERS)
        best = next(one.model for one in models if one.name == BEST)
        draw_results(best, readme.parent / "samples", readme.parent / "docs/harbour_x4.png")
        _write(readme, f"{text[: begin + len(_README_MARKERS[0])]}\n\n{table}\n\n{text[end:]}")


def _bundle_model(name: str, weights: Path, for_int8: Path | None) -> Bundled:
    """Write a model's checkpoint and ONNX files to its folder in the package; `for_int8` are weights for INT8 files."""
    model = _compressible(load_checkpoint(weights))
    metadata = read_metadata(weights) if weights.suffix == ".safetensors" else {}
    checkpoint, folder = bundled_checkpoint(name), bundled_folder(name)
    folder.mkdir(exist_ok=True)
    save_checkpoint(model, checkpoint, metadata=metadata)
    stem = "overnet" if name == BEST else name
    options = ExportOptions(scales=SCALES, precision="fp32", significant_bits=SIGNIFICANT_BITS)
    files = [*export(checkpoint, folder, options, name=stem, overwrite=True)]
    if name in INT8_MODEL_NAMES:
        tuned = int8_checkpoint(name)
        if for_int8 is not None:
            save_checkpoint(_compressible(load_checkpoint(for_int8)), tuned, metadata=read_metadata(for_int8))
        source = tuned if tuned.is_file() else checkpoint
        files += export(source, folder, ExportOptions(scales=SCALES, precision="int8"), name=stem, overwrite=True)
    return Bundled(name, model, metadata, files)


def _compressible(model: NetworkT) -> NetworkT:
    """Return the network with plain weights of few significant bits."""
    plain = folded(model)
    with torch.no_grad():
        for weights in plain.parameters():
            weights.copy_(torch.from_numpy(rounded(weights.numpy(), _CHECKPOINT_BITS)))
    return plain


def _write(path: Path, text: str) -> None:
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in MODEL_NAMES:
        parser.add_argument(f"--{name}", type=Path, metavar="WEIGHTS", help=f"a checkpoint to bundle as {name}")
    for name in INT8_MODEL_NAMES:
        parser.add_argument(
            f"--{name}-int8", type=Path, metavar="WEIGHTS", help=f"weights of {name} trained on for INT8"
        )
    parser.add_argument("--data", type=Path, required=True, help="folder of evaluation sets (Set5, Set14)")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="the README to update")
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in (*MODEL_NAMES, *(f"{name}_int8" for name in INT8_MODEL_NAMES))}
    try:
        bundle({name: path for name, path in given.items() if path is not None}, options.data, options.readme)
    except OverNetError as error:
        sys.exit(f"bundle: {error}")


if __name__ == "__main__":
    main()
