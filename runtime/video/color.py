"""Colour: which YUV a video is stored in, and the exact way from it to RGB and back.

Decoding and encoding use the same matrix and range, both named explicitly: swscale's own defaults (BT.601,
limited) and its fast paths (nearest chroma, truncation) are what shifts colours in most upscalers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

MATRIX_RGB = 0
MATRIX_BT709 = 1
MATRIX_UNSPECIFIED = 2
MATRIX_SMPTE170M = 6
TRANSFER_PQ = 16
TRANSFER_HLG = 18
RANGE_LIMITED = 1
RANGE_FULL = 2

# swscale's own numbers; PyAV names only some of them before version 17.
_SWS_BT709 = 1
_SWS_BT601 = 5
_SWS_BICUBIC = 0x4
_SWS_FULL_CHR_H_INT = 0x2000
_SWS_FULL_CHR_H_INP = 0x4000
_SWS_ACCURATE_RND = 0x40000
# AVColorSpace -> the matrices swscale knows. BT.2020 constant luminance (10) goes both ways by the non-constant
# rule: what the network sees is slightly off, what is written is in the source's own terms.
_SWSCALE_MATRIX = {1: _SWS_BT709, 4: 4, 5: _SWS_BT601, 6: _SWS_BT601, 7: 7, 9: 9, 10: 9}
# Bicubic chroma, rounded rather than truncated, with chroma computed for every pixel in both directions.
_ACCURATE = _SWS_BICUBIC | _SWS_ACCURATE_RND | _SWS_FULL_CHR_H_INT | _SWS_FULL_CHR_H_INP

# How far swscale's widest vector instructions may read past the end of a line.
_READ_AHEAD_BYTES = 64


@dataclass(frozen=True)
class ColorTags:
    """How stored samples are to be read, in FFmpeg's integer values (2 = unspecified).

    Args:
        matrix: AVColorSpace, such as 1 for BT.709, 5 or 6 for BT.601, 9 for BT.2020.
        primaries: AVColorPrimaries; carried, never used for a conversion.
        transfer: AVColorTransferCharacteristic; carried, never used for a conversion.
        full_range: True for samples over 0..255 ("pc", "jpeg"), False for 16..235 ("tv", "mpeg").
    """

    matrix: int
    primaries: int
    transfer: int
    full_range: bool

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer is PQ or HLG."""
        return self.transfer in (TRANSFER_PQ, TRANSFER_HLG)

    @property
    def matrix_is_known(self) -> bool:
        """Whether the matrix is one that can be converted by."""
        return self.matrix in _SWSCALE_MATRIX


def guess_matrix(width: int, height: int) -> int:
    """Matrix that players assume for an untagged video of this size in pixels: BT.709 from 720 lines, else BT.601."""
    return MATRIX_BT709 if height >= 720 or width >= 1280 else MATRIX_SMPTE170M


def resolve(tagged: ColorTags, *, width: int, height: int, has_matrix: bool) -> ColorTags:
    """Fill in the matrix that a file does not name.

    RGB and grey video (GIF, screen captures) has no matrix and is written as limited-range YUV, so it gets what a
    video of its size would have.
    """
    if not has_matrix:
        return replace(tagged, matrix=guess_matrix(width, height), full_range=False)
    if tagged.matrix in (MATRIX_RGB, MATRIX_UNSPECIFIED):
        return replace(tagged, matrix=guess_matrix(width, height))
    return tagged


class _Converter:
    """One direction of a conversion; keeps swscale's tables, so one instance serves one thread."""

    def __init__(self, tags: ColorTags) -> None:
        self._reformatter = VideoReformatter()
        # A matrix swscale does not know (YCgCo, ICtCp) goes by BT.709 both ways, which at least cancels out.
        self._yuv_matrix = _SWSCALE_MATRIX.get(tags.matrix, _SWS_BT709)
        self._yuv_range = RANGE_FULL if tags.full_range else RANGE_LIMITED
        # The RGB side has no matrix, but older PyAV skips the whole colour set-up where both sides name the same one.
        self._rgb_matrix = _SWS_BT601 if self._yuv_matrix != _SWS_BT601 else _SWS_BT709


class RgbDecoder(_Converter):
    """Decoded frames to RGB.

    Args:
        tags: the resolved tags of the video.
        width, height: the size in pixels every frame is brought to, should one differ from the first.
        is_limited_grey: whether the frames are grey over 16..235, which swscale takes for 0..255.
    """

    def __init__(self, tags: ColorTags, *, width: int, height: int, is_limited_grey: bool = False) -> None:
        super().__init__(tags)
        self._width = width
        self._height = height
        stretched = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
        self._stretch = stretched if is_limited_grey else None

    def __call__(self, frame: VideoFrame, out: np.ndarray | None = None) -> np.ndarray:
        """Return the frame as an H x W x 3 uint8 array, C-contiguous.

        Args:
            out: such an array to write it to; None makes a new one. Either way the pixels are copied once: FFmpeg
                converts into a buffer of its own, whose lines may be padded.
        """
        # PyAV 17 does not pass BT.2020 on and goes by the frame's own tag, whose numbers are the same.
        frame.colorspace = self._yuv_matrix
        converted = self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="rgb24",
            src_colorspace=self._yuv_matrix,
            dst_colorspace=self._rgb_matrix,
            src_color_range=self._yuv_range,
            dst_color_range=RANGE_FULL,
            interpolation=_ACCURATE,
        )
        if out is None:
            out = np.empty((self._height, self._width, 3), np.uint8)
        np.copyto(out, _pixels(converted))
        if self._stretch is not None:
            np.take(self._stretch, out, out=out)
        return out


def _pixels(frame: VideoFrame) -> np.ndarray:
    """What is in an rgb24 frame's own buffer, H x W x 3 uint8, without a copy; not to be kept."""
    plane: Any = frame.planes[0]  # a buffer, which PyAV's types do not say
    lines: np.ndarray = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    return lines[:, : frame.width * 3].reshape(frame.height, frame.width, 3)


class RgbEncoder(_Converter):
    """RGB to frames for an encoder.

    Args:
        tags: the tags the output carries.
        pixel_format: FFmpeg's name of the encoder's pixel format, such as ``"yuv420p"``.
    """

    def __init__(self, tags: ColorTags, *, pixel_format: str) -> None:
        super().__init__(tags)
        self._pixel_format = pixel_format

    def __call__(self, rgb: np.ndarray) -> VideoFrame:
        """Return an H x W x 3 uint8 array as a new frame in the pixel format."""
        frame = self._wrapped(np.ascontiguousarray(rgb))
        # Inherited by the result: see RgbDecoder.
        frame.colorspace = self._yuv_matrix
        return self._reformatter.reformat(
            frame,
            format=self._pixel_format,
            src_colorspace=self._rgb_matrix,
            dst_colorspace=self._yuv_matrix,
            src_color_range=RANGE_FULL,
            dst_color_range=self._yuv_range,
            interpolation=_ACCURATE,
        )

    def _wrapped(self, rgb: np.ndarray) -> VideoFrame:
        """The array as a frame, without a copy where that is safe."""
        after = _bytes_after(rgb)
        if after < _READ_AHEAD_BYTES or self._pixel_format == "rgb24":
            # swscale may read past the end of the last line; and what needs no conversion would be kept by the encoder.
            return VideoFrame.from_ndarray(rgb, format="rgb24")
        return VideoFrame.from_numpy_buffer(rgb, format="rgb24")


def _bytes_after(array: np.ndarray) -> int:
    """How many bytes that are there for certain follow an array, in the array that it is the beginning of."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not owner.flags.c_contiguous or owner.ctypes.data != array.ctypes.data:
        return 0
    return int(owner.nbytes) - int(array.nbytes)
