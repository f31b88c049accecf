"""What is on disk: ONNX metadata, engine sidecars, and files that appear whole or not at all. Needs no torch."""
