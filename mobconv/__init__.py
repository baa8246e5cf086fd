"""mobconv: one PyTorch checkpoint to Core ML, TFLite and ONNX, fp32 down to 1 bit, every file measured."""

__version__ = "0.1.0"
