"""Images in and out, checked against Pillow, which shares no code with OpenCV's readers but the format libraries."""

import errno
import io
import os
import random
import struct
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.TiffImagePlugin import IFDRational

from overnet.errors import InputError, MissingDependency, OutputError
from overnet.imaging import image_write
from overnet.imaging.formats.jpeg import MOST_JPEG_EXIF
from overnet.imaging.formats.png import png_chunk
from overnet.imaging.formats.tiff import exif_for_size
from overnet.imaging.image_io import IMAGE_SUFFIXES, DecodedImage, read_image, read_rgb
from overnet.imaging.image_write import write_image
from tests.support import image_files

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
CMYK_PROFILE = SRGB[:16] + b"CMYK" + SRGB[20:]
LOSSLESS = [".png", ".tiff", ".tif", ".bmp"]


def samples(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height=24, width=40):
    """Colours that lossy formats keep well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 3], axis=2).clip(0, 255).astype(np.uint8)


def make_image(*, dtype=np.uint8, grey=False, alpha=False, exif=None, icc_profile=None):
    rgb = samples(13, 17, 3, dtype=dtype)
    if grey:
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
    return DecodedImage(rgb, samples(13, 17, dtype=dtype, seed=1) if alpha else None, grey, exif, icc_profile)


def make_exif(orientation=6, *, width=40, order=">", thumbnail=False):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    exif[0x0100] = width
    exif.get_ifd(0x8769).update({0xA002: width, 0xA003: 24, 0x9003: "2020:01:02 03:04:05", 0x829A: IFDRational(1, 50)})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    if thumbnail:  # a second directory of one field, as cameras append it
        (count,) = struct.unpack_from(order + "H", block, 8)
        pointer = 8 + 2 + 12 * count
        second = struct.pack(order + "HHHIHHI", 1, 0x0103, 3, 1, 6, 0, 0)
        block = block[:pointer] + struct.pack(order + "I", len(block)) + block[pointer + 4 :] + second
    return block


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read_bytes(folder, data, **options):
    path = folder / "image"
    path.write_bytes(data)
    return read_image(path, **options)


def names(folder):
    return [path.name for path in folder.iterdir()]


def tiff(pixels, photometric, *, extra=None, order="<", planar=1, sample_format=1, following=0, shift=0):
    """An uncompressed TIFF of layouts that Pillow does not write."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    planes = np.moveaxis(pixels, 2, 0) if planar == 2 else pixels
    raw = planes.astype(pixels.dtype.newbyteorder(order)).tobytes()
    parts = channels if planar == 2 else 1
    size = len(raw) // parts
    fields = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [8 * pixels.itemsize] * channels),
        (259, "H", [1]),
        (262, "H", [photometric]),
        (273, "I", [8 + shift + part * size for part in range(parts)]),
        (277, "H", [channels]),
        (278, "I", [height]),
        (279, "I", [size] * parts),
        (284, "H", [planar]),
        *([(338, "H", [extra])] if extra is not None else []),
        (339, "H", [sample_format] * channels),
    ]
    raw += bytes(len(raw) % 2)
    directory = struct.pack(order + "H", len(fields))
    values = b""
    first_value = 8 + len(raw) + 2 + 12 * len(fields) + 4
    for tag, code, numbers in fields:
        value = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(numbers))
        if len(value) > 4:
            directory += struct.pack(order + "I", first_value + len(values))
            values += value
        else:
            directory += value.ljust(4, b"\0")
    directory += struct.pack(order + "I", following)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(raw)) + raw + directory + values


# Round trips


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_formats_give_back_what_they_can_hold_exactly(tmp_path, suffix, dtype, grey, alpha):
    image = make_image(dtype=dtype, grey=grey, alpha=alpha)
    path = tmp_path / f"image{suffix}"
    notes = write_image(image, path)
    back = read_image(path)
    expected = image.rgb
    if suffix == ".bmp":
        expected = np.round(image.rgb / 257).astype(np.uint8) if dtype == np.uint16 else image.rgb
        assert len(notes) == (dtype == np.uint16) + alpha
        assert back.alpha is None
    else:
        assert notes == []
        assert (back.alpha is None) == (not alpha)
        if alpha:
            np.testing.assert_array_equal(back.alpha, image.alpha)
    np.testing.assert_array_equal(back.rgb, expected)
    assert back.rgb.dtype == expected.dtype
    assert back.grey == (grey and not (alpha and "tif" in suffix))
    assert (back.exif, back.icc_profile, back.notes) == (None, None, ())
    with Image.open(path) as seen:
        assert seen.size == (17, 13)
        if dtype == np.uint8:  # Pillow reduces deep colours
            mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
            stored_alpha = alpha and suffix != ".bmp"
            assert seen.mode == mode[(1 if back.grey else 3) + stored_alpha]
            np.testing.assert_array_equal(np.asarray(seen.convert("RGB")), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".JPG"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossy_formats_come_close(tmp_path, suffix, grey, alpha):
    rgb = smooth()
    if grey:
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
    mask = smooth()[..., 1] if alpha else None
    path = tmp_path / f"image{suffix}"
    notes = write_image(DecodedImage(rgb, mask, grey, None, None), path)
    back = read_image(path)
    if suffix == ".webp":
        assert notes == []
        assert not back.grey
        if alpha:
            np.testing.assert_array_equal(back.alpha, mask)
    else:
        assert len(notes) == alpha
        assert back.grey == grey
        assert back.alpha is None
    visible = np.ones(rgb.shape[:2], bool) if back.alpha is None else back.alpha > 0
    assert np.abs(back.rgb.astype(int) - rgb)[visible].mean() < 3


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_sixteen_bits_are_rounded_for_formats_of_eight(tmp_path, suffix):
    deep = smooth().astype(np.uint16) * 257
    path = tmp_path / f"image{suffix}"
    notes = write_image(DecodedImage(deep, None, False, None, None), path)
    assert len(notes) == 1
    assert "16" in notes[0]
    assert np.abs(read_image(path).rgb.astype(int) - smooth()).mean() < 3


def test_every_sixteen_bit_level_is_rounded_to_the_nearest(tmp_path):
    levels = np.repeat(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1), 3, axis=2)
    write_image(DecodedImage(levels, None, False, None, None), tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp").rgb, np.round(levels / 257))


def test_every_grey_level_is_written_exactly(tmp_path):
    levels = np.repeat(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1), 3, axis=2)
    write_image(DecodedImage(levels, None, True, None, None), tmp_path / "a.png")
    back = read_image(tmp_path / "a.png")
    assert back.grey
    np.testing.assert_array_equal(back.rgb, levels)


def test_jpeg_with_an_opencv_too_old_for_full_colour(tmp_path, monkeypatch):
    """Ubuntu's OpenCV on a Jetson, 4.5 and 4.6, lacks the option: the file is written all the same."""
    cv2 = pytest.importorskip("cv2")
    monkeypatch.delattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR")
    image = DecodedImage(samples(16, 24, 3), None, False, None, None)
    write_image(image, tmp_path / "p.jpg")
    assert read_image(tmp_path / "p.jpg").rgb.shape == (16, 24, 3)


def test_jpeg_is_written_without_chroma_subsampling_and_quality_counts(tmp_path):
    image = DecodedImage(samples(64, 64, 3), None, False, None, None)
    write_image(image, tmp_path / "a.jpg")
    write_image(image, tmp_path / "b.jpg", quality=30)
    with Image.open(tmp_path / "a.jpg") as seen:
        assert {sampling[1:3] for sampling in seen.layer} == {(1, 1)}
    assert (tmp_path / "b.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size / 2


def test_pixels_that_are_views_are_written(tmp_path):
    rgb = samples(13, 34, 3)[:, ::2]
    write_image(DecodedImage(rgb, None, False, None, None), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, rgb)


# Files by other programs


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_files_by_pillow_are_read_as_pillow_reads_them(tmp_path, kind, mode):
    image = Image.fromarray(samples(13, 17, 3)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(samples(13, 17, seed=1)))
    data = encoded(image, kind)
    back = read_bytes(tmp_path, data)
    np.testing.assert_array_equal(back.rgb, np.asarray(image.convert("RGB")))
    assert back.grey == (mode in "1L")
    if mode == "RGBA" and kind != "BMP":
        np.testing.assert_array_equal(back.alpha, np.asarray(image)[..., 3])
    elif kind != "BMP":
        assert back.alpha is None


def test_grey_png_with_alpha(tmp_path):
    image = Image.merge("LA", [Image.fromarray(samples(13, 17)), Image.fromarray(samples(13, 17, seed=1))])
    back = read_bytes(tmp_path, encoded(image, "PNG"))
    assert back.grey
    np.testing.assert_array_equal(back.rgb, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(back.alpha, np.asarray(image)[..., 1])


@pytest.mark.parametrize(("mode", "colour"), [("P", 3), ("L", 200), ("RGB", (250, 10, 20))])
def test_one_transparent_colour_in_png(tmp_path, mode, colour):
    pixels = smooth()
    pixels[3, 4] = (250, 10, 20)
    image = Image.fromarray(pixels).convert(mode)
    image.putpixel((4, 3), colour)
    data = encoded(image, "PNG", transparency=colour)
    with Image.open(io.BytesIO(data)) as seen:
        expected = np.asarray(seen.convert("RGBA"))[..., 3]
    assert expected[3, 4] == 0
    back = read_bytes(tmp_path, data)
    assert back.grey == (mode == "L")
    np.testing.assert_array_equal(back.alpha, expected)


def test_two_bit_grey_png_with_a_transparent_level(tmp_path):
    header = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"tRNS", b"\0\x02")
    data += png_chunk(b"IDAT", zlib.compress(b"\0\x1b")) + png_chunk(b"IEND", b"")
    back = read_bytes(tmp_path, data)
    assert back.rgb[0, :, 0].tolist() == [0, 85, 170, 255]
    assert back.alpha.tolist() == [[255, 255, 0, 255]]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits", "group4"])
def test_compressed_tiff(tmp_path, compression):
    image = Image.fromarray(smooth()).convert("1" if compression == "group4" else "RGB")
    back = read_bytes(tmp_path, encoded(image, "TIFF", compression=compression))
    np.testing.assert_array_equal(back.rgb, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_ppm_and_pgm(tmp_path, mode):
    image = Image.fromarray(samples(13, 17, 3)).convert(mode)
    data = encoded(image, "PPM")
    back = read_bytes(tmp_path, data)
    np.testing.assert_array_equal(back.rgb, np.asarray(image.convert("RGB")))
    assert back.grey == (mode == "L")
    for damaged in (data[:-1], data[:5], data.replace(b"17 13", b"0 13")):
        with pytest.raises(InputError):
            read_bytes(tmp_path, damaged)


def test_read_rgb_gives_eight_bits_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.rot90(smooth(), -1))
    cv2.imwrite(str(tmp_path / "b.png"), smooth()[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), smooth())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_layouts(tmp_path, order, dtype):
    most = np.iinfo(dtype).max
    grey, rgb, rgba = (samples(8, 16, *channels, dtype=dtype) for channels in ((), (3,), (4,)))
    np.testing.assert_array_equal(read_bytes(tmp_path, tiff(grey, 1, order=order)).rgb[..., 0], grey)
    np.testing.assert_array_equal(read_bytes(tmp_path, tiff(grey, 0, order=order)).rgb[..., 0], most - grey)
    np.testing.assert_array_equal(read_bytes(tmp_path, tiff(rgb, 2, order=order)).rgb, rgb)
    for extra in (None, 0, 2):
        back = read_bytes(tmp_path, tiff(rgba, 2, order=order, extra=extra))
        np.testing.assert_array_equal(back.rgb, rgba[..., :3])
        if extra == 0:
            assert back.alpha is None
            assert "ExtraSamples 0" in back.notes[0]
        else:
            np.testing.assert_array_equal(back.alpha, rgba[..., 3])
    if dtype == np.uint8:
        np.testing.assert_array_equal(read_bytes(tmp_path, tiff(rgb, 2, order=order, planar=2)).rgb, rgb)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_with_colours_multiplied_by_alpha(tmp_path, dtype):
    most = int(np.iinfo(dtype).max)
    alpha = np.maximum(samples(8, 16, dtype=dtype, seed=1), most // 2)
    rgb = samples(8, 16, 3, dtype=dtype)
    stored = np.round(rgb.astype(float) * alpha[..., None] / most).astype(dtype)
    back = read_bytes(tmp_path, tiff(np.dstack([stored, alpha]), 2, extra=1))
    assert np.abs(back.rgb.astype(int) - rgb).max() <= 1
    np.testing.assert_array_equal(back.alpha, alpha)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.fromarray(smooth()).convert("F"), "TIFF"), "32 bits"),
        (encoded(Image.fromarray(smooth()).convert("LAB"), "TIFF"), "cannot be read"),
        (encoded(Image.fromarray(smooth()).convert("LA"), "TIFF"), "grey TIFF with transparency"),
        (tiff(samples(8, 8, 3), 2, sample_format=2), "signed"),
        (tiff(samples(8, 8, 3, dtype=np.uint16), 2, planar=2), "separate colour planes"),
        (tiff(samples(8, 8, 4, dtype=np.uint16), 5), "cannot be read"),
        (tiff(samples(8, 8, 5), 2), "cannot be read"),
        (b"II+\0" + bytes(100), "BigTIFF"),
        (encoded(Image.fromarray(smooth()), "GIF"), "GIF"),
        (b"\0\0\0\x1cftypavif" + bytes(100), "damaged, or AVIF"),
        (b"hello", "is not a PNG"),
        (b"", "is empty"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, data, reason):
    with pytest.raises(InputError, match=reason) as caught:
        read_bytes(tmp_path, data)
    assert str(tmp_path / "image") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_and_its_profile_dropped_with_notes(tmp_path, kind):
    image = Image.fromarray(smooth()).convert("CMYK")
    options = {"quality": 100} if kind == "JPEG" else {}
    back = read_bytes(tmp_path, encoded(image, kind, icc_profile=CMYK_PROFILE, **options))
    assert back.alpha is None
    assert np.abs(back.rgb.astype(int) - np.asarray(image.convert("RGB"))).mean() < 3
    assert back.icc_profile is None
    assert len(back.notes) == 2
    assert all("CMYK" in note for note in back.notes)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(tmp_path, kind):
    first, second = Image.fromarray(samples(8, 8, 3)), Image.fromarray(samples(8, 8, 3, seed=1))
    with pytest.raises(InputError, match="animated"):
        read_bytes(tmp_path, encoded(first, kind, save_all=True, append_images=[second]))


def test_several_pages_are_refused_but_reduced_versions_are_not(tmp_path):
    first, second = Image.fromarray(samples(8, 8, 3)), Image.fromarray(samples(4, 4, 3))
    with pytest.raises(InputError, match="several pages"):
        read_bytes(tmp_path, encoded(first, "TIFF", save_all=True, append_images=[second]))
    data = bytearray(tiff(samples(8, 8), 1))
    reduced = struct.pack("<HHHIII", 1, 254, 4, 1, 1, 0)
    (offset,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, offset)
    struct.pack_into("<I", data, offset + 2 + 12 * count, len(data))
    np.testing.assert_array_equal(read_bytes(tmp_path, bytes(data) + reduced).rgb[..., 0], samples(8, 8))


# Metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_is_carried_and_not_applied(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(smooth())
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    data = encoded(image, kind, exif=exif, **options)
    back = read_bytes(tmp_path, data)
    assert back.rgb.shape == (24, 40, 3)
    assert np.abs(back.rgb.astype(int) - smooth()).mean() < 3
    out = tmp_path / f"out.{kind.lower()}"
    assert write_image(back, out) == []
    with Image.open(out) as seen:
        assert seen.getexif()[274] == orientation
        with Image.open(io.BytesIO(data)) as before:
            upright = np.asarray(ImageOps.exif_transpose(before).convert("RGB")).astype(int)
        assert np.abs(np.asarray(ImageOps.exif_transpose(seen).convert("RGB")) - upright).mean() < 3


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_metadata_goes_from_each_format_to_each(tmp_path, source, suffix, alpha):
    image = Image.fromarray(smooth()).convert("RGBA" if alpha and source != "JPEG" else "RGB")
    if image.mode == "RGBA":
        image.putalpha(Image.fromarray(smooth()[..., 1]))
    data = encoded(image, source, exif=b"Exif\0\0" + make_exif(), icc_profile=SRGB)
    back = read_bytes(tmp_path, data)
    assert back.icc_profile == SRGB
    assert back.notes == ()
    larger = DecodedImage(
        np.repeat(np.repeat(back.rgb, 2, 0), 2, 1),
        None if back.alpha is None else np.repeat(np.repeat(back.alpha, 2, 0), 2, 1),
        back.grey,
        back.exif,
        back.icc_profile,
    )
    out = tmp_path / f"out{suffix}"
    notes = write_image(larger, out)
    assert len(notes) == (suffix == ".jpg" and larger.alpha is not None)
    with Image.open(out) as seen:
        assert seen.info["icc_profile"] == SRGB
        exif = seen.getexif()
        assert (exif[274], exif[0x010F]) == (6, "Maker")
        camera = exif.get_ifd(0x8769)
        assert (camera[0xA002], camera[0xA003]) == (80, 48)
        assert camera[0x9003] == "2020:01:02 03:04:05"
        assert float(camera[0x829A]) == pytest.approx(1 / 50)
        assert exif.get_ifd(0x8825)[2] == (1.0, 2.0, 3.0)
        seen.load()
        # Pillow turns TIFF images while it loads them.
        assert seen.size == ((48, 80) if suffix == ".tif" else (80, 48))
    again = read_image(out)
    assert (again.icc_profile, again.notes) == (SRGB, ())


@pytest.mark.parametrize("order", ["<", ">"])
def test_sizes_are_set_and_the_thumbnail_is_dropped(order):
    exif = make_exif(order=order, thumbnail=True)
    assert exif[:2] == (b"II" if order == "<" else b"MM")
    # Too large for the SHORT that was there.
    changed = exif_for_size(exif, width=100_000, height=90_000)
    assert len(changed) == len(exif)
    before, after = Image.Exif(), Image.Exif()
    before.load(exif)
    after.load(changed)
    assert before.get_ifd(ExifTags.IFD.IFD1) == {0x0103: 6}
    assert after.get_ifd(ExifTags.IFD.IFD1) == {}
    assert (after[0x0100], after[0x0112]) == (100_000, 6)
    assert after.get_ifd(0x8769) == before.get_ifd(0x8769) | {0xA002: 100_000, 0xA003: 90_000}


def test_formats_without_exif_get_the_pixels_turned(tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        block = exif.tobytes().removeprefix(b"Exif\0\0")
        path = tmp_path / f"{orientation}.bmp"
        notes = write_image(DecodedImage(smooth(), None, False, block, SRGB), path)
        assert len(notes) == 2
        assert ("upright" in notes[0]) == (orientation != 1)
        data = encoded(Image.fromarray(smooth()), "PNG", exif=exif)
        with Image.open(io.BytesIO(data)) as seen:
            upright = np.asarray(ImageOps.exif_transpose(seen))
        np.testing.assert_array_equal(read_image(path).rgb, upright)


def test_an_exif_block_too_large_for_jpeg_is_dropped_with_a_note(tmp_path):
    exif = make_exif()
    image = DecodedImage(smooth(), None, False, exif + bytes(MOST_JPEG_EXIF - len(exif)), None)
    assert write_image(image, tmp_path / "a.jpg") == []
    assert read_image(tmp_path / "a.jpg").exif is not None
    image = DecodedImage(smooth(), None, False, exif + bytes(MOST_JPEG_EXIF - len(exif) + 1), None)
    (note,) = write_image(image, tmp_path / "b.jpg")
    assert "upright" in note
    assert read_image(tmp_path / "b.jpg").rgb.shape == (40, 24, 3)


def test_a_profile_of_several_jpeg_segments(tmp_path):
    profile = SRGB[:36] + b"acsp" + SRGB[40:] + random.Random(0).randbytes(200_000)
    image = DecodedImage(smooth(), None, False, None, profile)
    assert write_image(image, tmp_path / "a.jpg") == []
    with Image.open(tmp_path / "a.jpg") as seen:
        assert seen.info["icc_profile"] == profile
    assert read_image(tmp_path / "a.jpg").icc_profile == profile


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_profiles_go_with_images_of_their_colours_only(tmp_path, suffix):
    for grey in (False, True):
        image = make_image(grey=grey)
        stored_grey = grey and suffix != ".webp"
        for profile in (SRGB, GREY_PROFILE, CMYK_PROFILE, b"no profile at all"):
            path = tmp_path / f"a{suffix}"
            notes = write_image(DecodedImage(image.rgb, None, grey, None, profile), path, overwrite=True)
            kept = profile == (GREY_PROFILE if stored_grey else SRGB)
            assert len(notes) == (not kept)
            assert read_image(path).icc_profile == (profile if kept else None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_broken_metadata_is_dropped_with_a_note(tmp_path, kind):
    options = {} if kind == "TIFF" else {"exif": b"Exif\0\0broken"}
    back = read_bytes(tmp_path, encoded(Image.fromarray(smooth()), kind, icc_profile=b"broken", **options))
    assert (back.exif, back.icc_profile) == (None, None)
    assert len(back.notes) == len(options) + 1


def test_a_broken_exif_block_is_not_written(tmp_path):
    (note,) = write_image(DecodedImage(smooth(), None, False, b"broken", None), tmp_path / "a.png")
    assert "EXIF" in note


def test_a_broken_subdirectory_does_not_cost_the_orientation(tmp_path):
    fields = [(274, 3, 6), (34665, 4, 60_000), (34853, 4, 3)]
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    exif += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields) + bytes(4)
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        path = tmp_path / f"a{suffix}"
        assert write_image(DecodedImage(smooth(), None, False, exif, None), path) == []
        with Image.open(path) as seen:
            assert seen.getexif()[274] == 6
        assert read_image(path).rgb.shape == (24, 40, 3)


def test_directories_that_point_at_themselves_end(tmp_path):
    # An EXIF directory whose own EXIF and interoperability pointers lead back to it.
    fields = [(274, 3, 6), (34665, 4, 8), (40965, 4, 8)]
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    exif += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields) + struct.pack("<I", 8)
    for suffix in (".png", ".tif"):
        write_image(DecodedImage(smooth(), None, False, exif, None), tmp_path / f"a{suffix}")
        assert read_image(tmp_path / f"a{suffix}").exif is not None


def test_a_profile_that_inflates_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("overnet.imaging.formats.containers.MOST_INFLATED", 1 << 16)
    data = encoded(Image.fromarray(smooth()), "PNG")
    bomb = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB + bytes(50_000_000)))
    tracemalloc.start()
    back = read_bytes(tmp_path, data[:33] + bomb + data[33:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert back.rgb.shape == (24, 40, 3)


# Bad input

FILES = {
    "png": encoded(Image.fromarray(smooth()), "PNG", exif=b"Exif\0\0" + make_exif(), icc_profile=SRGB),
    "palette.png": encoded(Image.fromarray(smooth()).convert("P"), "PNG", transparency=3),
    "jpeg": encoded(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0" + make_exif(), icc_profile=SRGB),
    "progressive.jpeg": encoded(Image.fromarray(smooth()), "JPEG", progressive=True),
    "webp": encoded(Image.fromarray(smooth()), "WEBP", exif=b"Exif\0\0" + make_exif(), icc_profile=SRGB),
    "lossless.webp": encoded(Image.fromarray(smooth()), "WEBP", lossless=True),
    "tiff": encoded(Image.fromarray(smooth()), "TIFF", exif=b"Exif\0\0" + make_exif(), icc_profile=SRGB),
    "lzw.tiff": encoded(Image.fromarray(smooth()), "TIFF", compression="tiff_lzw"),
    "end.tiff": tiff(samples(8, 8, 4), 2, extra=2),
    "bmp": encoded(Image.fromarray(smooth()), "BMP"),
    "masks.bmp": image_files.bmp(
        [0xFF0000, 0xFF00, 0xFF, 0xFF000000], 32, header=124, alpha=9, profile=SRGB, kind=b"DEBM"
    ),
    "many.jpeg": image_files.jpeg(
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b'<x tiff:ImageWidth="40" stDim:h="24"/>'),
        (0xED, b"Photoshop 3.0\0" + image_files.resource(0x404, b"iptc") + image_files.resource(0x3ED, bytes(16))),
        (0xFE, b"a comment"),
    ),
    "many.png": image_files.png(
        (b"pHYs", bytes([0, 0, 1, 0, 0, 0, 1, 0, 1])),
        (b"bKGD", b"\1"),
        (b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(b"\niptc\n 3\n010203\n")),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>")),
        mode="P",
    ),
    "geo.tiff": image_files.tiff(
        {
            33550: (12, (1.0, 1.0, 0.0)),
            33922: (12, (0.0,) * 6),
            34735: (3, (1, 1, 0, 1, 1025, 0, 1, 2)),
            33723: (7, b"iptc"),
            700: (1, b"<x/>"),
            282: (5, 300.0),
            283: (5, 300.0),
        }
    ),
    "palette.bmp": encoded(Image.fromarray(smooth()).convert("P"), "BMP"),
}


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(tmp_path, name):
    data = FILES[name]
    read_bytes(tmp_path, data)
    for length in [1, 2, 4, 12, 30, *range(0, len(data) - 2, len(data) // 40 + 1), len(data) - 3]:
        with pytest.raises(InputError):
            read_bytes(tmp_path, data[:length])


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=60,
    deadline=5000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6),
    repair=st.booleans(),
    length=st.none() | st.integers(0, 4000),
)
def test_damaged_files_give_an_image_or_an_input_error(tmp_path, name, flips, repair, length):
    data = bytearray(FILES[name])
    for position, value in flips:
        data[position % len(data)] = value
    if name.endswith("png") and repair:
        data = bytearray(with_right_checksums(bytes(data)))
    data = data[:length]
    try:
        back = read_bytes(tmp_path, bytes(data), max_pixels=1 << 22)
    except InputError as error:
        assert "\n" not in str(error)
        return
    suffix = name.rpartition(".")[2]
    larger = back.enlarged(*(None if one is None else one.repeat(2, 0).repeat(2, 1) for one in (back.rgb, back.alpha)))
    for written in (suffix, "jpg", "webp", "bmp"):
        write_image(larger, tmp_path / f"again.{written}", overwrite=True)
        read_image(tmp_path / f"again.{written}")


def with_right_checksums(data):
    """Lets damage in PNG chunks through to what reads them."""
    out, position = data[:8], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if position + 12 + length > len(data):
            break
        out += png_chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length])
        position += 12 + length
    return out + data[position:]


def bomb(name):
    """A small file of this kind that claims 60000 x 60000 pixels (WebP: the most it can)."""
    data = bytearray(FILES[name])
    if name == "png":
        struct.pack_into(">II", data, 16, 60000, 60000)
        return with_right_checksums(bytes(data))
    if name == "jpeg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 60000, 60000)
    elif name == "webp":
        position = data.index(b"VP8X") + 12
        data[position : position + 6] = b"\x5f\xea\x00" * 2
    elif name == "bmp":
        struct.pack_into("<iiHHI", data, 18, 60000, 60000, 1, 24, 1)  # run lengths, which need no data
    else:
        data = bytearray(tiff(samples(8, 8), 1))
        (offset,) = struct.unpack_from("<I", data, 4)
        struct.pack_into("<I", data, offset + 2 + 8, 60000)
        struct.pack_into("<I", data, offset + 2 + 12 + 8, 60000)
    return bytes(data)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "tiff", "bmp"])
def test_bombs_are_refused_before_decoding(tmp_path, name, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    started = time.monotonic()
    with pytest.raises(InputError, match=r"too large: .* 6\d{4}"):
        read_bytes(tmp_path, bomb(name))
    assert time.monotonic() - started < 1


def test_the_limit_of_pixels(tmp_path):
    data = FILES["png"]
    assert read_bytes(tmp_path, data, max_pixels=24 * 40).rgb.shape == (24, 40, 3)
    with pytest.raises(InputError, match="the limit is 959"):
        read_bytes(tmp_path, data, max_pixels=24 * 40 - 1)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="not a file name"):
        read_image(Path("a\0b.png"))
    if Path("/dev/zero").exists():
        with pytest.raises(InputError, match="is not a file"):
            read_image(Path("/dev/zero"))
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(InputError, match="too large"):
        read_image(huge)


def test_messages_stay_on_one_line(tmp_path):
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "a\nb.png")
    assert "\n" not in str(caught.value)


def test_content_decides_and_not_the_suffix(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(FILES["png"])
    np.testing.assert_array_equal(read_image(path).rgb, smooth())


def test_without_opencv_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependency, match="install opencv-python, or on a Jetson its own OpenCV"):
        read_bytes(tmp_path, FILES["png"])


@pytest.mark.parametrize(
    ("rgb", "alpha"),
    [
        (np.zeros((4, 4), np.uint8), None),
        (np.zeros((4, 4, 3), np.float32), None),
        (np.zeros((0, 4, 3), np.uint8), None),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16)),
    ],
)
def test_arrays_that_are_no_image(rgb, alpha):
    with pytest.raises(ValueError, match=r"rgb|alpha"):
        DecodedImage(rgb, alpha, False, None, None)


# Writing


def test_an_existing_file_is_kept_unless_overwriting(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        write_image(make_image(), path)
    assert path.read_bytes() == b"precious"
    write_image(make_image(), path, overwrite=True)
    assert read_image(path).rgb.shape == (13, 17, 3)
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, links):
    path = tmp_path / "a.png"
    monkeypatch.setattr(image_write, "check_target", lambda *_, **__: path.write_bytes(b"precious"))
    if not links:
        without_links(monkeypatch)
    with pytest.raises(OutputError, match="exists already"):
        write_image(make_image(), path)
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["a.png"]


def without_links(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_disks_without_links_are_written_too(tmp_path, monkeypatch):
    without_links(monkeypatch)
    write_image(make_image(), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, make_image().rgb)
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failing", ["fsync", "link or replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_stays_behind_when_writing_fails(tmp_path, monkeypatch, overwrite, failing, failure):
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"precious")

    def fail(*_, **__):
        raise failure

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "link", fail)
        monkeypatch.setattr(Path, "replace", fail)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_image(make_image(), path, overwrite=overwrite)
    if expected is OutputError:
        assert str(caught.value) == f"{path} cannot be written: No space left on device"
    assert names(tmp_path) == (["a.png"] if overwrite else [])
    if overwrite:
        assert path.read_bytes() == b"precious"


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "folder" / "real.png")
    with pytest.raises(OutputError, match="exists already"):
        write_image(make_image(), tmp_path / "link.png")
    write_image(make_image(), tmp_path / "link.png", overwrite=True)
    assert (tmp_path / "link.png").is_symlink()
    assert read_image(tmp_path / "folder" / "real.png").rgb.shape == (13, 17, 3)


def test_new_files_follow_the_umask(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_image(make_image(), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.gif", r"named '\.gif'; use \.avif, \.bmp, "),
        ("a", "without suffix"),
        ("missing/a.png", "does not exist"),
        ("folder.png", "is a folder"),
        ("x" * 300 + ".png", "File name too long"),
        ("a\0.png", "cannot be written"),
    ],
)
def test_targets_that_cannot_be_written(tmp_path, name, reason):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=reason):
        write_image(make_image(), tmp_path / name, overwrite=True)
    assert names(tmp_path) == ["folder.png"]


def test_devices_are_not_replaced(tmp_path):
    (tmp_path / "null.png").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="device"):
        write_image(make_image(), tmp_path / "null.png", overwrite=True)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("suffix", "side"), [(".jpg", 65501), (".webp", 16384)])
def test_sides_too_long_for_the_format(tmp_path, suffix, side):
    for longest, fits in ((side - 1, True), (side, False)):
        image = DecodedImage(np.zeros((1, longest, 3), np.uint8), None, False, None, None)
        if fits:
            assert write_image(image, tmp_path / f"a{suffix}") == []
        else:
            with pytest.raises(OutputError, match=f"at most {side - 1} pixels"):
                write_image(image, tmp_path / f"b{suffix}")


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_quality_out_of_range(tmp_path, quality):
    with pytest.raises(InputError, match="must be from 1 to 100"):
        write_image(make_image(), tmp_path / "a.jpg", quality=quality)


def test_the_suffixes_are_the_promised_ones():
    assert {".avif", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"} == IMAGE_SUFFIXES


@pytest.mark.parametrize("alpha", [False, True])
def test_avif_is_written(tmp_path, alpha):
    """Pixels come close; what AVIF is written without is named."""
    rows, columns = np.mgrid[0:40, 0:56]
    rgb = np.stack([rows * 4, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    opacity = (columns * 4).astype(np.uint8) if alpha else None
    notes = write_image(DecodedImage(rgb, opacity, False, None, None), tmp_path / "a.avif", quality=90)
    read = read_image(tmp_path / "a.avif")
    assert np.abs(read.rgb.astype(int) - rgb).mean() < 3 and notes == []
    assert (read.alpha is not None) == alpha
    small = tmp_path / "small.avif"
    write_image(DecodedImage(rgb, opacity, False, None, None), small, quality=20)
    assert small.stat().st_size < (tmp_path / "a.avif").stat().st_size


def test_an_opencv_without_avif_is_one_line(tmp_path, monkeypatch):
    def imencode(*_):
        raise cv2.error("no encoder")

    monkeypatch.setattr(cv2, "imencode", imencode)
    with pytest.raises(OutputError, match=r"cannot encode it as AVIF: AVIF needs opencv-python 4\.10"):
        write_image(DecodedImage(np.zeros((8, 8, 3), np.uint8), None, False, None, None), tmp_path / "a.avif")
    assert not list(tmp_path.iterdir())
