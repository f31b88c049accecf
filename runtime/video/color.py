"""Colour conversion between the YUV of a video and RGB, in both directions with the same matrix and range.

Both are passed explicitly: swscale's defaults (BT.601, limited range) and its fast paths (nearest chroma, truncation)
are what shifts colours in most upscalers.
"""

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

# swscale's constants, which PyAV defines only in part before version 17.
_SWS_BT709 = 1
_SWS_BT601 = 5
_SWS_BICUBIC = 0x4
_SWS_FULL_CHR_H_INT = 0x2000
_SWS_FULL_CHR_H_INP = 0x4000
_SWS_ACCURATE_RND = 0x40000
# AVColorSpace -> swscale's matrices. BT.2020 constant luminance (10) is converted by the non-constant rule in both
# directions: the network's input is slightly off, the output is stored as the source is.
_SWSCALE_MATRIX = {1: _SWS_BT709, 4: 4, 5: _SWS_BT601, 6: _SWS_BT601, 7: 7, 9: 9, 10: 9}
# Bicubic interpolation of chroma, computed for every pixel in both directions, and rounding in place of truncation.
_ACCURATE = _SWS_BICUBIC | _SWS_ACCURATE_RND | _SWS_FULL_CHR_H_INT | _SWS_FULL_CHR_H_INP

# Number of bytes that swscale's widest vector instructions may read past the end of a line.
_READ_AHEAD_BYTES = 64


@dataclass(frozen=True)
class ColorTags:
    """The colour tags of a video, in FFmpeg's integer values (2 = unspecified).

    Args:
        matrix: AVColorSpace, such as 1 for BT.709, 5 or 6 for BT.601, 9 for BT.2020.
        primaries: AVColorPrimaries; copied to the output, never used for a conversion.
        transfer: AVColorTransferCharacteristic; copied to the output, never used for a conversion.
        full_range: True for samples of 0 to 255 ("pc", "jpeg"), False for 16 to 235 ("tv", "mpeg").
    """

    matrix: int
    primaries: int
    transfer: int
    full_range: bool

    @property
    def is_hdr(self) -> bool:
        """Tell whether the transfer is PQ or HLG."""
        return self.transfer in (TRANSFER_PQ, TRANSFER_HLG)

    @property
    def matrix_is_known(self) -> bool:
        """Tell whether swscale can convert by the matrix."""
        return self.matrix in _SWSCALE_MATRIX


def guess_matrix(width: int, height: int) -> int:
    """Return the matrix that players assume for an untagged video: BT.709 from 1280 x 720 pixels on, else BT.601."""
    return MATRIX_BT709 if height >= 720 or width >= 1280 else MATRIX_SMPTE170M


def resolve(tagged: ColorTags, *, width: int, height: int, has_matrix: bool) -> ColorTags:
    """Return the tags with a matrix, guessed from the size where the file does not name one.

    RGB and grey video (GIF, screen captures) has no matrix and is written as limited-range YUV, with the matrix that a
    video of its size would have.

    Args:
        tagged: the tags of the file.
        width, height: size of the video in pixels.
        has_matrix: whether its pixel format is YUV.
    """
    if not has_matrix:
        return replace(tagged, matrix=guess_matrix(width, height), full_range=False)
    if tagged.matrix in (MATRIX_RGB, MATRIX_UNSPECIFIED):
        return replace(tagged, matrix=guess_matrix(width, height))
    return tagged


class _Converter:
    """Base of the two conversions; it keeps swscale's tables, so an instance must stay in one thread."""

    def __init__(self, tags: ColorTags) -> None:
        self._reformatter = VideoReformatter()
        # BT.709 replaces a matrix that swscale does not support (YCgCo, ICtCp): in both directions, the error cancels.
        self._yuv_matrix = _SWSCALE_MATRIX.get(tags.matrix, _SWS_BT709)
        self._yuv_range = RANGE_FULL if tags.full_range else RANGE_LIMITED
        # RGB has no matrix, but older PyAV skips the colour set-up if both sides name the same one: name another.
        self._rgb_matrix = _SWS_BT601 if self._yuv_matrix != _SWS_BT601 else _SWS_BT709


class RgbDecoder(_Converter):
    """A converter of decoded frames to RGB.

    Args:
        tags: the resolved tags of the video.
        width, height: size in pixels that every frame is resized to if it differs.
        is_limited_grey: whether the frames are grey with values of 16 to 235, which swscale takes for 0 to 255.
    """

    def __init__(self, tags: ColorTags, *, width: int, height: int, is_limited_grey: bool = False) -> None:
        super().__init__(tags)
        self._width = width
        self._height = height
        stretched = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
        self._stretch = stretched if is_limited_grey else None

    def __call__(self, frame: VideoFrame, out: np.ndarray | None = None) -> np.ndarray:
        """Return the frame as an H x W x 3 uint8 RGB array, C-contiguous.

        Args:
            frame: the decoded frame.
            out: array to write to; None makes a new one. The pixels are copied once in either case: FFmpeg converts
                into its own buffer, whose lines may be padded.
        """
        # PyAV 17 ignores an argument of BT.2020 and uses the frame's tag, which has the same numbers.
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
        plane: Any = converted.planes[0]  # a buffer, which PyAV's types do not say
        lines = np.frombuffer(plane, np.uint8).reshape(self._height, plane.line_size)
        np.copyto(out, lines[:, : self._width * 3].reshape(out.shape))
        if self._stretch is not None:
            np.take(self._stretch, out, out=out)
        return out


class RgbEncoder(_Converter):
    """A converter of RGB to frames for an encoder.

    Args:
        tags: the colour tags of the output.
        pixel_format: FFmpeg's name of the encoder's pixel format, such as ``"yuv420p"``.
    """

    def __init__(self, tags: ColorTags, *, pixel_format: str) -> None:
        super().__init__(tags)
        self._pixel_format = pixel_format

    def __call__(self, rgb: np.ndarray) -> VideoFrame:
        """Return an H x W x 3 uint8 RGB array as a new frame in the pixel format."""
        rgb = np.ascontiguousarray(rgb)
        # A frame without a copy is not safe where swscale may read past the end of the last line, nor where the encoder
        # would keep a frame that it need not convert.
        copies = _bytes_after(rgb) < _READ_AHEAD_BYTES or self._pixel_format == "rgb24"
        frame = (VideoFrame.from_ndarray if copies else VideoFrame.from_numpy_buffer)(rgb, format="rgb24")
        # The result inherits the tag: see RgbDecoder.
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


def _bytes_after(array: np.ndarray) -> int:
    """Return how many bytes follow an array within the larger array that it is the beginning of."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not owner.flags.c_contiguous or owner.ctypes.data != array.ctypes.data:
        return 0
    return int(owner.nbytes) - int(array.nbytes)
