"""BMP and PNM files: read size and metadata, and the pixels that OpenCV misreads; add the resolution to BMP files."""

import re
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from overnet.imaging.formats.containers import TRUNCATED, Container, UnusableImageError
from overnet.imaging.formats.metadata import Density

_RGB, _BITFIELDS, _ALPHA_BITFIELDS = 0, 3, 6
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_PNM_SPACE = rb"(?:\s|#[^\n]*\n)+"
_PNM_HEADER = re.compile(rb"P([1-6])" + 2 * (_PNM_SPACE + rb"(\d{1,9})") + rb"(?:" + _PNM_SPACE + rb"(\d{1,5}))?\s")


def inspect_bmp(data: bytes, container: Container) -> None:
    """Read the header of a BMP file into `container`, and how to decode pixels of 16 and 32 bits."""
    pixels, header_size = struct.unpack_from("<II", data, 10)
    compression = stored = bits = 0
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression, stored = struct.unpack_from("<iiHHII", data, 18)
    container.width, container.height = width, abs(height)  # a negative height means that the top row comes first
    if compression in (_RGB, _BITFIELDS, _ALPHA_BITFIELDS):
        stored = (width * bits + 31) // 32 * 4 * abs(height)
    if pixels + max(stored, 1) > len(data):
        raise UnusableImageError(TRUNCATED)
    if header_size >= 40:
        x, y = struct.unpack_from("<ii", data, 38)
        if x > 0 and y > 0:
            container.extras.density = Density(Fraction(x), Fraction(y), "m")
    if bits in (16, 32) and compression in (_RGB, _BITFIELDS, _ALPHA_BITFIELDS) and width > 0:
        # OpenCV takes the fourth byte for alpha, whatever the header says.
        masks = [0x7C00, 0x3E0, 0x1F, 0] if bits == 16 else [0xFF0000, 0xFF00, 0xFF, 0]
        if compression != _RGB:
            has_alpha = header_size >= 56 or compression == _ALPHA_BITFIELDS
            masks = [*struct.unpack_from("<III", data, 54), struct.unpack_from("<I", data, 66)[0] if has_alpha else 0]
        container.grey = False
        container.decode = lambda: _decode_masks(data, pixels, width, height, bits, masks, container)
    if header_size >= 108:
        _take_colours(data, header_size, container)


def _decode_masks(
    data: bytes, start: int, width: int, height: int, bits: int, masks: list[int], container: Container
) -> npt.NDArray[Any]:
    """Return the pixels of a BMP file of 16 or 32 bits, in the order blue, green, red, alpha."""
    row = (width * bits + 31) // 32 * 4
    values = np.frombuffer(data, f"<u{bits // 8}", row * abs(height) * 8 // bits, start).reshape(abs(height), -1)
    values = values[:: 1 if height < 0 else -1, :width]
    shifts = [(mask & -mask).bit_length() - 1 if mask else 0 for mask in masks]
    largest = [mask >> shift for mask, shift in zip(masks, shifts, strict=True)]
    dtype = np.uint8 if max(largest) < 256 else np.uint16
    most = np.iinfo(dtype).max
    channels = []
    for number in (2, 1, 0, 3):
        channel = (values & np.array(masks[number], values.dtype)) >> np.array(shifts[number], values.dtype)
        scaled = (channel.astype(np.uint64) * most + largest[number] // 2) // max(largest[number], 1)
        channels.append(np.minimum(scaled, most).astype(dtype))
    if masks[3] and not channels[3].any():
        container.notes.append("its alpha is 0 everywhere: it was left out, as other programs do")
    return np.dstack(channels if channels[3].any() else channels[:3])


def _take_colours(data: bytes, header_size: int, container: Container) -> None:
    """Read the profile that the header of a BMP file points to, and note colours that are stated otherwise."""
    kind = data[70:74][::-1]
    if kind == b"MBED" and header_size == 124:
        offset, size = struct.unpack_from("<II", data, 126)
        if 14 + offset + size > len(data):
            raise UnusableImageError(TRUNCATED)
        container.icc_profile = data[14 + offset : 14 + offset + size]
    elif kind == b"LINK":
        container.notes.append("its ICC profile is another file, and was not read")
    elif kind == bytes(4) and any(data[110:122]):
        container.notes.append("its primaries and gamma were dropped")


def bmp_with(encoded: bytes, *, density: Density | None) -> bytes:
    """Return a BMP file with a resolution, as far as it can hold one."""
    if density is None or not density.unit:
        return encoded
    whole = (max(1, min(round(number), (1 << 31) - 1)) for number in density.per("m"))
    return encoded[:38] + struct.pack("<ii", *whole) + encoded[46:]


def inspect_pnm(data: bytes, container: Container) -> None:
    """Read the header of a PBM, PGM or PPM file into `container`, and how to decode it."""
    header = _PNM_HEADER.match(data)
    form = int(header[1]) if header else 0
    is_bitmap = form in (1, 4)
    if is_bitmap:  # the header has no largest level, and pixels may look like one
        header = re.compile(rb"P([14])" + 2 * (_PNM_SPACE + rb"(\d{1,9})") + rb"\s").match(data)
    if header is None or not (is_bitmap or header[4]):
        raise UnusableImageError("is damaged: its header is not that of a PBM, PGM or PPM image")
    container.grey = form not in (3, 6)
    container.width, container.height = int(header[2]), int(header[3])
    most = 1 if is_bitmap else int(header[4])
    if not 1 <= most <= 65535:
        raise UnusableImageError("is damaged: its largest level is out of range")
    channels = 1 if container.grey else 3
    samples = container.width * container.height * channels
    item = 1 if most < 256 else 2
    size = {4: (container.width + 7) // 8 * container.height}.get(form, samples * (1 if form < 4 else item))
    if header.end() + size > len(data) + (form < 4):  # a plain image needs no space after its last number
        raise UnusableImageError(TRUNCATED)
    for comment in re.findall(rb"#([^\n]*)\n", header[0]):
        container.extras.comments += (comment.strip().decode("utf-8", "replace"),)

    def decode() -> npt.NDArray[Any]:
        numbers: npt.NDArray[Any]
        if form == 4:
            rows = np.frombuffer(data, np.uint8, size, header.end()).reshape(container.height, -1)
            numbers = np.unpackbits(rows, axis=1)[:, : container.width]
        elif form > 4:
            numbers = np.frombuffer(data, f">u{item}", samples, header.end())
        else:
            text = re.sub(rb"#[^\n]*", b"", data[header.end() :])
            digits = re.findall(rb"[01]" if form == 1 else rb"\d{1,5}(?!\d)", text)[:samples]
            if len(digits) < samples:
                raise UnusableImageError(TRUNCATED)
            numbers = np.array(digits, "S5").astype(np.uint32)
        if is_bitmap:
            numbers = 1 - numbers.astype(np.uint8)  # 1 is black
        top = 255 if most < 256 else 65535
        levels = np.minimum((numbers.astype(np.uint32) * top + most // 2) // most, top).astype(f"u{item}")
        shape = (container.height, container.width)
        return levels.reshape(shape) if container.grey else levels.reshape(*shape, 3)[..., ::-1].copy()

    container.decode = decode
