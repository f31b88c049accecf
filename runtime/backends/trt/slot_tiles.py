"""Runs for the tiles of frames through a ring of slots: tiles of one frame, and of the next, are in flight at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from overnet.errors import BackendError
from overnet.files.onnx_metadata import scaled_size
from overnet.runtime.backends.stream import MeansTicket, Ticket
from overnet.runtime.backends.trt.slot import Slot
from overnet.runtime.backends.trt.slot_ring import ALL_IN_USE, SlotRing, SlotStream
from overnet.types import ChannelMeans, Image


class SlotTiles(SlotStream):
    """Runs through a ring. See `overnet.runtime.backends.stream.TileRuns`.

    Args:
        ring: of the engine.
        size: height and width of the tiles, which the engine takes.
        scale: of the engine.
        padded: returns a part, padded to the smallest size that the engine takes.
        means: the number of means that the engine takes and outputs; 0 if it does neither.

    Raises:
        MemoryError: not even one slot fits.
        BackendError: another stream holds all slots.
    """

    def __init__(
        self, ring: SlotRing, size: tuple[int, int], scale: float, padded: Callable[[Image], Image], means: int
    ) -> None:
        super().__init__(ring, size)
        self._scale, self._padded, self._means = scale, padded, means
        self.most = ring.open(size)
        if not self.most:
            raise BackendError(f"no slot is free: {ALL_IN_USE}")

    def upscale(self, part: Image, means: ChannelMeans | None) -> Ticket:
        """Begin to upscale a tile; see `TileRuns.upscale`."""
        return self._cropped(self._run(part, means, wanted_means=False), part.shape[0], part.shape[1])

    def means(self, part: Image, given: ChannelMeans | None) -> MeansTicket:
        """Begin to compute the means of a part; see `TileRuns.means`."""
        return self._means_of(self._run(part, given, wanted_means=True))

    def _run(self, part: Image, given: ChannelMeans | None, *, wanted_means: bool) -> Slot:
        if not self._means and (wanted_means or given is not None):
            raise BackendError(
                "this engine takes and outputs no means, which tiles need: an older version of overnet made it; export "
                "it again"
            )
        padded = self._padded(part)
        return self._begun(
            padded,
            (padded.shape[0], padded.shape[1]),
            given_means=None if given is None else np.concatenate([mean.ravel() for mean in given]),
            wanted_means=wanted_means,
        )

    @contextmanager
    def _cropped(self, slot: Slot, height: int, width: int) -> Iterator[Image]:
        rows, columns = scaled_size(height, width, self._scale)
        with self._fetched(slot) as upscaled:
            yield upscaled[:rows, :columns]

    @contextmanager
    def _means_of(self, slot: Slot) -> Iterator[ChannelMeans]:
        with self._fetched(slot):
            yield [slot.means()]
