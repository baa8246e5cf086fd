"""What the ops of an ONNX graph are to weights: which inputs they read as such, and what inputs are to a result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from mobconv.backends.byte_attribution import CODE, REST, SCALE, ZERO

# op -> (position of a weight, positions of its scale and zero point or None, what the weight is to people)
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
# op on constants -> what its inputs are to the result; those not named are codes
ROLES = {
    "DequantizeLinear": (CODE, SCALE, ZERO),
    "QuantizeLinear": (CODE, SCALE, ZERO),
    **dict.fromkeys(("Reshape", "Slice", "Squeeze", "Unsqueeze", "Pad", "Expand", "Tile"), (CODE, *[REST] * 4)),
}


class Links:
    """Who reads and who makes a value."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._users: dict[str, list[Any]] = defaultdict(list)
        self._makers: dict[str, Any] = {}
        for node in nodes:
            for name in node.input:
                self._users[name].append(node)
            self._makers.update(dict.fromkeys(node.output, node))

    def rescaled(self, node: Any) -> Iterator[str]:
        """What an integer product is multiplied with afterwards: Mul(Cast(product), Mul(scale of x, scale of w))."""
        casts = [cast for name in node.output[:1] for cast in self._users[name] if cast.op_type == "Cast"]
        for product in (user for cast in casts for user in self._users[cast.output[0]] if user.op_type == "Mul"):
            for name in product.input:
                maker = self._makers.get(name)
                yield name
                if maker is not None and maker.op_type == "Mul":
                    yield from maker.input
