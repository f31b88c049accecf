"""The window, on a real X server without a screen."""

import os
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.support.needs_live import VirtualDisplay

# In a process of its own: a window's library connects to one display for good.
_SHOW = """
import sys, time, threading, ctypes
import numpy as np
from overnet.runtime.live.preview import PreviewWindow, prepare_display
prepare_display()
rgb = np.zeros((240, 320, 3), np.uint8)
rgb[:, :160] = (200, 40, 10)
rgb[:, 160:] = (10, 60, 220)
end = time.monotonic() + 60
with PreviewWindow("OverNet: test") as window:
    while time.monotonic() < end:
        window.show(rgb, "12.3 fps, latency 45 ms, 6 dropped")
        if not window.poll():
            print("closed", flush=True)
            break
        print("shown", flush=True)
"""

_GRAB = """
import ctypes, sys
import numpy as np
x = ctypes.CDLL("libX11.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
display = ctypes.c_void_p(x.XOpenDisplay(None))
x.XDefaultRootWindow.restype = ctypes.c_ulong
root = x.XDefaultRootWindow(display)
class Image(ctypes.Structure):
    _fields_ = [("width", ctypes.c_int), ("height", ctypes.c_int), ("xoffset", ctypes.c_int), ("format", ctypes.c_int),
                ("data", ctypes.c_void_p), ("order", ctypes.c_int), ("unit", ctypes.c_int), ("bit_order", ctypes.c_int),
                ("pad", ctypes.c_int), ("depth", ctypes.c_int), ("line", ctypes.c_int), ("bits", ctypes.c_int)]
x.XGetImage.restype = ctypes.POINTER(Image)
image = x.XGetImage(display, ctypes.c_ulong(root), 0, 0, 800, 600, ctypes.c_ulong(0xFFFFFFFF), 2).contents
data = ctypes.string_at(image.data, image.line * image.height)
np.save(sys.argv[1], np.frombuffer(data, np.uint8).reshape(600, image.line // 4, 4)[:, :800, :3])
"""


def run(code, *arguments, display, **options):
    environment = {**os.environ, "DISPLAY": display, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True, **options)


def painted(screen):
    """Where the image's left and right half are on a screen of 800x600, blue, green, red."""
    left = np.abs(screen.astype(int) - (10, 40, 200)).max(axis=2) < 8
    right = np.abs(screen.astype(int) - (220, 60, 10)).max(axis=2) < 8
    return left, right


def screen_with_a_window(grabbed):
    """What is on a screen once a window is painted there, or after some time."""
    with VirtualDisplay() as display:
        process = run(_SHOW, display=display.name, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            for _ in range(40):
                assert process.stdout.readline() == "shown\n", process.stderr.read()
            # It goes on printing, and would wait for a reader.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            # A busy machine may take a while to paint.
            deadline = time.monotonic() + 10
            while True:
                assert process.poll() is None, process.stderr.read()
                assert run(_GRAB, str(grabbed), display=display.name).wait(30) == 0
                screen = np.load(grabbed)
                if min(half.sum() for half in painted(screen)) > 25_000 or time.monotonic() > deadline:
                    return screen
        finally:
            process.kill()
            process.wait()


@pytest.mark.timeout(300)
def test_the_window(tmp_path):
    # One in ten of OpenCV's windows stays black on a server without a window manager, whatever is shown in it.
    for _ in range(5):
        screen = screen_with_a_window(tmp_path / "screen.npy")
        left, right = painted(screen)
        if left.any():
            break
    cv2.imwrite(str(tmp_path / "screen.png"), screen)
    assert 25_000 < left.sum() <= 38_400 and 25_000 < right.sum() <= 38_400
    assert np.nonzero(left)[1].max() < np.nonzero(right)[1].min() + 2
    # The figures: white letters, over the upper left of the image.
    rows, columns = np.nonzero(left | right)
    top = screen[rows.min() : rows.min() + 30, columns.min() : columns.max()]
    assert (top > 200).all(axis=2).sum() > 50


@pytest.mark.parametrize("display", ["", ":9876"])
def test_no_display(display):
    code = "from overnet.runtime.live.preview import prepare_display; prepare_display()"
    process = run(code, display=display, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].endswith(
        "--show: no window can be opened: is there a display, and DISPLAY or WAYLAND_DISPLAY set?"
    )
