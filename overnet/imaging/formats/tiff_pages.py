"""TIFF files: read size, metadata and layout of their page, and refuse what OpenCV misreads."""

from overnet.imaging.formats.containers import TRUNCATED, Container, UnusableImageError
from overnet.imaging.formats.metadata import density_of, read_resources, with_iptc
from overnet.imaging.formats.tiff import (
    EXTRA_SAMPLES,
    ICC_PROFILE,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    IPTC,
    ORIENTATION,
    PHOTOSHOP,
    XMP,
    Directory,
    TiffStructureError,
    density_numbers,
    exif_from_tiff,
    has_maker_note,
    read_bytes,
    read_directory,
    read_first_directory,
    read_number,
    read_numbers,
    tiff_only_fields,
    with_short,
)

_SUBFILE_TYPE, _SUB_IMAGES, _DNG_VERSION = 254, 330, 50706
_COMPRESSIONS = {
    6: "old-style JPEG",
    34661: "JBIG",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_NAMES = {
    330: "its smaller versions or other images (SubIFDs)",
    301: "the transfer function",
    37724: "Photoshop's layers",
    37510: "the user's comment",
    50341: "Epson's print settings (PrintIM)",
    50838: "ImageJ's metadata",
    50839: "ImageJ's metadata",
}


def inspect_tiff(data: bytes, container: Container) -> None:
    """Read the header of a TIFF file of one page into `container`."""
    try:
        directory = read_first_directory(data)
        _refuse_second_page(data, directory, container)
    except TiffStructureError as error:
        raise UnusableImageError(f"is a damaged or truncated TIFF: {error}") from error
    smaller = read_number(data, directory, _SUBFILE_TYPE, 0) & 1
    if directory.find(_DNG_VERSION) or data[8:10] == b"CR" or (smaller and directory.find(_SUB_IMAGES)):
        raise UnusableImageError("is a camera's raw file: develop it first, for example to TIFF")
    container.width = read_number(data, directory, IMAGE_WIDTH, 0)
    container.height = read_number(data, directory, IMAGE_HEIGHT, 0)
    _check_pixels(data, directory, container)
    _check_layout(data, directory, container)
    _take_metadata(data, directory, container)
    if read_number(data, directory, ORIENTATION, 1) != 1:
        # OpenCV always turns TIFF images, and no others; the pixels are to stay as they are stored.
        container.decodable = with_short(container.decodable or data, directory, ORIENTATION, 1)
    compression = read_number(data, directory, 259, 1)
    if compression in _COMPRESSIONS:
        container.failure = (
            f"is a TIFF compressed by {_COMPRESSIONS[compression]}, which this OpenCV cannot read; "
            "save it uncompressed, or with LZW or Deflate"
        )


def _take_metadata(data: bytes, directory: Directory, container: Container) -> None:
    extras = container.extras
    container.icc_profile = read_bytes(data, directory, ICC_PROFILE)
    container.exif = exif_from_tiff(data, directory)
    if has_maker_note(data):
        container.notes.append("the camera's maker note was dropped: it cannot be moved out of its file")
    extras.density = density_of(density_numbers(data))
    extras.xmp = read_bytes(data, directory, XMP)
    resources = read_bytes(data, directory, PHOTOSHOP)
    extras.photoshop = None if resources is None else read_resources(resources, container.notes)
    iptc = read_bytes(data, directory, IPTC)
    if iptc is not None:
        entry = directory.find(IPTC)
        if entry is not None and entry.kind == 4 and directory.order == "<" and iptc[:1] != b"\x1c" == iptc[3:4]:
            # A list of bytes that was written as big-endian numbers of four bytes, and swapped.
            iptc = b"".join(iptc[start : start + 4][::-1] for start in range(0, len(iptc), 4))
        extras.photoshop = with_iptc(extras.photoshop, iptc)
    extras.tiff_fields, unknown = tiff_only_fields(data, directory)
    named = dict.fromkeys(_NAMES[tag] for tag in unknown if tag in _NAMES)
    numbers = [str(tag) for tag in unknown if tag not in _NAMES]
    if numbers:
        named[f"the TIFF tag{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:12])}"] = None
    if named:
        container.notes.append(f"{', '.join(named)} were dropped")


def _refuse_second_page(data: bytes, first: Directory, container: Container) -> None:
    following = first.following
    for _ in range(64):
        if not following:
            return
        page = read_directory(data, first.order, following)
        kind = read_number(data, page, _SUBFILE_TYPE, 0)
        if not kind & 0b101:  # a smaller version or a mask of the first image
            break
        note = f"{'the mask' if kind & 0b100 else 'a smaller version'} of its image, a page of its own, was dropped"
        if note not in container.notes:
            container.notes.append(note)
        following = page.following
    raise UnusableImageError("is a TIFF of several pages; only single images are supported")


def _check_pixels(data: bytes, directory: Directory, container: Container) -> None:
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


def _check_layout(data: bytes, directory: Directory, container: Container) -> None:
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
        # Programs that do not state what the fourth band is, as OpenCV, mean alpha; 0 states that it is none.
        container.opaque = extra == 0 and directory.find(EXTRA_SAMPLES) is not None
        if container.opaque:
            container.notes.append("its fourth band was dropped: it is stated to be no alpha (ExtraSamples 0)")
        if extra == 2:
            # OpenCV would multiply the colours by alpha, which loses those of transparent pixels.
            container.decodable = with_short(data, directory, EXTRA_SAMPLES, 0)
