"""Operators as products of a matrix: outputs and columns equal PyTorch's own operator."""

import numpy as np
import pytest
import torch
from torch import nn

from mobconv.model.operator_matrix import OperatorMatrix
from mobconv.model.trace import trace
from mobconv.model.weight_ops import weighted

LAYERS = {
    "linear": (nn.Linear(6, 5), (1, 6)),
    "linear over tokens": (nn.Linear(6, 5, bias=False), (1, 7, 6)),
    "conv": (nn.Conv2d(4, 6, 3, padding=1), (1, 4, 9, 7)),
    "strided, dilated, grouped": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2), (1, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4, stride=2), (1, 4, 8, 8)),
    "depthwise of two": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (1, 4, 6, 6)),
    "pointwise": (nn.Conv2d(4, 7, 1, stride=2), (1, 4, 5, 6)),
    "same, even kernel": (nn.Conv2d(3, 5, 4, padding="same"), (1, 3, 8, 9)),
    "one dimension": (nn.Conv1d(4, 6, 3, dilation=2, padding=2), (1, 4, 11)),
    "three dimensions": (nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 0)), (1, 2, 5, 7, 3)),
    "transposed": (nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), (1, 4, 5, 6)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, (2, 3), stride=(3, 1), groups=2, dilation=(1, 2)), (1, 4, 5, 6)),
    "transposed, one dimension": (nn.ConvTranspose1d(4, 5, 4, stride=2, padding=3, bias=False), (1, 4, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_the_operators(name):
    module, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    program = trace(module.eval(), {"x": np.zeros(shape, np.float32)})
    ((node, weight, _),) = weighted(program.module)
    values = program.floats()[weight]
    operator = OperatorMatrix.of(node, values.shape)
    assert np.array_equal(operator.weight(operator.matrix(values)), values)
    matrix = torch.from_numpy(operator.matrix(values)).double()
    inputs = torch.randn((3, *shape[1:]), generator=generator).double()
    bias = None if module.bias is None else module.bias.detach().double()
    with torch.inference_mode():
        wanted = module.double()(inputs)
        # sums of up to 24 products of float64
        torch.testing.assert_close(operator.apply(inputs, matrix, bias), wanted, rtol=0, atol=1e-12)
        count = operator.positions(inputs)
        assert wanted[0].numel() == count * operator.rows
        blocks = matrix.reshape(operator.groups, -1, matrix.shape[1])
        zero = torch.zeros(operator.rows) if bias is None else bias
        for at in (None, torch.tensor([count - 1, 0])):
            product = blocks @ operator.columns(inputs, at) + zero.reshape(operator.groups, -1, 1)
            torch.testing.assert_close(product, operator.outputs(wanted, at), rtol=0, atol=1e-12)
    module.float()


def test_channels_of_a_grouped_transposed_convolution_are_those_of_the_weights_axis():
    """Axis 1 of (in, out / groups, ..): a scale of one channel serves a row of each group."""
    operator = OperatorMatrix((4, 3, 2, 2), groups=2, upsample=(2, 2))
    weight = np.arange(48, dtype=np.float32).reshape(4, 3, 2, 2)
    assert operator.channel.tolist() == [0, 1, 2, 0, 1, 2]
    for row, channel in zip(operator.matrix(weight), operator.channel, strict=True):
        assert set(row) <= set(weight[:, channel].ravel())
