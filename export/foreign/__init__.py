"""ONNX files of other programs: read, understood by running them, and wrapped as files of this one."""
