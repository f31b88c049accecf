"""Frames as computers draw them, which INT8 must hold as well as photographs: one colour, and text. Needs no torch."""

from __future__ import annotations

import cv2
import numpy as np

from overnet.types import Image

_COLOURS = ((230, 20, 60), (20, 110, 240), (0, 0, 0), (255, 255, 255))


def synthetic_frames() -> list[Image]:
    """Draw text, two flat colours, black, and white: the first 56 x 88 x 3, the others 24 x 32 x 3 uint8 RGB."""
    # Thin and thick letters, dark on white and yellow on dark blue.
    frame = np.full((56, 88, 3), 255, np.uint8)
    frame[28:] = (16, 24, 96)
    cv2.putText(frame, "Abc 123", (2, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
    cv2.putText(frame, "Xyz 789", (2, 48), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 0), 2, cv2.LINE_AA)
    return [frame, *(np.full((24, 32, 3), colour, np.uint8) for colour in _COLOURS)]
