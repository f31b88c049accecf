"""The machine: GPUs, memory, child processes. Needs no torch."""
