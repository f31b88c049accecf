"""The preview window, which shows the newest result."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import cv2
import numpy as np

from overnet.errors import BackendError

_LARGEST_WINDOW = (1280, 720)
_ESCAPE = 27
_PROBE_SECONDS = 20
_FIRST_WINDOW = "OverNet"


def prepare_display() -> None:
    """Open and close a first window; call it in the main thread, before PyAV is imported.

    The wheels of both libraries bring a libxcb, and with PyAV's loaded first, OpenCV's first window never appears (PyAV
    issue 978). A child process tries whether a window can be opened at all: without a display, OpenCV's GUI library
    ends its process.

    Raises:
        BackendError: there is no display, or this OpenCV was built without windows.
    """
    if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
        raise BackendError("--show: this OpenCV cannot open windows: pip install opencv-python, without -headless")
    code = "import cv2; cv2.namedWindow('overnet'); cv2.waitKey(1)"
    try:
        tried = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BackendError("--show: the display does not answer") from error
    if tried.returncode:
        raise BackendError("--show: no window can be opened: is there a display, and DISPLAY or WAYLAND_DISPLAY set?")
    # Qt warns of fonts that the wheel does not contain.
    os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
    cv2.namedWindow(_FIRST_WINDOW)
    cv2.destroyWindow(_FIRST_WINDOW)


class PreviewWindow:
    """A window with the newest frame and a line of figures; a context manager, for use in the main thread only.

    Args:
        title: title of the window.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_open = False

    def __enter__(self) -> PreviewWindow:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_open:
            cv2.destroyAllWindows()
            cv2.waitKey(1)

    def show(self, rgb: np.ndarray, line: str) -> None:
        """Show a frame, H x W x 3 uint8 RGB, with a line of text over it."""
        height, width = rgb.shape[:2]
        if not self._is_open:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            shrink = min(1.0, _LARGEST_WINDOW[0] / width, _LARGEST_WINDOW[1] / height)
            cv2.resizeWindow(self._title, max(1, round(width * shrink)), max(1, round(height * shrink)))
            self._is_open = True
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        size = max(0.4, height / 720 * 0.8)
        place = (round(10 * size), round(30 * size))
        # White letters with a black outline can be read on any image.
        for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                bgr, line, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, max(1, round(thickness * size)), cv2.LINE_AA
            )
        cv2.imshow(self._title, bgr)

    def poll(self) -> bool:
        """Process window events for some milliseconds; return False once q or Esc was pressed or the window closed."""
        # Without a window, this waits for the next frame.
        key = cv2.waitKey(5) & 0xFF
        if key in (ord("q"), _ESCAPE):
            return False
        return not self._is_open or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
