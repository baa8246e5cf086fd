"""The network: kinds of checkpoints, the traced program, its inputs and outputs, images as an input."""
