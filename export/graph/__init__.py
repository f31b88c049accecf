"""The network as an ONNX graph in FP32."""
