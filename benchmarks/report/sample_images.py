"""Images for a report's before/after slider: a detail of a real image, upscaled by each method."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from overnet.benchmarks.cases.ground_truth import GroundTruthImage, middle
from overnet.benchmarks.results import SampleImages
from overnet.evaluation.datasets import find_pairs, read_pair, spread_sample
from overnet.evaluation.measure import bicubic, cut_to
from overnet.evaluation.side_by_side import largest_gain
from overnet.imaging.moving_photographs import image as workload_image
from overnet.imaging.resample import imresize
from overnet.types import Image, Upscale

# Height and width of the detail in the upscaled image; several take a few 100 kB in a report.
DETAIL_SIDE = 288
# Larger images are cropped to their centre first, because methods take long on them and only one detail is shown.
_LARGEST_SEARCHED_SIDE = 768
# Images of a folder that are tried, evenly spread over it.
_MOST_TRIED = 8
_COMPRESSION = 9


def make_samples(methods: Mapping[str, Upscale], scale: int, data: Path | None = None) -> list[SampleImages]:
    """Make the images of one scale.

    They show the user's image, and in it the square, in which the first method gains most over bicubic interpolation;
    without a folder, four of the bundled photographs side by side.

    Args:
        methods: by their name in the report: h x w x 3 uint8 RGB to scale*h x scale*w x 3 uint8 RGB.
        scale: from the low-resolution to the high-resolution side.
        data: a folder of real images in a layout that `overnet.evaluation.datasets.find_pairs` knows, or None.

    Returns:
        One set, all of the same detail and size; none without methods.

    Raises:
        InputError: the folder of real images is missing or unusable.
        OverNetError: a method failed.
    """
    if not methods:
        return []
    first, *others = methods
    tried = []
    for image in _images(data, scale):
        before = cut_to(bicubic(scale)(image.low), image.high)
        after = cut_to(methods[first](image.low), image.high)
        tried.append((_squared_error(before, image.high) - _squared_error(after, image.high), image, before, after))
    _, shown, before, after = max(tried, key=lambda each: each[0])
    results = {first: after, **{name: cut_to(methods[name](shown.low), shown.high) for name in others}}
    side = min(DETAIL_SIDE, *shown.high.shape[:2])
    top, left = largest_gain(shown.high, before, after, side=side)

    def detail(image: Image) -> str:
        return to_png_text(image[top : top + side, left : left + side])

    texts = {name: detail(result) for name, result in results.items()}
    return [SampleImages(shown.name, scale, detail(before), texts, detail(shown.high))]


def _images(data: Path | None, scale: int) -> Iterator[GroundTruthImage]:
    if data is None:
        side = DETAIL_SIDE // scale
        high = workload_image(side * scale, side * scale)
        low = np.asarray(imresize(high, size=(side, side), edge="replicate"), np.uint8)
        yield GroundTruthImage("bundled photographs", low, high)
        return
    for pair in spread_sample(find_pairs(data, scale), _MOST_TRIED):
        low, high = read_pair(pair, scale)
        yield middle(GroundTruthImage(pair.name, low, high), scale, _LARGEST_SEARCHED_SIDE)


def _squared_error(image: Image, expected: Image) -> float:
    return float(np.mean(np.square(image.astype(np.float32) - expected.astype(np.float32))))


def to_png_text(image: Image) -> str:
    """Encode an image, H x W x 3 uint8 RGB, as a PNG file in base64.

    Raises:
        ValueError: the array is empty or has another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image is H x W x 3 uint8; this is {image.shape} {image.dtype}")
    written, content = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
    assert written
    return base64.b64encode(content.tobytes()).decode("ascii")
