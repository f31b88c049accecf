"""What is no file on the command line: cameras, network streams, GStreamer pipelines and pipes; and their passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from overnet.errors import InputError, printable

AddressKind = Literal["pipe", "camera", "csi", "network", "gst"]

_NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtp", "rtmp", "srt")
_NETWORK = re.compile(rf"(?:{'|'.join(_NETWORK_SCHEMES)})://", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,3}")
# The user and password of an address, up to the last @: unescaped passwords have any characters.
_USER = re.compile(r"(?<=://)[^\s\"']*@")
# What cameras call a password in the rest of an address, and GStreamer's elements in a pipeline.
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])((?:\w*[-_])?(?:user[-_]?(?:id|pw|name)?|login|pass(?:wd|word|phrase)?|pwd|token|secret|(?:api|stream)?key|auth)"
    r"\s*[=:]\s*)(\"[^\"]*\"|[^\s&_!\"']+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Address:
    """A live source or sink.

    Args:
        kind: ``pipe``: standard input or output; ``camera``, ``csi``: on this machine; ``network``; ``gst``: a
            pipeline.
        target: a device's path or a sensor's number, a URL, or a pipeline.
        name: as it may be shown: without passwords.
    """

    kind: AddressKind
    target: str
    name: str

    @property
    def scheme(self) -> str:
        """How a network stream is spoken to, such as ``rtsp``; empty for all else."""
        return self.target.partition("://")[0].lower() if self.kind == "network" else ""

    @property
    def is_live(self) -> bool:
        """Whether frames come by themselves, whether or not anybody takes them. Those in a pipe wait."""
        return self.kind != "pipe"


def parse_address(text: str) -> Address | None:
    """Read a command line's input or output; None for what is a file.

    Raises:
        InputError: it begins like one of ours and goes on wrongly.
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
    """An address or a pipeline as it may be shown: on one line, its users and passwords replaced by stars."""
    return printable(_SECRET.sub(r"\1***", _USER.sub("***@", text)))
