"""What backends have in common that keep pictures in the host's memory and upscale them one after the other."""

from __future__ import annotations

from overnet.runtime.backends.stream import UpscaleStream
from overnet.runtime.tiling import tile_for_memory


class HostBackend:
    """The part of `overnet.runtime.backends.registry.Backend` that is the same for all of them."""

    bytes_per_pixel: int

    def prepare(self, height: int, width: int) -> None:
        """Nothing is to be done; see `overnet.runtime.backends.registry.Backend.prepare`."""

    def tile_for(self, height: int, width: int) -> int | None:
        """As large as the memory allows; see `overnet.runtime.backends.registry.Backend.tile_for`."""
        return tile_for_memory(height, width, self.bytes_per_pixel)

    def open_stream(self, height: int, width: int) -> UpscaleStream | None:
        """None: nothing is gained by it; see `overnet.runtime.backends.registry.Backend.open_stream`."""
        return None

    def take_notes(self) -> list[str]:
        """None; see `overnet.runtime.backends.registry.Backend.take_notes`."""
        return []

    def close(self) -> None:
        """Nothing outlives the object; see `overnet.runtime.backends.registry.Backend.close`."""
