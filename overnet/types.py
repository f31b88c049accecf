"""Types that several folders share, each defined once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# H x W x 3 uint8, RGB, 0 to 255; a batch is N x H x W x 3.
Image = NDArray[np.uint8]
ImageBatch = NDArray[np.uint8]

# From a low-resolution image to the upscaled one.
Upscale = Callable[[Image], Image]

# The means over a whole image by which the network weighs its channels: one array N x C x 1 x 1 for each mean, in the
# network's order.
ChannelMeans = list[NDArray[np.float32]]

# Called with what is being done, the number of steps done, and the number of all steps (0 where that is unknown).
Progress = Callable[[str, int, int], None]
