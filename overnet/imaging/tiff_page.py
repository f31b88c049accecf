"""TIFF files as images: what their one page states, and whether OpenCV reads such a page rightly."""

from __future__ import annotations

from overnet.imaging.containers import TRUNCATED, Container, UnusableImageError
from overnet.imaging.tiff import (
    EXTRA_SAMPLES,
    ICC_PROFILE,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    ORIENTATION,
    Directory,
    TiffStructureError,
    exif_from_tiff,
    read_bytes,
    read_directory,
    read_first_directory,
    read_number,
    read_numbers,
    with_short,
)


def inspect_tiff(data: bytes, container: Container) -> None:
    """Fill `container` with what a TIFF file of one page states."""
    try:
        directory = read_first_directory(data)
        _refuse_second_page(data, directory)
    except TiffStructureError as error:
        raise UnusableImageError(f"is a damaged or truncated TIFF: {error}") from error
    container.width = read_number(data, directory, IMAGE_WIDTH, 0)
    container.height = read_number(data, directory, IMAGE_HEIGHT, 0)
    _check_tiff_pixels(data, directory, container)
    _check_tiff_layout(data, directory, container)
    container.icc_profile = read_bytes(data, directory, ICC_PROFILE)
    container.exif = exif_from_tiff(data, directory)
    if read_number(data, directory, ORIENTATION, 1) != 1:
        # OpenCV turns TIFF images, and them only, whatever it is asked for; the pixels are wanted as they are stored.
        container.decodable = with_short(container.decodable or data, directory, ORIENTATION, 1)


def _refuse_second_page(data: bytes, first: Directory) -> None:
    following = first.following
    for _ in range(64):
        if not following:
            return
        page = read_directory(data, first.order, following)
        if not read_number(data, page, 254, 0) & 0b101:  # a smaller version and a mask belong to the first image
            break
        following = page.following
    raise UnusableImageError("is a TIFF of several pages; only single images are supported")


def _check_tiff_pixels(data: bytes, directory: Directory, container: Container) -> None:
    """Refuse what is truncated, and tiles that would take more memory than the image."""
    for offset_tag, count_tag in ((273, 279), (324, 325)):
        offsets, counts = read_numbers(data, directory, offset_tag), read_numbers(data, directory, count_tag)
        if counts.size != offsets.size:
            counts = offsets * 0 + 1
        if offsets.size:
            if int((offsets + counts).max()) > len(data):
                raise UnusableImageError(TRUNCATED)
            break
    else:
        raise UnusableImageError("is damaged: it holds no pixels")
    tile = read_number(data, directory, 322, 0) * read_number(data, directory, 323, 0)
    if tile > max(container.width * container.height, 1 << 24):
        raise UnusableImageError("is damaged: its tiles are larger than its image")


def _check_tiff_layout(data: bytes, directory: Directory, container: Container) -> None:
    """Accept the pixel layouts that OpenCV reads rightly (tested from 4.8 to 5.0), and note what it leaves to be done.

    Others it reads wrongly without a word: CIELab as RGB, 16-bit planes as if interleaved, 16-bit grey
    with alpha as 8 bits.
    """
    bits = {int(number) for number in read_numbers(data, directory, 258)} or {1}
    colours = read_number(data, directory, 262, 1)
    channels = read_number(data, directory, 277, 1)
    planar = read_number(data, directory, 284, 1) == 2 and channels > 1
    extra = read_number(data, directory, EXTRA_SAMPLES, 0)
    formats = {int(number) for number in read_numbers(data, directory, 339)} or {1}
    depth = max(bits)
    if len(bits) > 1 or depth not in (1, 8, 16):
        raise UnusableImageError(f"is a TIFF of {depth} bits per channel; only 1, 8 and 16 are supported")
    if not formats <= {1, 4}:
        raise UnusableImageError("is a TIFF of floating-point or signed numbers; only unsigned ones are supported")
    if (colours, channels) in ((0, 2), (1, 2)):
        raise UnusableImageError("is a grey TIFF with transparency, which cannot be read; save it as PNG")
    known = {(0, 1), (1, 1), (3, 1), (2, 3), (2, 4), (5, 4), (6, 3)}
    deep = {(0, 1), (1, 1), (2, 3), (2, 4)}
    flat = {(0, 1), (1, 1)}
    if (colours, channels) not in {1: flat, 8: known, 16: deep}[depth]:
        raise UnusableImageError(
            f"is a TIFF of a kind that cannot be read (photometric interpretation {colours}, {channels} x {depth} bits)"
        )
    if planar and depth == 16:
        raise UnusableImageError("is a 16-bit TIFF with separate colour planes, which cannot be read; save it as PNG")
    container.grey = channels == 1 and colours != 3
    container.inverted = depth == 16 and colours == 0
    if colours == 5:
        container.opaque = True
        container.notes.append("its CMYK colours were converted to RGB without a colour profile")
    if channels == 4 and colours == 2:
        container.premultiplied = extra == 1
        if extra == 2:
            # The decoder would multiply the colours with the alpha, and lose what transparent pixels hold.
            container.decodable = with_short(data, directory, EXTRA_SAMPLES, 0)
