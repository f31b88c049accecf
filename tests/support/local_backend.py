"""A backend that is made of two functions, and images through it in tiles. No test itself."""

from contextlib import closing

from overnet.runtime.backends.base import Backend
from overnet.runtime.tiled_stream import TiledStream


def enlarge(images, means=None):
    return images.repeat(2, axis=1).repeat(2, axis=2)


class LocalBackend(Backend):
    """Counts its runs: `runs` has the shape of each image, and whether its means were asked for."""

    name, device, precision, bytes_per_pixel = "local", "here", "fp32", 1

    def __init__(self, upscale=enlarge, means=lambda images, given: [], *, scale=2.0, reach=None):
        self._upscale, self._means, self.scale, self.reach, self.runs = upscale, means, scale, reach, []

    def upscale(self, images, channel_means=None):
        self.runs.append((images.shape[1:3], False))
        return self._upscale(images, channel_means)

    def channel_means(self, images, given=None):
        self.runs.append((images.shape[1:3], True))
        return self._means(images, given)


def open_tiled(backend, size, most, **options):
    def too_large(tile, error):
        raise error

    return TiledStream(backend, size, most, smaller=too_large, note=lambda text: None, **options)


def upscale_tiled(image, most, backend):
    """Upscale one image in square tiles of at most a side, with means computed twice."""
    with closing(open_tiled(backend, image.shape[:2], (most, most), passes=2)) as stream, stream.submit(image) as found:
        return found


def stream_frames(backend, frames, most):
    """Yield the result of each frame of a stream, a copy, with the runs that it took."""
    with closing(open_tiled(backend, frames[0].shape[:2], most)) as stream:
        for frame in frames:
            backend.runs.clear()
            with stream.submit(frame) as found:
                yield found.copy(), list(backend.runs)
