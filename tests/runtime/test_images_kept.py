"""Images of every kind: what each row's file holds is in the result, or a note names it."""

import io
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from overnet.errors import InputError
from overnet.imaging.image_io import is_image_file
from overnet.runtime.plan import Job, make_plan
from overnet.runtime.upscale_file import upscale_image
from overnet.system.scheduling import scheduling_kept
from tests.conftest import SHARED, needs_shared
from tests.support.clips import enlarged
from tests.support.image_files import (
    HEIGHT,
    SRGB,
    WIDTH,
    bmp,
    chunk,
    chunks,
    encoded,
    jpeg,
    picture,
    png,
    resource,
    riff_chunks,
    segment,
    segments,
    tiff,
    tiff_fields,
    webp,
    written,
)

CASES = SHARED / "cases/files"


class Nearest:
    """An upscaler by 2 that repeats pixels."""

    backend_name = "nearest"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return enlarged(image, 2)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return 2 * height, 2 * width

    def pop_notes(self) -> list[str]:
        return []


def upscaled(folder: Path, data: bytes, suffix: str, name: str = "in") -> tuple[Path, list[str]]:
    """The file that is made of another one, and the notes."""
    source, target = folder / name, folder / f"out{suffix}"
    source.write_bytes(data)
    outcome = upscale_image(Job(source, target, "image"), Nearest(), overwrite=True)
    return target, outcome.notes


@dataclass
class Row:
    """One thing that a file can hold.

    `kept` checks the result; `named` is in exactly one note, and where it is empty there is no note at all.
    """

    data: bytes | Callable[[], bytes]
    suffix: str
    kept: Callable[[Path], bool] = lambda _: True
    named: str = ""


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:ImageWidth="40" tiff:XResolution="3000000/10000" '
    b'GPano:FullPanoHeightPixels="100" dc:title="kept"><exif:PixelYDimension>24</exif:PixelYDimension>'
    b"</rdf:Description></x:xmpmeta>"
)
LARGER_XMP = (
    XMP.replace(b'"40"', b'"80"')
    .replace(b"3000000/", b"6000000/")
    .replace(b'"100"', b'"200"')
    .replace(b">24<", b">48<")
)
XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + struct.pack(">II", 4, 0) + b"more"
IPTC = b"\x1c\x02\x78\x00\x05Hello"
RESOLUTION = struct.pack(">IHHIHH", 300 << 16, 1, 2, 300 << 16, 1, 2)
RESOURCES = (
    resource(0x0404, IPTC)
    + resource(0x03ED, RESOLUTION)
    + resource(0x040C, b"thumbnail")
    + resource(2000, b"a path" + bytes(20), b"name")
)
LARGER_RESOURCES = (
    resource(0x0404, IPTC)
    + resource(0x03ED, RESOLUTION.replace(b"\x01\x2c", b"\x02\x58"))
    + resource(2000, b"a path" + bytes(20), b"name")
)
GUIDES = resource(0x0408, struct.pack(">IIII", 1, 576, 576, 1) + b"\0\0\0\x20\0")
PHOTOSHOP = b"Photoshop 3.0\0"


def exif(fields: dict[int, Any] | None = None, camera: dict[int, Any] | None = None) -> bytes:
    block = Image.Exif()
    block.update(fields or {})
    block.get_ifd(0x8769).update(camera or {})
    return block.tobytes().removeprefix(b"Exif\0\0")


EXIF = exif(
    {0x010F: "Maker", 282: 300.0, 283: 150.0, 296: 2},
    {0x9003: "2020:01:02 03:04:05", 0x9214: (10, 20, 4, 6), 0xA20E: IFDRational(500), 0x927C: b"maker note"},
)


def has_exif(path: Path, *, maker_note: bool = True) -> bool:
    """Whether EXIF is there, its resolutions and places those of twice the size."""
    with Image.open(path) as image:
        block = image.getexif()
        camera = block.get_ifd(0x8769)
    return (
        (block[0x010F], float(block[282]), float(block[283])) == ("Maker", 600, 300)
        and (camera[0x9003], camera[0x9214], float(camera[0xA20E])) == ("2020:01:02 03:04:05", (20, 40, 8, 12), 1000)
        and (0x927C in camera) == maker_note
    )


def has_segment(code: int, content: bytes) -> Callable[[Path], bool]:
    return lambda path: (code, content) in segments(path.read_bytes())


def has_chunk(name: bytes, content: bytes) -> Callable[[Path], bool]:
    return lambda path: (name, content) in chunks(path.read_bytes())


def has_riff(name: bytes, content: bytes) -> Callable[[Path], bool]:
    return lambda path: (name, content) in riff_chunks(path.read_bytes())


def has_field(tag: int, value: Any) -> Callable[[Path], bool]:
    return lambda path: tiff_fields(path)[tag] == value


def dpi(x: float, y: float | None = None) -> Callable[[Path], bool]:
    def check(path: Path) -> bool:
        with Image.open(path) as image:
            if path.suffix == ".webp":
                block = image.getexif()
                found = (block[282], block[283])
            else:
                found = image.info["dpi"]
        return [float(number) for number in found] == pytest.approx([x, y or x], abs=0.02)

    return check


def has_profile(path: Path) -> bool:
    with Image.open(path) as image:
        return image.info["icc_profile"] == SRGB


def jfif(unit: int, x: int, y: int) -> bytes:
    data = jpeg()
    return data[:13] + struct.pack(">BHH", unit, x, y) + data[18:]


JPEG = {
    "EXIF": Row(jpeg((0xE1, b"Exif\0\0" + EXIF)), ".jpg", has_exif),
    "EXIF to PNG": Row(jpeg((0xE1, b"Exif\0\0" + EXIF)), ".png", has_exif),
    "EXIF to WebP": Row(jpeg((0xE1, b"Exif\0\0" + EXIF)), ".webp", has_exif),
    "EXIF to TIFF": Row(
        jpeg((0xE1, b"Exif\0\0" + EXIF)),
        ".tif",
        lambda path: has_exif(path, maker_note=False),
        "the camera's maker note",
    ),
    "EXIF to BMP": Row(jpeg((0xE1, b"Exif\0\0" + EXIF)), ".bmp", named="the EXIF block was dropped"),
    "a second EXIF block": Row(
        jpeg((0xE1, b"Exif\0\0" + EXIF), (0xE1, b"Exif\0\0" + EXIF)), ".jpg", named="application segment 1 (Exif)"
    ),
    "XMP": Row(jpeg((0xE1, XMP_SEGMENT + XMP)), ".jpg", has_segment(0xE1, XMP_SEGMENT + LARGER_XMP)),
    "XMP to PNG": Row(
        jpeg((0xE1, XMP_SEGMENT + XMP)), ".png", has_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LARGER_XMP)
    ),
    "XMP to WebP": Row(jpeg((0xE1, XMP_SEGMENT + XMP)), ".webp", has_riff(b"XMP ", LARGER_XMP)),
    "XMP to TIFF": Row(jpeg((0xE1, XMP_SEGMENT + XMP)), ".tif", has_field(700, LARGER_XMP)),
    "XMP to BMP": Row(jpeg((0xE1, XMP_SEGMENT + XMP)), ".bmp", named="the XMP packet"),
    "extended XMP": Row(jpeg((0xE1, XMP_SEGMENT + XMP), (0xE1, MORE_XMP)), ".jpg", has_segment(0xE1, MORE_XMP)),
    "extended XMP to PNG": Row(jpeg((0xE1, XMP_SEGMENT + XMP), (0xE1, MORE_XMP)), ".png", named="the extended XMP"),
    "ICC": Row(jpeg(icc_profile=SRGB), ".jpg", has_profile),
    "ICC to BMP": Row(jpeg(icc_profile=SRGB), ".bmp", named="the ICC profile was dropped: BMP holds none"),
    "IPTC": Row(jpeg((0xED, PHOTOSHOP + RESOURCES)), ".jpg", has_segment(0xED, PHOTOSHOP + LARGER_RESOURCES)),
    "IPTC in two segments": Row(
        jpeg((0xED, PHOTOSHOP + RESOURCES[:50]), (0xED, PHOTOSHOP + RESOURCES[50:])),
        ".jpg",
        has_segment(0xED, PHOTOSHOP + LARGER_RESOURCES),
    ),
    "IPTC to TIFF": Row(
        jpeg((0xED, PHOTOSHOP + RESOURCES)),
        ".tif",
        lambda path: (tiff_fields(path)[33723], tiff_fields(path)[34377]) == (IPTC, LARGER_RESOURCES),
    ),
    "IPTC to PNG": Row(
        jpeg((0xED, PHOTOSHOP + RESOURCES)),
        ".png",
        lambda path: any(
            content.startswith(b"Raw profile type iptc\0\0")
            and bytes.fromhex(zlib.decompress(content[23:]).split(None, 2)[2].decode()) == LARGER_RESOURCES
            for name, content in chunks(path.read_bytes())
            if name == b"zTXt"
        ),
    ),
    "IPTC to WebP": Row(jpeg((0xED, PHOTOSHOP + RESOURCES)), ".webp", named="the IPTC record"),
    "Photoshop's guides": Row(jpeg((0xED, PHOTOSHOP + GUIDES)), ".jpg", named="guides and slices"),
    "damaged resources": Row(jpeg((0xED, PHOTOSHOP + RESOURCES + b"8BIMxx")), ".jpg", named="resources is damaged"),
    "dots per inch": Row(jfif(1, 300, 150), ".jpg", dpi(600, 300)),
    "dots per cm": Row(jfif(2, 100, 100), ".jpg", dpi(508)),
    "dots per inch to PNG": Row(jfif(1, 300, 150), ".png", dpi(600, 300)),
    "dots per inch to WebP": Row(jfif(1, 300, 150), ".webp", dpi(600, 300)),
    "dots per inch to TIFF": Row(jfif(1, 300, 150), ".tif", dpi(600, 300)),
    "dots per inch to BMP": Row(jfif(1, 300, 300), ".bmp", dpi(600)),
    "dots per inch beside EXIF without them to WebP": Row(
        jfif(1, 300, 300)[:20] + segment(0xE1, b"Exif\0\0" + exif({0x010F: "Maker"})) + jfif(1, 300, 300)[20:],
        ".webp",
        named="the resolution",
    ),
    "dots beyond 16 bits": Row(jfif(1, 40000, 40000), ".jpg", dpi(65535)),
    "shape of pixels": Row(
        jfif(0, 2, 1), ".jpg", lambda path: segments(path.read_bytes())[0][1][7:12] == b"\0\0\4\0\2"
    ),
    "shape of pixels to BMP": Row(jfif(0, 2, 1), ".bmp", named="the shape of its pixels"),
    "comment": Row(jpeg((0xFE, b"a comment")), ".jpg", has_segment(0xFE, b"a comment")),
    "comment to PNG": Row(jpeg((0xFE, b"a comment")), ".png", has_chunk(b"tEXt", b"Comment\0a comment")),
    "comment to TIFF": Row(jpeg((0xFE, b"a comment")), ".tif", named="the comment"),
    "index of further images": Row(jpeg((0xE2, b"MPF\0II*\0")), ".jpg", named="further images (MPF)"),
    "FlashPix": Row(jpeg((0xE2, b"FPXR\0abc")), ".jpg", named="FlashPix"),
    "gain map": Row(jpeg((0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")), ".jpg", named="gain map"),
    "content credentials": Row(jpeg((0xEB, b"JP\0\1")), ".jpg", named="content credentials (C2PA)"),
    "Ducky": Row(jpeg((0xEC, b"Ducky\0\1")), ".jpg", named="(Ducky)"),
    "an unknown segment": Row(jpeg((0xE9, b"Foo\0\1\2")), ".jpg", named="application segment 9 (Foo)"),
    "colour transform": Row(jpeg((0xEE, b"Adobe\0\x64\0\0\0\0\1")), ".jpg"),
    "data after the end": Row(jpeg(after=jpeg()), ".jpg", named="the data after the image were dropped"),
}


def raw_profile(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    text = b"\n%s\n%8d\n%s\n" % (kind, len(content), content.hex().encode())
    return b"zTXt", b"Raw profile type " + kind + b"\0\0" + zlib.compress(text)


METRE = struct.pack(">IIB", 11811, 11811, 1)
KEPT_CHUNKS = {
    b"tEXt": b"Title\0a title",
    b"zTXt": b"Author\0\0" + zlib.compress(b"somebody"),
    b"iTXt": b"parameters\0\0\0\0\0a prompt",
    b"gAMA": struct.pack(">I", 100000),
    b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
    b"sRGB": b"\1",
    b"cICP": b"\x09\x10\0\1",
    b"mDCV": bytes(range(24)),
    b"cLLI": bytes(range(8)),
    b"tIME": struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5),
    b"bKGD": struct.pack(">HHH", 1, 2, 3),
    b"pCAL": b"x\0\0\0\0\0\0\0\0\1\0\2m\x000\x001",
    b"sTER": b"\0",
    b"prVt": b"private, safe to copy",
}
NAMED_CHUNKS = {
    b"sBIT": (b"\5\6\5", "significant bits (sBIT)"),
    b"sPLT": (b"x\0\x08", "a suggested palette (sPLT)"),
    b"oFFs": (bytes(9), "offset on its page (oFFs)"),
    b"sCAL": (b"\x011\x001", "physical scale (sCAL)"),
    b"caBX": (b"x", "content credentials (C2PA)"),
    b"prVT": (b"x", "its chunk 'prVT' was dropped"),
}
# Where another kind of file loses a chunk, what the note says; empty where nothing is lost.
LOST_IN_JPEG = {
    b"tEXt": "the text Title",
    b"zTXt": "the text Author",
    b"iTXt": "the text parameters",
    b"gAMA": "its gamma (gAMA)",
    b"cHRM": "its primaries (cHRM)",
    b"sRGB": "",
    b"cICP": "(cICP), which are not sRGB",
    b"mDCV": "mastering display",
    b"cLLI": "light levels",
    b"tIME": "the chunk tIME",
    b"bKGD": "the chunk bKGD",
    b"pCAL": "the chunk pCAL",
    b"sTER": "the chunk sTER",
    b"prVt": "the chunk prVt",
}
PALETTE = {"mode": "P"}


def palette_background() -> bytes:
    return png((b"bKGD", b"\7"), **PALETTE)


def has_palette_background(path: Path) -> bool:
    palette = dict(chunks(palette_background()))[b"PLTE"]
    return has_chunk(b"bKGD", struct.pack(">HHH", *palette[21:24]))(path)


PNG = {
    **{
        name.decode(): Row(png((name, content)), ".png", has_chunk(name, content))
        for name, content in KEPT_CHUNKS.items()
    },
    **{name.decode(): Row(png((name, content)), ".png", named=note) for name, (content, note) in NAMED_CHUNKS.items()},
    **{
        f"{name.decode()} to {suffix}": Row(png((name, KEPT_CHUNKS[name])), suffix, named=note)
        for name, note in LOST_IN_JPEG.items()
        for suffix in (".jpg", ".webp", ".tif", ".bmp")
    },
    "pHYs": Row(png((b"pHYs", METRE)), ".png", has_chunk(b"pHYs", struct.pack(">IIB", 23622, 23622, 1))),
    "pHYs to JPEG": Row(png((b"pHYs", METRE)), ".jpg", dpi(600)),
    "pHYs to TIFF": Row(png((b"pHYs", METRE)), ".tif", dpi(600)),
    "pHYs to BMP": Row(png((b"pHYs", METRE)), ".bmp", dpi(600)),
    "shape of pixels": Row(
        png((b"pHYs", struct.pack(">IIB", 2, 1, 0))), ".png", has_chunk(b"pHYs", struct.pack(">IIB", 4, 2, 0))
    ),
    "iCCP": Row(png(icc_profile=SRGB), ".png", has_profile),
    "eXIf": Row(png((b"eXIf", EXIF)), ".png", has_exif),
    "XMP": Row(
        png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), ".jpg", has_segment(0xE1, XMP_SEGMENT + LARGER_XMP)
    ),
    "XMP with padding too long for JPEG": Row(
        png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP + b" " * 70000)),
        ".jpg",
        has_segment(0xE1, XMP_SEGMENT + LARGER_XMP),
    ),
    "XMP too long for JPEG": Row(
        png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP + b"<!--" + b"x" * 70000 + b"-->")),
        ".jpg",
        named="the XMP packet",
    ),
    "comment": Row(png((b"tEXt", b"Comment\0caf\xe9")), ".jpg", has_segment(0xFE, "café".encode())),
    "comment beyond Latin-1": Row(
        png((b"iTXt", b"Comment\0\0\0\0\0" + "画".encode())),
        ".png",
        has_chunk(b"iTXt", b"Comment\0\0\0\0\0" + "画".encode()),
    ),
    "EXIF in a raw profile": Row(png(raw_profile(b"exif", b"Exif\0\0" + EXIF)), ".jpg", has_exif),
    "XMP in a raw profile": Row(png(raw_profile(b"xmp", XMP)), ".jpg", has_segment(0xE1, XMP_SEGMENT + LARGER_XMP)),
    "IPTC in a raw profile": Row(
        png(raw_profile(b"iptc", PHOTOSHOP + RESOURCES)), ".jpg", has_segment(0xED, PHOTOSHOP + LARGER_RESOURCES)
    ),
    "bare IPTC in a raw profile": Row(
        png(raw_profile(b"iptc", IPTC)), ".jpg", has_segment(0xED, PHOTOSHOP + resource(0x0404, IPTC))
    ),
    "a damaged raw profile stays a text": Row(
        png((b"tEXt", b"Raw profile type exif\0nonsense")),
        ".png",
        has_chunk(b"tEXt", b"Raw profile type exif\0nonsense"),
    ),
    "grey bKGD": Row(png((b"bKGD", b"\0\7"), mode="L"), ".png", has_chunk(b"bKGD", b"\0\7")),
    "bKGD of 1 bit": Row(png((b"bKGD", b"\0\1"), mode="1"), ".png", has_chunk(b"bKGD", b"\0\xff")),
    "bKGD of a palette": Row(palette_background, ".png", has_palette_background),
    "sBIT of all bits": Row(png((b"sBIT", b"\x08\x08\x08")), ".png"),
    "gAMA of sRGB to JPEG": Row(png((b"gAMA", struct.pack(">I", 45455))), ".jpg"),
    "cHRM beside a profile to JPEG": Row(png((b"cHRM", KEPT_CHUNKS[b"cHRM"]), icc_profile=SRGB), ".jpg", has_profile),
    "cICP of sRGB to JPEG": Row(png((b"cICP", b"\1\x0d\0\1")), ".jpg"),
    "an animation of one frame": Row(
        png((b"acTL", struct.pack(">II", 1, 0)), (b"fcTL", struct.pack(">5I2H2B", 0, WIDTH, HEIGHT, 0, 0, 1, 1, 0, 0))),
        ".png",
    ),
    "data after the end": Row(png(after=b"more"), ".png", named="the data after the end of the image"),
    "a damaged text": Row(
        png().replace(b"IDAT", b"IDAT", 1)[:33] + chunk(b"tEXt", b"a\0b")[:-1] + b"?" + png()[33:],
        ".png",
        named="damaged 'tEXt' chunk",
    ),
}

GEO = {
    33550: (12, (0.5, 0.25, 0.0)),
    33922: (12, (0.0, 0.0, 0.0, 100.0, 200.0, 0.0)),
    34735: (3, (1, 1, 0, 1, 1025, 0, 1, 1)),
    34736: (12, (1.5,)),
    34737: (2, "WGS 84|"),
    42113: (2, "-9999"),
}
POINT = {
    33922: (12, (3.0, 1.0, 0.0, 100.0, 200.0, 0.0)),
    34735: (3, (1, 1, 0, 1, 1025, 0, 1, 2)),
}
MATRIX = (0.5, 0.0, 0.0, 100.0, 0.0, -0.25, 0.0, 200.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def tiff_with_page(kind: int) -> bytes:
    """A TIFF file with a second page of 1 x 1 pixel."""
    data = bytearray(tiff())
    (offset,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, offset)
    struct.pack_into("<I", data, offset + 2 + 12 * count, len(data))
    return bytes(data) + struct.pack("<HHHIII", 1, 254, 4, 1, kind, 0)


TIFF = {
    "resolution": Row(tiff(dpi=(300, 150)), ".tif", dpi(600, 300)),
    "resolution, big-endian": Row(tiff({282: (5, 300.0), 283: (5, 300.0), 296: (3, 2)}, order=">"), ".tif", dpi(600)),
    "resolution to JPEG": Row(
        tiff({282: (5, 300.0), 283: (5, 150.0), 296: (3, 2)}),
        ".jpg",
        lambda path: segments(path.read_bytes())[0][1][7:12] == struct.pack(">BHH", 1, 600, 300),
    ),
    "resolution per cm to PNG": Row(tiff({282: (5, 100.0), 283: (5, 100.0), 296: (3, 3)}), ".png", dpi(508)),
    "ICC": Row(tiff(icc_profile=SRGB), ".tif", has_profile),
    "title and artist": Row(
        tiff({270: (2, "a title"), 315: (2, "somebody")}),
        ".jpg",
        lambda path: Image.open(path).getexif()[315] == "somebody",
    ),
    "EXIF": Row(
        tiff(exif=b"Exif\0\0" + exif({0x010F: "Maker"}, {0x9003: "2020:01:02 03:04:05"})),
        ".tif",
        lambda path: Image.open(path).getexif().get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05",
    ),
    "maker note": Row(tiff(exif=b"Exif\0\0" + EXIF), ".tif", named="the camera's maker note"),
    "XMP": Row(tiff({700: (1, XMP)}), ".tif", has_field(700, LARGER_XMP)),
    "XMP to JPEG": Row(tiff({700: (1, XMP)}), ".jpg", has_segment(0xE1, XMP_SEGMENT + LARGER_XMP)),
    "IPTC": Row(tiff({33723: (7, IPTC)}), ".tif", has_field(33723, IPTC)),
    "IPTC to JPEG": Row(tiff({33723: (7, IPTC)}), ".jpg", has_segment(0xED, PHOTOSHOP + resource(0x0404, IPTC))),
    "Photoshop's resources": Row(tiff({34377: (1, RESOURCES)}), ".tif", has_field(34377, LARGER_RESOURCES)),
    "GeoTIFF": Row(
        tiff(GEO),
        ".tif",
        lambda path: (
            (fields := tiff_fields(path))[33550] == (0.25, 0.125, 0.0)
            and fields[33922] == GEO[33922][1]
            and all(fields[tag] == GEO[tag][1] for tag in (34735, 34737, 42113))
        ),
    ),
    # The centre of pixel 3 is 3.5 from the edge, twice as much in the larger image, and so at 6.5.
    "GeoTIFF of points": Row(tiff(GEO | POINT), ".tif", has_field(33922, (6.5, 2.5, 0.0, 100.0, 200.0, 0.0))),
    "GeoTIFF by a matrix": Row(
        tiff({34264: (12, MATRIX)}),
        ".tif",
        has_field(34264, (0.25, *MATRIX[1:5], -0.125, *MATRIX[6:])),
    ),
    "GeoTIFF to PNG": Row(tiff(GEO), ".png", named="the georeference (GeoTIFF)"),
    "name of the document": Row(tiff({269: (2, "name")}), ".tif", has_field(269, "name")),
    "Photoshop's layers": Row(tiff({37724: (7, b"layers")}), ".tif", named="Photoshop's layers"),
    "unknown tags": Row(tiff({65000: (3, 1), 65001: (3, 1)}), ".tif", named="the TIFF tags 65000, 65001"),
    "a smaller version": Row(tiff_with_page(1), ".tif", named="a smaller version of its image"),
    "a mask": Row(tiff_with_page(4), ".tif", named="the mask of its image"),
}
WEBP = {
    "EXIF": Row(webp((b"EXIF", EXIF), flags=8), ".webp", has_exif),
    "XMP": Row(webp((b"XMP ", XMP), flags=4), ".webp", has_riff(b"XMP ", LARGER_XMP)),
    "ICCP": Row(encoded("WEBP", icc_profile=SRGB), ".webp", has_profile),
    "ALPH": Row(
        encoded("WEBP", mode="RGBA"),
        ".webp",
        lambda path: bool(
            np.abs(written(path)[..., 3] - enlarged(picture(alpha=True), 2)[..., 3].astype(float)).max() < 4
        ),
    ),
    "an unknown chunk": Row(webp((b"ABCD", b"x")), ".webp", named="its chunk 'ABCD' was dropped"),
    "lossless": Row(
        encoded("WEBP", lossless=True), ".webp", lambda path: np.array_equal(written(path), enlarged(picture(), 2))
    ),
    "lossy": Row(encoded("WEBP"), ".webp", lambda path: b"VP8 " in path.read_bytes()[:16]),
}


def close(error: float, channels: int = 3) -> Callable[[Path], bool]:
    """Whether the pixels are those of `picture`, as many channels of them, to an error."""

    def check(path: Path) -> bool:
        pixels = written(path).astype(float)
        if pixels.shape[2] != channels:
            return False
        return bool(np.abs(pixels[..., :3] - enlarged(picture(), 2)).max() <= error)

    return check


M565, M8888 = [0xF800, 0x7E0, 0x1F], [0xFF0000, 0xFF00, 0xFF, 0xFF000000]
BMP = {
    "5 bits a channel": Row(bmp(None, 16), ".png", close(4.2)),
    "5 bits by masks of 5, 6, 5": Row(bmp(M565, 16), ".png", close(4.2)),
    "32 bits without masks": Row(bmp(None, 32), ".png", close(0)),
    "32 bits from the top": Row(bmp(None, 32, top_down=True), ".png", close(0)),
    "masks of a short header": Row(bmp(M8888[:3], 32), ".png", close(0)),
    "masks in another order": Row(bmp([0xFF, 0xFF00, 0xFF0000], 32), ".png", close(0)),
    "alpha": Row(
        bmp(M8888, 32, header=108, alpha=100), ".png", lambda path: bool((written(path)[..., 3] == 100).all())
    ),
    "alpha of zeros": Row(bmp(M8888, 32, header=108), ".png", close(0), "its alpha is 0 everywhere"),
    "10 bits a channel": Row(
        bmp([0x3FF00000, 0xFFC00, 0x3FF], 32),
        ".png",
        lambda path: bool(np.abs(written(path) / 257 - enlarged(picture(), 2)).max() < 0.2),
    ),
    "dots per metre": Row(bmp(None, 32, metre=11811), ".bmp", dpi(600)),
    "ICC": Row(bmp(None, 32, header=124, kind=b"DEBM", profile=SRGB), ".png", has_profile),
    "ICC in another file": Row(bmp(None, 32, header=124, kind=b"KNIL"), ".png", named="profile is another file"),
    "gamma": Row(bmp(None, 32, header=108, kind=bytes(4), gamma=1 << 16), ".png", named="primaries and gamma"),
}
TRANSPARENT = encoded("PNG", mode="RGBA")
PNM = {
    "comment": Row(b"P2 # a comment\n2 1 255\n0 255\n", ".png", has_chunk(b"tEXt", b"Comment\0a comment")),
    "plain colours": Row(
        b"P3 2 1 10 10 0 5 0 0 0", ".png", lambda path: written(path)[0].tolist() == 2 * [[255, 0, 128]] + 2 * [[0] * 3]
    ),
    "plain bits": Row(b"P1 2 1 10", ".png", lambda path: written(path)[0].tolist() == [0, 0, 255, 255]),
    "bits": Row(b"P4 2 1\n\x80", ".png", lambda path: written(path)[0].tolist() == [0, 0, 255, 255]),
    "16 bits": Row(
        b"P5 2 1 1000\n\x03\xe8\0\0", ".png", lambda path: written(path)[0].tolist() == [65535, 65535, 0, 0]
    ),
    "transparency to JPEG": Row(TRANSPARENT, ".jpg", named="JPEG holds no transparency"),
}
ROWS = {
    f"{kind}, {name}": row
    for kind, rows in {"JPEG": JPEG, "PNG": PNG, "TIFF": TIFF, "WebP": WEBP, "BMP": BMP, "PNM": PNM}.items()
    for name, row in rows.items()
}


@pytest.mark.parametrize("name", ROWS)
def test_what_an_image_holds_is_kept_or_named(tmp_path, name):
    row = ROWS[name]
    target, notes = upscaled(tmp_path, row.data if isinstance(row.data, bytes) else row.data(), row.suffix)
    assert sum(row.named in note for note in notes) == 1 if row.named else notes == []
    assert row.kept(target)
    if name != "TIFF, unknown tags":
        assert len(notes) == (row.named != "")
    # What was written can be read again, and is whole.
    with Image.open(target) as seen:
        seen.load()
        assert seen.width % 2 == 0


def test_a_turned_image_has_its_resolution_turned(tmp_path):
    block = exif({0x0112: 6, 282: 300.0, 283: 150.0, 296: 2})
    xmp = b'<x tiff:Orientation="6"/>'
    data = jpeg((0xE1, b"Exif\0\0" + block), (0xE1, XMP_SEGMENT + xmp))
    target, _ = upscaled(tmp_path, data, ".bmp")
    assert written(target).shape[:2] == (2 * WIDTH, 2 * HEIGHT)
    assert dpi(300, 600)(target)
    # A block too large for JPEG is dropped, and the image turned: the packet must not turn it again.
    target, _ = upscaled(
        tmp_path, png((b"eXIf", block + bytes(1 << 16)), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)), ".jpg"
    )
    assert has_segment(0xE1, XMP_SEGMENT + xmp.replace(b"6", b"1"))(target)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_hidden_colours_do_not_reach_the_edge(tmp_path, dtype):
    most = int(np.iinfo(dtype).max)
    y, x = np.mgrid[:64, :64]
    alpha = np.clip((24 - np.hypot(x - 32, y - 32)) * most, 0, most).astype(dtype)
    pixels = np.dstack([np.full((64, 64, 3), most // 2, dtype), alpha])
    pixels[alpha == 0] = 0
    cv2.imwrite(str(tmp_path / "in.png"), pixels)

    class Blurred(Nearest):
        def __call__(self, image: np.ndarray) -> np.ndarray:
            return cv2.blur(enlarged(image, 2), (7, 7))

    upscale_image(Job(tmp_path / "in.png", tmp_path / "out.png", "image"), Blurred(), overwrite=False)
    result = written(tmp_path / "out.png")
    assert np.abs(result[result[..., 3] > 0][:, :3].astype(int) - most // 2).max() <= 1


def test_an_invisible_image_stays_as_it_is(tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), np.dstack([picture(), np.zeros((HEIGHT, WIDTH), np.uint8)]))
    target, _ = upscaled(tmp_path, (tmp_path / "in.png").read_bytes(), ".png")
    np.testing.assert_array_equal(written(target)[..., 2::-1], enlarged(picture(), 2))


# The kind of a file


@pytest.mark.parametrize("name", ["photo.jfif", "photo.jpe", "photo", "photo.v2", "photo.JPG", "photo.mp4"])
def test_content_decides_that_a_file_is_an_image(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(jpeg())
    for inputs in ([folder], [folder / name]):
        (job,) = make_plan(inputs, tmp_path / "out", overwrite=False).jobs
        expected = name if name == "photo.JPG" else "photo.jpg"
        assert (job.kind, job.target) == ("image", tmp_path / "out" / expected)


def test_two_images_that_would_get_the_same_name(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.jfif", "b.jfif"):
        (tmp_path / "in" / name).write_bytes(jpeg())
    plan = make_plan([tmp_path / "in"], tmp_path / "out", overwrite=False)
    assert sorted(job.target.name for job in plan.jobs) == ["a.jfif.jpg", "a.jpg", "b.jpg"]


KINDS = {
    "a": (png(), "image", ".png"),
    "b": (tiff(), "image", ".tif"),
    "c": (encoded("WEBP"), "image", ".webp"),
    "d": (bmp(None, 32), "image", ".bmp"),
    "e": (encoded("PPM"), "image", ".png"),
    "f.tga": (encoded("TGA"), "image", ".png"),
    "g": (encoded("JPEG2000"), "image", ".png"),
    "h": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image", ".png"),
    "i": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "image", ".png"),
    "j.png": (png((b"acTL", struct.pack(">II", 2, 0))), "video", ".mkv"),
    "k.mjpeg": (jpeg() + jpeg(), "video", ".mkv"),
    "l.png": (b"no image", "image", ".png"),
    "BM": (b"BM is no image", "video", ".mkv"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_by_content(tmp_path, name):
    data, kind, suffix = KINDS[name]
    (tmp_path / name).write_bytes(data)
    (job,) = make_plan([tmp_path / name], tmp_path / "out", overwrite=False).jobs
    assert (job.kind, job.target.suffix) == (kind, suffix)


def test_folders_give_images_of_any_name_and_no_other_files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, (data, _, _) in KINDS.items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("text")
    plan = make_plan([folder], tmp_path / "out", overwrite=False)
    # Those with the suffix of a video are taken as well.
    assert {job.source.name for job in plan.jobs} == KINDS.keys() - {"k.mjpeg", "BM"}


def avif_of_10_bits() -> bytes:
    buffer = io.BytesIO()
    codec = next((name for name in ("libsvtav1", "libaom-av1") if name in av.codecs_available), None)
    if codec is None:
        pytest.skip("this FFmpeg cannot make AV1")
    with scheduling_kept(), av.open(buffer, "w", format="avif") as output:
        stream = output.add_stream(codec, rate=1, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 200, np.uint8))))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "suffix", "error"), [("TGA", ".tga", 0), ("JPEG2000", ".jp2", 0), ("AVIF", ".avif", 30)]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_kinds_that_are_only_read(tmp_path, kind, suffix, error, mode):
    try:
        data = encoded(kind, mode=mode, **({"irreversible": False} if kind == "JPEG2000" else {}))
    except (KeyError, OSError):
        pytest.skip(f"Pillow cannot write {kind}")
    target, notes = upscaled(tmp_path, data, ".png", f"in{suffix}")
    pixels = written(target)
    expected = picture(alpha=mode == "RGBA")
    if mode == "L":
        expected = np.asarray(Image.fromarray(expected).convert("L"))
        pixels = pixels if pixels.ndim == 2 else pixels[..., 0]
    expected = enlarged(expected, 2).astype(float)
    if mode == "RGBA":
        assert np.abs(pixels[..., 3] - expected[..., 3]).max() < 10
        pixels, expected = pixels[..., :3], expected[..., :3]
    assert np.abs(pixels - expected).max() <= error
    assert [note for note in notes if "only the pixels of" in note] == notes


def test_bytes_of_an_avif_image_that_look_like_a_turn_are_none(tmp_path):
    """Pixels' data, here those of another box, may hold the name of a property by chance."""
    data = encoded("AVIF", mode="RGB")
    (tmp_path / "other").mkdir()
    plain, _ = upscaled(tmp_path, data, ".png")
    other, _ = upscaled(tmp_path / "other", data + struct.pack(">I", 18) + b"free" + b"irot\x01imir\x01", ".png")
    assert np.array_equal(written(other), written(plain))


def test_avif_of_10_bits_fills_the_range(tmp_path):
    target, _ = upscaled(tmp_path, avif_of_10_bits(), ".png")
    pixels = written(target)
    assert pixels.dtype == np.uint16
    assert np.abs(pixels / 257 - 200).max() < 3


def test_heic_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", 40, 24)
    with pytest.raises(InputError, match=r"pip install 'overnet\[heic\]' reads it, or convert"):
        upscaled(tmp_path, data, ".png")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_heic_with_its_library(tmp_path, mode):
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(picture(alpha=mode == "RGBA")).convert(mode)
    turn = Image.Exif()
    turn[0x0112] = 6
    heif.from_pillow(image).save(tmp_path / "a.heic", quality=100, exif=turn.tobytes())
    target, notes = upscaled(tmp_path, (tmp_path / "a.heic").read_bytes(), ".png")
    upright = np.rot90(enlarged(np.asarray(image), 2), -1).astype(float)
    assert np.abs(written(target) - upright).mean() < 4
    assert notes == ["only the pixels of HEIC are read: its metadata and colour profile were dropped"]
    (tmp_path / "a.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:200])
    with pytest.raises(InputError, match="pillow-heif cannot read"):
        upscaled(tmp_path, (tmp_path / "a.heic").read_bytes(), ".png")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff({50706: (1, b"\1\4\0\0")}), "camera's raw file: develop it first"),
        (tiff({254: (4, 1), 330: (4, 8)}), "camera's raw file"),
        (tiff()[:8] + b"CR" + tiff()[10:], "raw file|damaged"),
        (b"FUJIFILMCCD-RAW 0201", "raw file"),
        (b"\0\0\0\x18ftypcrx ", "raw file"),
        (encoded("JPEG2000")[:60], "damaged|truncated|no size"),
        (b"P3 2 1 255 1 2 3", "truncated"),
        (b"P6 2 1 0\n123456", "out of range"),
        (b"P5 2 2x 255 1234", "header"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, data, reason):
    with pytest.raises(InputError, match=reason):
        upscaled(tmp_path, data, ".png", "in.dng")


def test_a_compression_that_opencv_cannot_read_is_named(tmp_path):
    data = bytearray(tiff())
    (offset,) = struct.unpack_from("<I", data, 4)
    at = data.index(struct.pack("<HHIH", 259, 3, 1, 1), offset)
    struct.pack_into("<H", data, at + 8, 50000)
    with pytest.raises(InputError, match="is a TIFF compressed by Zstandard, which this OpenCV cannot read; save it"):
        upscaled(tmp_path, bytes(data), ".png")


@needs_shared
def test_the_cases(tmp_path):
    """The files of the cases that have no row of their own above."""

    def made(name: str, suffix: str) -> tuple[Path, list[str]]:
        return upscaled(tmp_path, (CASES / name).read_bytes(), suffix, name)

    target, notes = made("bitfields40.bmp", ".png")
    assert (written(target).shape, written(target)[0, 0].tolist(), notes) == ((60, 84, 3), [40, 30, 220], [])
    target, notes = made("rgbx.tif", ".png")
    assert written(target).shape == (60, 84, 3)
    assert notes == ["its fourth band was dropped: it is stated to be no alpha (ExtraSamples 0)"]
    assert made("photo.jfif", ".png")[1] == []
    target, notes = made("xmp_dpi.jpg", ".jpg")
    assert dpi(600)(target)
    assert any(b"holiday" in content for _, content in segments(target.read_bytes()))
    assert has_segment(0xFE, b"a comment")(target)
    target, notes = made("cicp_pq.png", ".png")
    assert has_chunk(b"cICP", b"\x09\x10\0\1")(target)
    assert notes == []
    source = cv2.imread(str(CASES / "lossless.webp"))[..., ::-1]
    np.testing.assert_array_equal(written(made("lossless.webp", ".webp")[0]), enlarged(source, 2))
    with pytest.raises(InputError, match="Zstandard"):
        made("zstd.tif", ".png")


def test_every_folder_of_images_goes_by_content(tmp_path):
    """For overnet-run, test sets, training and calibration alike; a file by another name was skipped silently."""
    for name, content in {
        "a.jfif": jpeg(),
        "b": png(),
        "c.png": b"damaged",
        "d.txt": b"text",
        "e.mjpeg": jpeg(),
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f.png").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir() if is_image_file(path)) == ["a.jfif", "b", "c.png"]
