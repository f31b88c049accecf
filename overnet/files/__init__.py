"""Files on disk: ONNX metadata, engine sidecars, checked JSON and atomic writing. Needs no torch."""
