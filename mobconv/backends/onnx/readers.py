"""Ops of ONNX that read weights, and roles of the inputs of ops on constants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from mobconv.backends.byte_attribution import CODE, REST, SCALE, ZERO

# op -> (input that is a weight, inputs that are its scale and zero point or None, kind of op in words)
READERS: dict[str, tuple[tuple[int, int | None, int | None, str], ...]] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "DeformConv"), ((1, None, None, "conv"),)),
    "ConvTranspose": ((1, None, None, "conv transpose"),),
    "ConvInteger": ((1, None, 3, "conv"),),
    "QLinearConv": ((3, 4, 5, "conv"),),
    "Gemm": ((1, None, None, "linear"), (0, None, None, "linear")),
    "QGemm": ((3, 4, 5, "linear"),),
    **dict.fromkeys(("MatMul", "FusedMatMul"), ((1, None, None, "matmul"), (0, None, None, "matmul"))),
    "MatMulInteger": ((1, None, 3, "matmul"), (0, None, 2, "matmul")),
    "QLinearMatMul": ((3, 4, 5, "matmul"),),
    "DynamicQuantizeMatMul": ((1, 2, 3, "matmul"),),
    "MatMulIntegerToFloat": ((1, 3, 5, "matmul"),),
    "MatMulNBits": ((1, 2, 3, "matmul"),),
    "MatMulBnb4": ((1, 2, None, "matmul"),),
    "Gather": ((0, None, None, "embedding"),),
    "GatherBlockQuantized": ((0, 2, 3, "embedding"),),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ((1, None, None, "recurrent"), (2, None, None, "recurrent"))),
    "DynamicQuantizeLSTM": ((1, 8, 9, "recurrent"), (2, 10, 11, "recurrent")),
    "Attention": ((1, None, None, "attention"),),
    "QAttention": ((1, 4, 7, "attention"),),
    "EmbedLayerNormalization": tuple((i, None, None, "embedding") for i in (2, 3, 4)),
    "Einsum": ((1, None, None, "einsum"), (0, None, None, "einsum")),
}
# op on constants -> roles of its inputs; further ones are codes
ROLES = {
    "DequantizeLinear": (CODE, SCALE, ZERO),
    "QuantizeLinear": (CODE, SCALE, ZERO),
    **dict.fromkeys(("Reshape", "Slice", "Squeeze", "Unsqueeze", "Pad", "Expand", "Tile"), (CODE, *[REST] * 4)),
}


class Links:
    """Producers and consumers of values."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._consumers: dict[str, list[Any]] = defaultdict(list)
        self._producers: dict[str, Any] = {}
        for node in nodes:
            for name in node.input:
                self._consumers[name].append(node)
            self._producers.update(dict.fromkeys(node.output, node))

    def rescaled(self, node: Any) -> Iterator[str]:
        """Names that may be the scale of an integer op's weight: Mul(Cast(product), Mul(scale of x, scale of w))."""
        casts = [cast for name in node.output[:1] for cast in self._consumers[name] if cast.op_type == "Cast"]
        for product in (user for cast in casts for user in self._consumers[cast.output[0]] if user.op_type == "Mul"):
            for name in product.input:
                producer = self._producers.get(name)
                yield name
                if producer is not None and producer.op_type == "Mul":
                    yield from producer.input
