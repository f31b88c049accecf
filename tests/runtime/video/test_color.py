from pathlib import Path

import av
import numpy as np
import pytest

from overnet.runtime.video.color import ColorTags, RgbDecoder, RgbEncoder, guess_matrix, resolve
from overnet.runtime.video.reader import VideoReader
from tests.support.clips import Clip, from_planes, planes_of, to_planes, upscale, yuv_frame

# Saturated, but inside every gamut used here and off the ends of the scale, so that no clipping hides an error.
COLOURS = [(235, 235, 235), (230, 220, 20), (20, 220, 230), (30, 210, 30), (220, 30, 220), (220, 30, 30), (30, 30, 220)]
BAR = 16
CENTRES = np.arange(len(COLOURS)) * BAR + BAR // 2
KEPT = [
    pytest.param(6, False, id="bt601"),
    pytest.param(5, False, id="bt601-pal"),
    pytest.param(1, False, id="bt709"),
    pytest.param(9, False, id="bt2020"),
    pytest.param(7, False, id="smpte240m"),
    pytest.param(1, True, id="bt709-full"),
    pytest.param(6, True, id="bt601-full"),
]


def bars(width: int = BAR * len(COLOURS), height: int = 32) -> np.ndarray:
    image = np.full((height, width, 3), 128, np.uint8)
    for number, colour in enumerate(COLOURS):
        image[:, number * BAR : (number + 1) * BAR] = colour
    return image


def bars_clip(path: Path, matrix: int, *, full: bool = False, tagged: bool = True, image: np.ndarray | None = None):
    image = bars() if image is None else image
    frames = [yuv_frame(to_planes(image, matrix, full=full), "yuv420p") for _ in range(3)]
    tags = (matrix, 2 if full else 1, 9 if matrix == 9 else 1, 1) if tagged else None
    return Clip(frames=frames, tags=tags, options={"qp": "0"}).make(path)


def shown_by_a_player(path: Path, scale: int, *, matrix: int | None = None) -> np.ndarray:
    """The bars' colours in the middle line, computed by definition from the stored samples and the file's own tags."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        used = matrix or int(context.colorspace)
        rgb = from_planes(planes_of(frame), used, full=int(context.color_range) == 2)
    return rgb[rgb.shape[0] // 2, CENTRES * scale + scale // 2]


@pytest.mark.parametrize(("matrix", "full"), KEPT)
def test_colours_and_tags_survive(tmp_path, matrix, full):
    source = bars_clip(tmp_path / "in.mp4", matrix, full=full)
    assert np.abs(shown_by_a_player(source, 1) - COLOURS).max() < 2
    with VideoReader(source) as reader:
        rgb = next(iter(reader)).rgb
        assert reader.info.color.matrix == matrix
        assert reader.info.color.full_range is full
    assert np.abs(rgb[16, CENTRES].astype(int) - COLOURS).max() <= 2

    output = upscale(source, tmp_path / "out.mp4", crf=1).path
    assert np.abs(shown_by_a_player(output, 2) - COLOURS).max() <= 4
    with av.open(str(output)) as container:
        context = container.streams.video[0].codec_context
        expected = (matrix, 2 if full else 1, 9 if matrix == 9 else 1, 1)
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == expected
    if not full:
        # The container's own tag, which players on Apple systems trust.
        assert b"colrnclx" in output.read_bytes()


@pytest.mark.parametrize(("matrix", "other"), [(6, 1), (1, 6), (9, 6), (6, 9), (9, 1)])
def test_a_swapped_matrix_would_be_noticed(tmp_path, matrix, other):
    source = bars_clip(tmp_path / "in.mp4", matrix)
    output = upscale(source, tmp_path / "out.mp4", crf=1).path
    assert np.abs(shown_by_a_player(output, 2, matrix=other) - COLOURS).max() > 8
    with VideoReader(source) as reader:
        decode = RgbDecoder(ColorTags(other, 2, 2, False), width=reader.info.width, height=reader.info.height)
    with av.open(str(source)) as container:
        rgb = decode(next(container.decode(video=0)))
    assert np.abs(rgb[16, CENTRES].astype(int) - COLOURS).max() > 8


def test_a_swapped_range_would_be_noticed(tmp_path):
    source = bars_clip(tmp_path / "in.mp4", 1)
    with av.open(str(source)) as container:
        frame = next(container.decode(video=0))
    rgb = RgbDecoder(ColorTags(1, 2, 2, True), width=frame.width, height=frame.height)(frame)
    assert np.abs(rgb[16, CENTRES].astype(int) - COLOURS).max() > 8


def test_an_untagged_small_video_is_tagged_bt601_however_large_it_gets(tmp_path):
    image = bars(width=400)
    source = bars_clip(tmp_path / "in.mp4", 6, tagged=False, image=image)
    with VideoReader(source) as reader:
        assert reader.info.color_as_tagged.matrix == 2
        assert reader.info.color.matrix == 6
    # 1600 pixels wide: without a tag a player would now guess BT.709.
    output = upscale(source, tmp_path / "out.mp4", scale=4, crf=1).path
    with av.open(str(output)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (6, 2, 2)
    assert np.abs(shown_by_a_player(output, 4) - COLOURS).max() <= 4


def test_an_untagged_wide_video_is_bt709(tmp_path):
    source = bars_clip(tmp_path / "in.mp4", 1, tagged=False, image=bars(width=1280, height=16))
    with VideoReader(source) as reader:
        assert reader.info.color.matrix == 1
        assert np.abs(next(iter(reader)).rgb[8, CENTRES].astype(int) - COLOURS).max() <= 2


def test_ten_bit_is_read_as_eight_with_a_note(tmp_path):
    planes = to_planes(bars(), 9, full=False, bits=10)
    frames = [yuv_frame(planes, "yuv420p10le") for _ in range(2)]
    source = Clip(frames=frames, codec="ffv1", pixel_format="yuv420p10le", tags=(9, 1, 9, 14)).make(tmp_path / "a.mkv")
    with VideoReader(source) as reader:
        assert reader.info.bit_depth == 10
        assert reader.notes == ["10-bit input is read and encoded as 8 bit"]
        assert np.abs(next(iter(reader)).rgb[16, CENTRES].astype(int) - COLOURS).max() <= 2


@pytest.mark.parametrize(
    ("stored_range", "stored", "shown"), [(0, 200, 200), (2, 200, 200), (1, 235, 255), (1, 126, 128)]
)
def test_grey(tmp_path, stored_range, stored, shown):
    frames = [yuv_frame([np.full((32, 32), stored, np.uint8)], "gray") for _ in range(2)]
    tags = (2, stored_range, 2, 2)
    source = Clip(frames=frames, codec="ffv1", pixel_format="gray", tags=tags).make(tmp_path / "in.mkv")
    with VideoReader(source) as reader:
        assert (next(iter(reader)).rgb == shown).all()
    output = upscale(source, tmp_path / "out.mp4").path
    with VideoReader(output) as reader:
        assert np.abs(next(iter(reader)).rgb.astype(int) - shown).max() <= 2


def test_hdr_keeps_its_tags(tmp_path):
    frames = [yuv_frame(to_planes(bars(), 9, full=False), "yuv420p") for _ in range(2)]
    source = Clip(frames=frames, tags=(9, 1, 9, 16)).make(tmp_path / "in.mp4")
    result = upscale(source, tmp_path / "out.mp4")
    assert any("HDR" in note for note in result.notes)
    with av.open(str(result.path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (9, 9, 16)


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 9, 10])
@pytest.mark.parametrize("full", [False, True])
def test_there_and_back_is_within_rounding(matrix, full):
    tags = ColorTags(matrix, 2, 2, full)
    image = bars()
    frame = RgbEncoder(tags, pixel_format="yuv444p")(image)
    back = RgbDecoder(tags, width=image.shape[1], height=image.shape[0])(frame)
    assert np.abs(back.astype(int) - image).max() <= 2


def test_a_matrix_nobody_can_convert_cancels_out():
    tags = ColorTags(8, 2, 2, False)
    assert not tags.matrix_is_known
    frame = RgbEncoder(tags, pixel_format="yuv444p")(bars())
    back = RgbDecoder(tags, width=frame.width, height=frame.height)(frame)
    assert np.abs(back.astype(int) - bars()).max() <= 2


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(640, 480, 6), (720, 576, 6), (1280, 720, 1), (1280, 544, 1), (960, 720, 1)]
)
def test_guess(width, height, matrix):
    assert guess_matrix(width, height) == matrix
    untagged = ColorTags(2, 2, 2, True)
    assert resolve(untagged, width=width, height=height, has_matrix=True) == ColorTags(matrix, 2, 2, True)
    assert resolve(untagged, width=width, height=height, has_matrix=False) == ColorTags(matrix, 2, 2, False)


def test_a_tag_is_believed_whatever_the_size():
    tagged = ColorTags(6, 6, 6, False)
    assert resolve(tagged, width=1920, height=1080, has_matrix=True) == tagged
