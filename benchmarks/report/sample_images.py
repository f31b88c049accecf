"""Pictures for a report's before/after slider: a detail of a real picture as each method enlarges it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from overnet.benchmarks.cases.ground_truth import TruthPicture, middle
from overnet.benchmarks.cases.workload import picture as workload_picture
from overnet.benchmarks.results import SamplePictures
from overnet.evaluation.datasets import evenly_spread, find_pairs, read_pair
from overnet.evaluation.measure import Picture, Upscale, bicubic, cut_to
from overnet.evaluation.side_by_side import largest_gain
from overnet.imaging.resample import imresize

# Of the detail, in pixels of the result: several fit beside each other in a report, and into a file of a few 100 kB.
DETAIL_SIDE = 288
# Larger pictures are cut to their middle before: methods take long on them, and one detail is shown.
_LARGEST_SIDE = 768
# Of a folder, evenly spread over it.
_MOST_TRIED = 8
_COMPRESSION = 9


def make_samples(methods: Mapping[str, Upscale], scale: int, data: Path | None = None) -> list[SamplePictures]:
    """Make the pictures of one scale.

    Of the user's pictures, the one where the first method gains most over bicubic is shown, and of that the square
    where it gains most. Without any, four of the photographs that come with the package are shown side by side.

    Parameters
    ----------
    methods : by the name that they have in the report: h x w x 3 uint8 RGB to scale*h x scale*w x 3 uint8.
    scale : from the low to the high side.
    data : a folder of real pictures in a form that `overnet.evaluation.datasets.find_pairs` understands; None without.

    Returns
    -------
    One set, all of the same detail and size; none where there are no methods.

    Raises
    ------
    InputError : the folder is not as it should be.
    OverNetError : what a method raises.
    """
    if not methods:
        return []
    first, *others = methods
    tried = []
    for picture in [_own(scale)] if data is None else _from_folder(data, scale):
        before = cut_to(bicubic(scale)(picture.low), picture.high)
        after = cut_to(methods[first](picture.low), picture.high)
        tried.append(
            (_squared_error(before, picture.high) - _squared_error(after, picture.high), picture, before, after)
        )
    _, shown, before, after = max(tried, key=lambda each: each[0])
    results = {first: after, **{name: cut_to(methods[name](shown.low), shown.high) for name in others}}
    side = min(DETAIL_SIDE, *shown.high.shape[:2])
    top, left = largest_gain(shown.high, before, after, side=side)

    def detail(picture: Picture) -> str:
        return to_png_text(picture[top : top + side, left : left + side])

    texts = {name: detail(result) for name, result in results.items()}
    return [SamplePictures(shown.name, scale, detail(before), texts, detail(shown.high))]


def _own(scale: int) -> TruthPicture:
    side = DETAIL_SIDE // scale
    high = workload_picture(side * scale, side * scale)
    low = np.asarray(imresize(high, size=(side, side), edge="replicate"), np.uint8)
    return TruthPicture("photographs that come with overnet", low, high)


def _from_folder(data: Path, scale: int) -> Iterator[TruthPicture]:
    for pair in evenly_spread(find_pairs(data, scale), _MOST_TRIED):
        low, high = read_pair(pair, scale)
        yield middle(TruthPicture(pair.name, low, high), scale, _LARGEST_SIDE)


def _squared_error(picture: Picture, expected: Picture) -> float:
    return float(np.mean(np.square(picture.astype(np.float32) - expected.astype(np.float32))))


def to_png_text(picture: Picture) -> str:
    """A picture, H x W x 3 uint8 RGB, as a PNG file in base64.

    Raises
    ------
    ValueError : it has no pixels, or is no such array.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(f"a picture is H x W x 3 uint8; this is {picture.shape} {picture.dtype}")
    written, content = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
    assert written
    return base64.b64encode(content.tobytes()).decode("ascii")
