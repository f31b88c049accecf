"""Pictures that a network in training is measured on: PSNR on luma by the papers' protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from overnet.errors import InputError
from overnet.metrics import psnr_luma
from overnet.model import OverNet
from overnet.packing import PICTURE_SUFFIXES, Picture, decode
from overnet.resample import imresize
from overnet.writing import printable


@dataclass(frozen=True)
class Example:
    """A picture reduced as MATLAB reduces it, what it was reduced from, and the scale."""

    low: Picture
    high: Picture
    scale: int


def load_examples(folder: Path, scales: list[int], *, most: int = 100) -> list[Example]:
    """Make the examples of a folder, each picture at each scale.

    Parameters
    ----------
    folder : pictures in it and below; of sets that come in pairs, the ``*_LR.png`` are left out, and each
        ``image_SRF_<scale>`` serves its own scale.
    scales : whole ones.
    most : pictures a scale; of more, the first are taken.

    Raises
    ------
    InputError : there is none.
    """
    examples = []
    for scale in scales:
        own = folder / f"image_SRF_{scale}"
        paths = sorted(
            path
            for path in (own if own.is_dir() else folder).rglob("*")
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.stem.endswith("_LR")
        )
        if not paths:
            raise InputError(f"{printable(folder)}: there is no picture to validate with")
        for path in paths[:most]:
            high = decode(path.read_bytes())
            high = high[: high.shape[0] // scale * scale, : high.shape[1] // scale * scale]
            if min(high.shape[:2]) <= 2 * scale:
                raise InputError(f"{printable(path)}: too small to validate x{scale} with")
            examples.append(Example(imresize(high, scale=1 / scale, edge="replicate"), high, scale))
    return examples


def upscaled(model: OverNet, low: Picture, scale: float) -> Picture:
    """Upscale one picture, H x W x 3 uint8, as a whole, in float32."""
    device = next(model.parameters()).device
    batch = torch.from_numpy(low).to(device).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        picture = model(batch, scale)[0]
    levels: Picture = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(levels)


def validate(model: OverNet, examples: list[Example]) -> tuple[dict[int, float], list[Picture]]:
    """Measure a network.

    Returns
    -------
    The mean PSNR in dB for each scale, and the upscaled pictures in the order of `examples`.
    """
    pictures = [upscaled(model, example.low, example.scale) for example in examples]
    values: dict[int, list[float]] = {}
    for example, picture in zip(examples, pictures, strict=True):
        values.setdefault(example.scale, []).append(psnr_luma(example.high, picture, border=example.scale))
    return {scale: float(np.mean(each)) for scale, each in values.items()}, pictures
