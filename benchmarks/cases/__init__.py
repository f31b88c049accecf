"""The measurement of one case: a backend at a scale and a size, in a process of its own."""
