"""A live run into an RTSP server that takes the stream and then reads no more: ``stalled_server PORT``, and `serve`."""

import os
import socket
import sys
import time

import numpy as np

from overnet.cli.common import print_error
from overnet.errors import OverNetError
from overnet.runtime.live.addresses import parse_address
from overnet.runtime.live.open import LiveSink
from overnet.runtime.live.run import LiveLimits, run_live
from tests.runtime.live.test_run import Camera, Enlarger


def serve(listening, step):
    """Answer requests, until the one named `step`, which is ANNOUNCE or RECORD; return the connection then."""
    connection, _ = listening.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            received += connection.recv(4096)
        request, received = received.split(b"\r\n\r\n", 1)
        headers = dict(line.split(b": ", 1) for line in request.split(b"\r\n")[1:])
        length = int(headers.get(b"Content-Length", 0))
        while len(received) < length:
            received += connection.recv(4096)
        received = received[length:]
        method = request.split(b" ", 1)[0].decode()
        if method == step == "ANNOUNCE":
            return connection
        connection.sendall(
            b"RTSP/1.0 200 OK\r\nCSeq: " + headers[b"CSeq"] + b"\r\nSession: 1\r\nPublic: ANNOUNCE, RECORD\r\n"
            b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
        )
        if method == step:
            return connection


class Noise(Enlarger):
    """Frames that take many bytes."""

    def output_size(self, height, width, *, even_width=False):
        return 720, 1280

    def _upscale(self, frame):
        return np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)


if __name__ == "__main__":
    sink = LiveSink(parse_address(f"rtsp://joe:hush@127.0.0.1:{sys.argv[1]}/x"))
    began = time.monotonic()
    try:
        run_live(Camera(100_000), Noise(), sink.open, limits=LiveLimits(seconds=float(sys.argv[2])))
    except OverNetError as error:
        print_error(error)
    sys.stdout.write(f"{time.monotonic() - began:.1f} s\n")
    sys.stdout.flush()
    os._exit(0)  # as the program does where a thread still waits
