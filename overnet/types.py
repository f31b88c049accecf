"""Types that several folders share, each defined once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# H x W x 3 uint8, RGB, 0 to 255; a batch is N x H x W x 3.
Image = NDArray[np.uint8]
ImageBatch = NDArray[np.uint8]

# From a low-resolution image to the upscaled one.
Upscale = Callable[[Image], Image]

# The means over a whole image by which the network weighs its channels: an array N x C x 1 x 1 for each of them, in the
# network's order.
ChannelMeans = list[NDArray[np.float32]]

# Told what is being done, how many of its steps are done, and how many there are (0 where that is not known).
Progress = Callable[[str, int, int], None]
