"""neuralnetwork files read with the messages of coremltools.proto and numpy, by NeuralNetwork.proto alone.

A weight is the field `weights` of a convolution or an inner product, in PyTorch's own layout. The format knows
scales and biases, w = scale * code + bias, and tables; what the quantizer calls a zero point is -bias / scale.
"""

import numpy as np
from coremltools.proto import Model_pb2
from stored import Stored

USERS = ("convolution", "innerProduct")


def read(path):
    """The parameters in the order of the layers that use them, as `Stored`."""
    spec = Model_pb2.Model.FromString(path.read_bytes())
    assert spec.WhichOneof("Type") == "neuralNetwork"
    layers = [(layer.WhichOneof("layer"), layer) for layer in spec.neuralNetwork.layers]
    found = [weight(kind, getattr(layer, kind)) for kind, layer in layers if kind in USERS]
    # Symmetric codes have zero points in the middle, and a linear file could have one there by chance in one
    # tensor, hence one verdict for all of them; likewise for {-scale, scale} at one bit.
    if all(held.bits > 1 and held.zero_points is not None for held in found):
        if all((held.zero_points == 2 ** (held.bits - 1)).all() for held in found):
            for held in found:
                held.zero_points = None
    elif all(held.bits == 1 and np.array_equal(held.table[:, 0], -held.table[:, 1]) for held in found):
        for held in found:
            held.scales, held.table = held.table[:, 1].copy(), None
    return found


def weight(kind, layer):
    if kind == "convolution":
        assert not layer.isDeconvolution
        shape = (layer.outputChannels, layer.kernelChannels, *layer.kernelSize)
    else:
        shape = (layer.outputChannels, layer.inputChannels)
    held, count = layer.weights, int(np.prod(shape))
    kinds = [name for name in ("floatValue", "float16Value", "rawValue", "int8RawValue") if getattr(held, name)]
    assert len(kinds) == 1, f"values in {kinds}"
    if kinds == ["floatValue"]:
        return Stored(32, values=np.array(held.floatValue, np.float32).reshape(shape))
    if kinds == ["float16Value"]:
        values = np.frombuffer(held.float16Value, "<f2").astype(np.float32)
        return Stored(16, values=values.reshape(shape), wide=False)
    assert kinds == ["rawValue"]
    bits = held.quantization.numberOfBits
    assert 1 <= bits <= 8 and len(held.rawValue) == (count * bits + 7) // 8
    codes = fields(held.rawValue, bits, count).reshape(shape)
    if held.quantization.WhichOneof("QuantizationType") == "lookupTableQuantization":
        table = np.array(held.quantization.lookupTableQuantization.floatValue, np.float32)
        assert table.size == 2**bits, "NeuralNetwork.proto: must be an array of 2^numberOfBits elements"
        return Stored(bits, codes=codes, table=table[None])
    scale = np.array(held.quantization.linearQuantization.scale, np.float32)
    bias = np.array(held.quantization.linearQuantization.bias, np.float32)
    assert scale.size == bias.size and scale.size in (1, shape[0])
    if bits == 1:
        return Stored(1, codes=codes, table=np.stack([bias, bias + scale], axis=1))
    with np.errstate(all="raise"):
        zero = np.rint(-bias.astype(np.float64) / scale)
    assert zero.min() >= 0 and zero.max() < 2**bits
    assert np.array_equal(bias, -(scale * zero.astype(np.float32))), "the bias is no multiple of the scale"
    return Stored(bits, codes=codes, scales=scale, zero_points=zero.astype(np.uint8))


def fields(data, bits, count):
    """A bit stream with the highest bit first -> its first `count` fields of `bits` bits."""
    lanes = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="big")[: count * bits].reshape(count, bits)
    return (lanes * (1 << np.arange(bits - 1, -1, -1))).sum(axis=1).astype(np.uint8)
