"""Metadata beside EXIF block and ICC profile, and what of it follows the size of the image."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from fractions import Fraction

from overnet.imaging.formats.georeference import scaled_georeference
from overnet.imaging.formats.tiff import Field, density_numbers

_METRES = {"inch": Fraction(254, 10000), "cm": Fraction(1, 100), "m": Fraction(1)}

# XMP properties that state a size in pixels, or pixels per unit, by the side that they belong to.
_XMP_WIDTHS = (
    b"tiff:ImageWidth|exif:PixelXDimension|tiff:XResolution|exif:FocalPlaneXResolution|GPano:FullPanoWidthPixels"
    b"|GPano:CroppedAreaImageWidthPixels|GPano:CroppedAreaLeftPixels|stDim:w"
)
_XMP_HEIGHTS = (
    b"tiff:ImageLength|exif:PixelYDimension|tiff:YResolution|exif:FocalPlaneYResolution|GPano:FullPanoHeightPixels"
    b"|GPano:CroppedAreaImageHeightPixels|GPano:CroppedAreaTopPixels|stDim:h"
)
_XMP_NUMBER = rb")\s*(?:=\s*[\"']|>)\s*)(\d{1,18})(/\d{1,18})?(?=\s*[\"'<])"
# Photoshop's image resources by number: name and content of each.
Resources = dict[int, tuple[bytes, bytes]]

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[1-8](?=\s*[\"'<])")

_IPTC = 0x0404
_RESOLUTION = 0x03ED
_GUIDES, _SLICES = 0x0408, 0x041A
# Thumbnails, the quality of the JPEG, and copies of the EXIF block and the XMP packet.
_NOT_KEPT = frozenset({0x0406, 0x0409, 0x040C, 0x0422, 0x0423, 0x0424})


@dataclass(frozen=True)
class Density:
    """Pixels per unit of length, "inch", "cm" or "m"; with the unit "" only their ratio is known."""

    x: Fraction
    y: Fraction
    unit: str

    def per(self, unit: str) -> tuple[Fraction, Fraction]:
        """Return the pixels per another unit of length, in x and y; `unit` of this density must not be ""."""
        factor = _METRES[unit] / _METRES[self.unit]
        return self.x * factor, self.y * factor


@dataclass
class Extras:
    """Metadata of an image beside EXIF block and ICC profile.

    Attributes:
        density: the resolution for printing.
        xmp: the XMP packet.
        extended_xmp: the contents of JPEG segments with the parts of the XMP that are too long for one segment.
        photoshop: Photoshop's image resources by number; 0x0404 is the IPTC record.
        comments: texts without a heading.
        png_chunks: name and content of chunks that only PNG holds.
        tiff_fields: fields that only TIFF holds, such as those of GeoTIFF.
        lossless: whether the file was coded without loss in a format that can also be lossy.
    """

    density: Density | None = None
    xmp: bytes | None = None
    extended_xmp: tuple[bytes, ...] = ()
    photoshop: Resources | None = None
    comments: tuple[str, ...] = ()
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    tiff_fields: tuple[Field, ...] = ()
    lossless: bool = False

    def scaled(self, x: Fraction, y: Fraction) -> Extras:
        """Return the metadata of an image that is larger by these factors, with the same size in print and on maps."""
        density, resources = self.density, self.photoshop
        if density is not None:
            density = Density(density.x * x, density.y * y, density.unit)
        if resources is not None and len(resources.get(_RESOLUTION, (b"", b""))[1]) >= 16:
            name, content = resources[_RESOLUTION]
            numbers = list(struct.unpack_from(">IHHIHH", content))  # in 65536ths
            numbers[0], numbers[3] = (min(round(numbers[i] * by), (1 << 32) - 1) for i, by in ((0, x), (3, y)))
            resources = resources | {_RESOLUTION: (name, struct.pack(">IHHIHH", *numbers))}
        return replace(
            self,
            density=density,
            photoshop=resources,
            xmp=None if self.xmp is None else _scaled_xmp(self.xmp, x, y),
            tiff_fields=scaled_georeference(self.tiff_fields, x, y),
        )

    def turned(self, orientation: int) -> Extras:
        """Return the metadata of an image whose pixels have been turned as an EXIF orientation says."""
        density = self.density
        if density is not None and orientation >= 5:
            density = Density(density.y, density.x, density.unit)
        xmp = None if self.xmp is None else _XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp)
        return replace(self, density=density, xmp=xmp)


def _scaled_xmp(xmp: bytes, x: Fraction, y: Fraction) -> bytes:
    for names, factor in ((_XMP_WIDTHS, x), (_XMP_HEIGHTS, y)):

        def scaled(match: re.Match[bytes], factor: Fraction = factor) -> bytes:
            return match[1] + b"%d" % round(int(match[2]) * factor) + (match[3] or b"")

        xmp = re.sub(rb"(\b(?:" + names + _XMP_NUMBER, scaled, xmp)
    return xmp


def density_of(fields: tuple[Fraction, Fraction, int] | None) -> Density | None:
    """Return the density of a TIFF directory's resolution fields, see `density_numbers`."""
    if fields is None:
        return None
    x, y, unit = fields
    if unit not in (2, 3):
        return None if x == y else Density(x, y, "")
    return Density(x, y, "inch" if unit == 2 else "cm")


def exif_density(exif: bytes | None) -> Density | None:
    """Return the density that an EXIF block states; None where it does not, or is no TIFF structure."""
    return None if exif is None else density_of(density_numbers(exif))


def read_resources(data: bytes, notes: list[str]) -> Resources | None:
    """Return Photoshop's image resources by number, without thumbnails, copies, guides and slices; None for none."""
    resources: Resources = {}
    position = 0
    while data[position : position + 4] == b"8BIM" and position + 12 <= len(data):
        (number,) = struct.unpack_from(">H", data, position + 4)
        start = position + 6 + (data[position + 6] + 2) // 2 * 2 + 4
        if start > len(data):
            break
        (size,) = struct.unpack_from(">I", data, start - 4)
        if start + size > len(data):
            break
        resources.setdefault(number, (data[position + 6 : start - 4], data[start : start + size]))
        position = start + size + size % 2
    if data[position:].strip(b"\0"):
        notes.append("a part of its Photoshop resources is damaged and was dropped")
    guides, slices = (resources.pop(number, (b"", b""))[1] for number in (_GUIDES, _SLICES))
    if int.from_bytes(guides[12:16], "big") or _slice_count(slices) > 1:
        notes.append("its Photoshop guides and slices were dropped: they are places in the smaller image")
    return {number: content for number, content in resources.items() if number not in _NOT_KEPT} or None


def _slice_count(slices: bytes) -> int:
    """Return the number of slices that a resource holds; every image has one, which is all of it."""
    name = int.from_bytes(slices[20:24], "big")
    if slices[:4] != b"\0\0\0\x06":
        return 2 if slices else 0
    return int.from_bytes(slices[24 + 2 * name : 28 + 2 * name], "big")


def resource_bytes(resources: Resources) -> bytes:
    """Return Photoshop's image resources as they are stored."""
    return b"".join(
        b"8BIM" + struct.pack(">H", number) + name + struct.pack(">I", len(content)) + content + bytes(len(content) % 2)
        for number, (name, content) in resources.items()
    )


def iptc_of(resources: Resources | None) -> bytes | None:
    """Return the IPTC record among Photoshop's image resources."""
    return None if resources is None or _IPTC not in resources else resources[_IPTC][1]


def with_iptc(resources: Resources | None, iptc: bytes) -> Resources:
    """Return Photoshop's image resources with an IPTC record where they hold none."""
    return {_IPTC: (b"\0\0", iptc)} | (resources or {})
