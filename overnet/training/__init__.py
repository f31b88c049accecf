"""Training: patches in, weights out. Needs torch."""
