"""Power, clocks and temperatures."""
