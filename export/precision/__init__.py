"""The graph in FP16, BF16 or INT8."""
