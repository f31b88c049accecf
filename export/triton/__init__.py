"""Model repositories for NVIDIA Triton Inference Server."""
