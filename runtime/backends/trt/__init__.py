"""TensorRT and TensorRT-RTX: engines on an NVIDIA GPU."""
