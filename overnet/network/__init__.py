"""The network in PyTorch: its definition, its checkpoints, and the exact form it is exported in. Needs torch."""
