"""Checkpoint to ONNX to engine, each step checked."""
