"""Addresses that are not files: cameras, network streams, GStreamer pipelines and pipes."""

import re
from dataclasses import dataclass
from typing import Literal

from overnet.errors import InputError, printable

AddressKind = Literal["pipe", "camera", "csi", "network", "gst"]

_NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtp", "rtmp", "srt")
_NETWORK = re.compile(rf"(?:{'|'.join(_NETWORK_SCHEMES)})://", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,3}")
# The user and password of an address, up to the last @: an unescaped password may contain any character.
_USER = re.compile(r"(?<=://)[^\s\"']*@")
# Names under which cameras take a user or password in the rest of an address, and GStreamer elements in a pipeline.
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])((?:\w*[-_])?(?:user[-_]?(?:id|pw|name)?|login|pass(?:wd|word|phrase)?|pwd|token|secret|(?:api|stream)?key|auth)"
    r"\s*[=:]\s*)(\"[^\"]*\"|[^\s&_!\"']+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Address:
    """A live source or sink.

    Args:
        kind: ``pipe`` (standard input or output), ``camera`` or ``csi`` (of this machine), ``network``, or ``gst`` (a
            GStreamer pipeline).
        target: the path of a device, the number of a CSI sensor, a URL, or a pipeline.
        name: the address without passwords, for messages.
    """

    kind: AddressKind
    target: str
    name: str

    @property
    def scheme(self) -> str:
        """Return the protocol of a network stream, such as ``rtsp``; empty for other kinds."""
        return self.target.partition("://")[0].lower() if self.kind == "network" else ""

    @property
    def is_live(self) -> bool:
        """Tell whether frames arrive at their own rate. Those of a pipe wait until they are read."""
        return self.kind != "pipe"


def parse_address(text: str) -> Address | None:
    """Parse an input or output of the command line; return None for a file.

    Raises:
        InputError: the address begins with ``camera:``, ``csi:`` or ``gst:``, and the rest is not valid.
    """
    if text == "-":
        return Address("pipe", text, text)
    if _NETWORK.match(text):
        return Address("network", text, without_secrets(text))
    prefix, colon, rest = text.partition(":")
    if not colon or prefix not in ("camera", "csi", "gst"):
        return None
    if prefix == "gst":
        if not rest.strip():
            raise InputError("gst: needs a pipeline, as in: 'gst:videotestsrc is-live=true ! videoconvert'")
        return Address("gst", rest.strip(), without_secrets(text))
    if prefix == "camera" and rest.startswith("/dev/"):
        return Address("camera", rest, text)
    if not _NUMBER.fullmatch(rest):
        device = " or a device such as /dev/video0" if prefix == "camera" else ""
        raise InputError(f"{text}: {prefix}: needs a number{device}, as in {prefix}:0")
    return Address("camera", f"/dev/video{rest}", text) if prefix == "camera" else Address("csi", rest, text)


def without_secrets(text: str) -> str:
    """Return an address or pipeline for messages: on one line, with stars in place of users and passwords."""
    return printable(_SECRET.sub(r"\1***", _USER.sub("***@", text)))
