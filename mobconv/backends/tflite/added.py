"""Bytes that quantized weights add to a TFLite file: the file, less the same network with weights that take none.

That network is the file with float constants in place of the ops that decode weights, less the bytes of these floats.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from mobconv.backends.tflite.graph import Graph

_ALIGNMENT = 16  # of a buffer: sizes that differ by a multiple of it are padded alike


def added_bytes(data: bytes, weights: Collection[int], alone: bool) -> int:
    """Bytes of a file of ours, less those of the network with weights that take none.

    weights: numbers of the float tensors that the network reads as weights: constants, or computed from constants.
    alone: whether nothing else is decoded (but under fp16, biases are). Raises ValueError where something is.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = Graph(data)
    size = len(graph.to_bytes())  # without the labels behind the flatbuffer
    model, main = graph.model, graph.model.subgraphs[0]
    makers = _makers(graph)
    floats = 0
    for number in weights:
        tensor = main.tensors[number]
        count = 4 * math.prod(map(int, tensor.shape))
        if number in makers:
            buffer = schema.BufferT()
            # the size of the file is known from a shorter buffer, so that no floats are written
            count = min(count, _ALIGNMENT + count % _ALIGNMENT)
            buffer.data = np.zeros(count, np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
            # as the converter writes them
            tensor.hasRank, tensor.quantization = True, schema.QuantizationParametersT()
        floats += count
    main.operators = _network(graph, makers, weights)
    outputs = [number for operator in main.operators for number in operator.outputs if number in makers]
    if alone and not all(main.tensors[number].hasRank for number in outputs):
        raise ValueError("it decodes what the network does not read as a weight")
    codes = sorted({operator.opcodeIndex for operator in main.operators})
    model.operatorCodes = [model.operatorCodes[code] for code in codes]
    for operator in main.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    return size - (len(graph.to_bytes()) - floats)


def _makers(graph: Graph) -> dict[int, Any]:
    """Number of a tensor -> the op that computes it from constants alone."""
    main = graph.model.subgraphs[0]
    filled = {number for number, buffer in enumerate(graph.model.buffers) if buffer.data is not None}
    constants = {number for number, tensor in enumerate(main.tensors) if tensor.buffer in filled}
    makers: dict[int, Any] = {}
    for operator in main.operators:
        inputs = [number for number in operator.inputs if number >= 0]
        if inputs and all(number in constants or number in makers for number in inputs):
            makers.update(dict.fromkeys(operator.outputs, operator))
    return makers


def _network(graph: Graph, makers: dict[int, Any], weights: Collection[int]) -> list[Any]:
    """The network's ops, with those that compute other constants than weights, and convolutions as they were."""
    from ai_edge_litert import schema_py_generated as schema

    main, codes = graph.model.subgraphs[0], [code.builtinCode for code in graph.model.operatorCodes]
    network = [op for op in main.operators if op.outputs[0] not in makers]
    needed = _needed({n for op in network for n in op.inputs if n not in weights}, makers)
    operators: list[Any] = []
    products: dict[int, Any] = {}  # output of a matrix product with a weight in place of a convolution -> the op
    for operator in main.operators:
        first, output = operator.inputs[0], operator.outputs[0]
        if output in makers and output not in needed:
            continue
        product = codes[operator.opcodeIndex] == schema.BuiltinOperator.BATCH_MATMUL
        if product and not main.tensors[output].hasRank:  # the converter states it
            products[output] = operator
        elif first in products:
            operators.append(_convolution(graph, products.pop(first), operator))
        else:
            operators.append(operator)
    return operators


def _needed(numbers: set[int], makers: dict[int, Any]) -> set[int]:
    """Those of some tensors that are computed from constants, with what they are computed from."""
    waiting, needed = [number for number in numbers if number in makers], set[int]()
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += [each for each in makers[number].inputs if each in makers]
    return needed


def _convolution(graph: Graph, product: Any, total: Any) -> Any:
    """The convolution that a matrix product and a sum stand for, see Graph.replace_pointwise."""
    from ai_edge_litert import schema_py_generated as schema

    source, weight = product.inputs
    tensor = graph.model.subgraphs[0].tensors[weight]
    if len(tensor.shape) == 2:
        tensor.shape = [tensor.shape[0], 1, 1, tensor.shape[1]]
    codes = [code.builtinCode for code in graph.model.operatorCodes]
    operator, options = schema.OperatorT(), schema.Conv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.VALID, 1, 1
    options.fusedActivationFunction = total.builtinOptions.fusedActivationFunction
    operator.opcodeIndex = codes.index(schema.BuiltinOperator.CONV_2D)
    operator.inputs, operator.outputs = [source, weight, total.inputs[1]], total.outputs
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
    return operator
