"""Find the kind, size and metadata of an image file before its pixels are decoded, and refuse what OpenCV misreads."""

from __future__ import annotations

import struct
from collections.abc import Callable

from overnet.imaging.containers import (
    TRUNCATED,
    Container,
    UnusableImageError,
    inspect_bmp,
    inspect_jpeg,
    inspect_png,
    inspect_pnm,
    inspect_webp,
)
from overnet.imaging.tiff import (
    EXTRA_SAMPLES,
    ICC_PROFILE,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    ORIENTATION,
    Directory,
    TiffStructureError,
    exif_from_tiff,
    exif_orientation,
    read_bytes,
    read_directory,
    read_first_directory,
    read_number,
    read_numbers,
    with_short,
)


def inspect(data: bytes) -> Container:
    """Find the kind of image, its size and its metadata, without decoding pixels.

    Raises:
        UnusableImageError: the data is not an image of a known kind, is truncated or animated, or OpenCV misreads it.
    """
    kind = _kind_of(data)
    container = Container(kind)
    try:
        _INSPECTORS[kind](data, container)
    except struct.error as error:  # a field of fixed position lies beyond the end of the data
        raise UnusableImageError(TRUNCATED) from error
    if container.width < 1 or container.height < 1:
        raise UnusableImageError("states no size, or a size of zero")
    _check_metadata(container)
    return container


def profile_colours(profile: bytes) -> str | None:
    """Return the colours an ICC profile describes, such as ``"RGB"`` or ``"GRAY"``; None where it is broken."""
    if len(profile) < 132 or profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return profile[16:20].decode("latin-1").strip()


def _kind_of(data: bytes) -> str:
    if not data:
        raise UnusableImageError("is empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for start, kind in (
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"BM", "BMP"),
        (b"P5", "PNM"),
        (b"P6", "PNM"),
    ):
        if data.startswith(start):
            return kind
    other = ""
    for position, start, name in (
        (0, b"GIF8", "GIF"),
        (0, b"II+\0", "BigTIFF"),
        (0, b"MM\0+", "BigTIFF"),
        (0, b"v/1\x01", "OpenEXR"),
        (0, b"#?R", "Radiance HDR"),
        (4, b"ftypavi", "AVIF"),
        (4, b"ftyphei", "HEIC"),
        (4, b"jP  ", "JPEG 2000"),
        (4, b"JXL ", "JPEG XL"),
        (0, b"\xff\x0a", "JPEG XL"),
        (0, b"%PDF", "PDF"),
        (4, b"ftyp", "video"),
    ):
        if not other and data.startswith(start, position):
            other = f" (it looks like {name})"
    raise UnusableImageError(f"is not a PNG, JPEG, WebP, TIFF, BMP, PPM or PGM image{other}")


def _check_metadata(container: Container) -> None:
    """Drop a broken EXIF block, and a profile that is broken or of other colours, with a note for each."""
    if container.exif is not None:
        # Some programs write JPEG's marker in front of the EXIF block of WebP and PNG files too.
        exif = container.exif.removeprefix(b"Exif\0\0")
        try:
            exif_orientation(exif)
            container.exif = exif
        except TiffStructureError as error:
            container.exif = None
            container.notes.append(f"its EXIF block is broken and was dropped ({error})")
    if container.icc_profile is not None:
        colours = profile_colours(container.icc_profile)
        if colours not in ("RGB", "GRAY"):
            container.icc_profile = None
            reason = "is broken" if colours is None else f"describes {colours} colours, which are not kept,"
            container.notes.append(f"its ICC profile {reason} and was dropped")


def inspect_tiff(data: bytes, container: Container) -> None:
    """Read the header of a TIFF file of one page into `container`."""
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
        # OpenCV always turns TIFF images, and no others; the pixels are to stay as they are stored.
        container.decodable = with_short(container.decodable or data, directory, ORIENTATION, 1)


def _refuse_second_page(data: bytes, first: Directory) -> None:
    following = first.following
    for _ in range(64):
        if not following:
            return
        page = read_directory(data, first.order, following)
        if not read_number(data, page, 254, 0) & 0b101:  # a smaller version or a mask of the first image
            break
        following = page.following
    raise UnusableImageError("is a TIFF of several pages; only single images are supported")


def _check_tiff_pixels(data: bytes, directory: Directory, container: Container) -> None:
    """Refuse a truncated file, and tiles that would take more memory than the image."""
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
    """Accept the pixel layouts that OpenCV reads correctly (tested with 4.8 to 5.0), and note what has to be corrected.

    It misreads others without an error: CIELab as RGB, 16-bit planes as if interleaved, 16-bit grey with alpha as
    8 bits.
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
            # OpenCV would multiply the colours by alpha, which loses those of transparent pixels.
            container.decodable = with_short(data, directory, EXTRA_SAMPLES, 0)


_INSPECTORS: dict[str, Callable[[bytes, Container], None]] = {
    "PNG": inspect_png,
    "JPEG": inspect_jpeg,
    "WebP": inspect_webp,
    "TIFF": inspect_tiff,
    "BMP": inspect_bmp,
    "PNM": inspect_pnm,
}
