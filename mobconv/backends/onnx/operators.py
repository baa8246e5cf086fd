"""The nodes of an ONNX graph as operations of a graph view, integer forms of a layer included.

| nodes of the file                                      | operation of the graph view               |
|--------------------------------------------------------|-------------------------------------------|
| Conv, ConvTranspose, Gemm, MatMul, Gather              | itself; its weight may be computed         |
| QLinearConv, QLinearMatMul, QGemm                      | itself; its inputs and outputs are codes   |
| DynamicQuantizeLinear, ConvInteger or MatMulInteger,   | one, from the float that is quantized to   |
|   Cast, Mul (the scales)                               |   the float output of the Mul              |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import COPY, MOVE, PAD, RESHAPE, SCALE, SHIFT, Op
from mobconv.backends.graph_view.slicing import producers

if TYPE_CHECKING:
    import onnx

_ROLES = {
    **dict.fromkeys(("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"), COPY),
    "Transpose": MOVE,
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), RESHAPE),
    "Pad": PAD,
    "BatchNormalization": SCALE,
}
# kind -> family, positions of the activation and of the weight among its inputs
_WEIGHTED = {
    "Conv": ("conv", 0, 1),
    "ConvTranspose": ("conv", 0, 1),
    "FusedConv": ("conv", 0, 1),
    "Gemm": ("linear", 0, 1),
    "Gather": ("embedding", 1, 0),
    "QLinearConv": ("conv", 0, 3),
    "QLinearMatMul": ("linear", 0, 3),
    "QGemm": ("linear", 0, 3),
    "ConvInteger": ("conv", 0, 1),
    "MatMulInteger": ("linear", 0, 1),
}
_BIASED = ("Conv", "ConvTranspose", "FusedConv", "Gemm")  # their third input is a bias
_STATIC = ("QLinearConv", "QLinearMatMul", "QGemm")
_DYNAMIC = ("ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class Affine:
    """What codes stand for: scale * (code - zero), per tensor or per channel of `axis`."""

    scale: NDArray[np.float32]
    zero: NDArray[Any]
    axis: int = 0

    def quantize(self, values: NDArray[Any]) -> NDArray[Any]:
        """Floats -> nearest codes, saturated, ties to even."""
        scale, zero = self._spread(values.ndim)
        limits = np.iinfo(self.zero.dtype)
        codes = np.clip(np.rint(values / scale) + zero, limits.min, limits.max)
        return np.ascontiguousarray(codes, self.zero.dtype)

    def dequantize(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Codes -> the floats that they stand for."""
        scale, zero = self._spread(codes.ndim)
        return np.asarray((codes.astype(np.float32) - zero) * scale, np.float32)

    def _spread(self, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        view = [-1 if axis == self.axis else 1 for axis in range(rank)] if self.scale.size > 1 else [1] * rank
        zero = np.broadcast_to(self.zero.astype(np.float32).reshape(-1), self.scale.size)
        return self.scale.reshape(view).astype(np.float32), zero.reshape(view)


class NodeReader:
    """Reads the nodes of a graph.

    fixed: names of tensors that depend on no input; constant: an initializer's value by name, None for other tensors.
    """

    def __init__(
        self, nodes: Sequence[onnx.NodeProto], fixed: Set[str], constant: Callable[[str], NDArray[Any] | None]
    ) -> None:
        self._nodes, self._fixed, self._constant = nodes, fixed, constant
        edges = [(list(node.input), list(node.output)) for node in nodes]
        self._producer = producers(edges)
        self._readers: dict[str, list[int]] = {}
        for position, (inputs, _) in enumerate(edges):
            for name in inputs:
                self._readers.setdefault(name, []).append(position)
        self.quantized: dict[str, Affine] = {}  # of activations, by the tensor of their codes
        self._weights: dict[str, Affine] = {}
        self.integer = any(n.op_type in (*_STATIC, *_DYNAMIC) for n in nodes) or any(
            n.op_type == "QuantizeLinear" and n.output[0] not in fixed for n in nodes
        )
        for node in nodes:
            self._codes(node)

    def decoded(self, name: str) -> NDArray[np.float32] | None:
        """A weight that is stored as codes, dequantized; None for any other tensor."""
        codes = self._constant(name)
        if name not in self._weights or codes is None:
            return None
        return self._weights[name].dequantize(codes)

    def ops(self) -> tuple[Op, ...]:
        """Operations of all nodes that depend on an input."""
        ops = []
        merged: set[int] = set()
        for position, node in enumerate(self._nodes):
            if position in merged or all(name in self._fixed for name in node.output):
                continue
            op = self._dynamic(node, merged) if node.op_type in _DYNAMIC else None
            ops.append(op or self._op(node))
        return tuple(ops)

    def _op(self, node: onnx.NodeProto) -> Op:
        kind, inputs, outputs = node.op_type, tuple(reads(node)), tuple(node.output)
        family, source, weight = "", next((i for i in inputs if i and i not in self._fixed), ""), None
        if kind in _WEIGHTED:
            its_family, data, which = _WEIGHTED[kind]
            if node.input[which] in self._fixed and node.input[data] not in self._fixed:
                family, source, weight = its_family, node.input[data], node.input[which]
        elif kind == "MatMul" and len([i for i in inputs if i in self._fixed]) == 1:
            family, weight = "linear", next(i for i in inputs if i in self._fixed)
        activation = ""
        if kind == "FusedConv":
            activation = next((a.s.decode().lower() for a in node.attribute if a.name == "activation"), "")
        role = "" if family else self._role(node)
        bias = self._bias(node, bool(family))
        return Op(node.name, kind, inputs, outputs, source, weight, family, role, activation, bias)

    def _bias(self, node: onnx.NodeProto, weighted: bool) -> str | None:
        """The constant that a node of floats adds."""
        if weighted and node.op_type in _BIASED and len(node.input) > 2 and node.input[2] in self._fixed:
            scaled = any(a.name in ("alpha", "beta") and a.f != 1 for a in node.attribute)
            return None if scaled else str(node.input[2])
        if node.op_type == "Add" and not weighted:
            return next((name for name in node.input if name in self._fixed), None)
        return None

    def _role(self, node: onnx.NodeProto) -> str:
        kind = node.op_type
        if node.domain not in ("", "ai.onnx"):
            return ""
        if kind in ("Add", "Sub", "Mul", "Div"):
            if not any(name in self._fixed for name in node.input):
                return ""
            if kind == "Div" and node.input[0] in self._fixed:
                return ""
            return SHIFT if kind in ("Add", "Sub") else SCALE
        return _ROLES.get(kind, "")

    def _dynamic(self, node: onnx.NodeProto, merged: set[int]) -> Op | None:
        """ConvInteger or MatMulInteger with the nodes that quantize its input and scale its sums, as one operation.

        merged: gets the positions of nodes that are part of it. None where the nodes around it are others.
        """
        position = self._producer.get(node.input[0])
        if position is None or self._nodes[position].op_type != "DynamicQuantizeLinear":
            return None
        chain = self._chain(node)
        if chain is None:
            return None
        cast, product, scale = chain
        zero = self._constant(node.input[3]) if len(node.input) > 3 and node.input[3] else np.zeros(1, np.int8)
        if zero is None:
            return None
        axis = 0 if node.op_type == "ConvInteger" else 1
        self._weights[node.input[1]] = Affine(scale.reshape(-1), zero, axis)
        merged.update((cast, product))
        family, _, which = _WEIGHTED[node.op_type]
        source = self._nodes[position].input[0]
        outputs = tuple(self._nodes[product].output)
        return Op(node.name, node.op_type, (source, node.input[which]), outputs, source, node.input[which], family)

    def _chain(self, node: onnx.NodeProto) -> tuple[int, int, NDArray[np.float32]] | None:
        """Positions of the Cast and the Mul behind integer sums, and the weight's scale."""
        readers = self._readers.get(node.output[0], [])
        if len(readers) != 1 or self._nodes[readers[0]].op_type != "Cast":
            return None
        cast = readers[0]
        readers = self._readers.get(self._nodes[cast].output[0], [])
        if len(readers) != 1 or self._nodes[readers[0]].op_type != "Mul":
            return None
        other = next((i for i in self._nodes[readers[0]].input if i != self._nodes[cast].output[0]), "")
        scales = self._producer.get(other)
        if scales is None or self._nodes[scales].op_type != "Mul":
            return None
        constants = [self._constant(name) for name in self._nodes[scales].input]
        scale = next((value for value in constants if value is not None), None)
        return None if scale is None else (cast, readers[0], np.asarray(scale, np.float32))

    def _codes(self, node: onnx.NodeProto) -> None:
        """Keep scale and zero point of activations and weights that a node says are codes."""
        kind, names = node.op_type, node.input
        if kind in ("QuantizeLinear", "DequantizeLinear"):
            name = node.output[0] if kind == "QuantizeLinear" else names[0]
            if name not in self._fixed:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                self._keep(self.quantized, name, names[1], names[2] if len(names) > 2 else "", axis)
        elif kind in _STATIC:
            self._keep(self.quantized, names[0], names[1], names[2])
            axis = 0 if kind != "QLinearMatMul" and not self._untransposed(node) else 1
            self._keep(self._weights, names[3], names[4], names[5], axis)
            last = (6, 7) if kind != "QGemm" else (7, 8)
            if len(names) > last[1]:
                self._keep(self.quantized, node.output[0], names[last[0]], names[last[1]])
        elif (
            kind.startswith("QLinear") and len(names) >= 2
        ):  # com.microsoft: the last inputs are scale and zero point of the result
            self._keep(self.quantized, node.output[0], names[-2], names[-1])

    @staticmethod
    def _untransposed(node: onnx.NodeProto) -> bool:
        return node.op_type == "QGemm" and not any(a.name == "transB" and a.i for a in node.attribute)

    def _keep(self, where: dict[str, Affine], name: str, scale: str, zero: str, axis: int = 0) -> None:
        factor = self._constant(scale)
        offset = self._constant(zero) if zero else np.zeros(1, np.uint8)
        if factor is not None and offset is not None:
            where.setdefault(name, Affine(np.asarray(factor, np.float32).reshape(-1), offset.reshape(-1), axis))


def reads(node: onnx.NodeProto) -> list[str]:
    """Names of the tensors that a node reads, in its branches and loops too."""
    names = list(node.input)
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            local = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
            for nested in inner.node:
                names += [name for name in reads(nested) if name not in local]
                local.update(nested.output)
            names += [value.name for value in inner.output if value.name not in local]
    return [name for name in names if name]


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """The node with the tensors that it reads renamed; the node itself where it reads none of them."""
    if not any(name in names for name in reads(node)):
        return node
    twin = type(node)()
    twin.CopyFrom(node)
    _rename(twin, names)
    return twin


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for position, name in enumerate(node.input):
        node.input[position] = names.get(name, name)
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            for nested in inner.node:
                _rename(nested, names)
            for value in inner.output:
                value.name = names.get(value.name, value.name)
