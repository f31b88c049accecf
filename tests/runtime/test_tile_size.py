from overnet.files.engine_sidecar import SMALLEST_TILE
from overnet.runtime.tile_size import tile_for_memory


def test_tile_follows_memory():
    assert tile_for_memory(100, 100, 1000, available_bytes=1 << 30) is None
    small, large = (tile_for_memory(4000, 4000, 20_000, available_bytes=size << 30) for size in (1, 8))
    assert SMALLEST_TILE < small < large
    assert large**2 * 20_000 <= 4 << 30
    assert tile_for_memory(4000, 4000, 20_000, available_bytes=0) == SMALLEST_TILE
