"""Super-resolution networks of others, as ONNX files: read, understood by running them, and wrapped as our own files."""
