"""Template + weights -> artifact: a rewrite of initializers, no second conversion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import placement
from mobconv.backends.onnx.convert import MAP, TEMPLATE
from mobconv.backends.onnx.functions import DOMAIN, function, stream
from mobconv.backends.placement import Placement
from mobconv.errors import BackendError
from mobconv.files import write_whole
from mobconv.quantize.kmeans import used_entries
from mobconv.quantize.scales import to_fp16
from mobconv.quantize.weights import FloatWeight, QuantizedWeight, Weight
from mobconv.schemes import Scheme

if TYPE_CHECKING:
    import onnx


def encode(template: Path, weights: Mapping[str, Weight], scheme: Scheme, path: Path, record: str) -> int:
    """Write the artifact, whole or not at all; returns its weight bytes (see base.Encoded)."""
    import onnx

    places, notes = placement.load(template / MAP)
    model = onnx.load(str(template / TEMPLATE))
    rewriter = _Rewriter(model)
    apart = int(notes["base_bytes"])  # bytes that are not the quantized weights'
    for number, (name, found) in enumerate(places.items()):
        weight = weights[name]
        for copy, place in enumerate(found):
            rewriter.place(weight, place, f"{number}" if copy == 0 else f"{number}_{copy}")
        if scheme.mode is not None and isinstance(weight, FloatWeight):  # a layer rule left it float
            apart += len(found) * weight.values.size * weight.bits // 8
    if scheme.mode is None and scheme.bits == 16:
        apart += sum(rewriter.halve(name) for name in notes["floats"])
    rewriter.finish()
    weight_bytes = int(model.ByteSize()) - apart
    if record:
        model.metadata_props.add(key="mobconv", value=record)
    write_whole(path, model.SerializeToString(deterministic=True))
    return weight_bytes


class _Rewriter:
    """Puts weights in place of a template's initializers, and collects the nodes that decode them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.used: set[tuple[str, int]] = set()
        self.dropped: set[str] = set()

    def place(self, weight: Weight, place: Placement, tag: str) -> None:
        """Encode one weight in place of the constant that the template has for it."""
        if isinstance(weight, QuantizedWeight):
            self.dropped.add(place.key)
            self._decode(weight, place, tag)
        else:
            self._store(place.key, place.place(weight.values), half=weight.bits == 16)

    def halve(self, name: str) -> int:
        """Store another float initializer as fp16; returns the change of size."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(self.initializers[name])
        before = self.initializers[name].ByteSize()
        self._store(name, values, half=True)
        return int(self.initializers[name].ByteSize() + self.nodes[-1].ByteSize() - before)

    def _store(self, name: str, values: NDArray[np.float32], half: bool) -> None:
        from onnx import TensorProto, helper, numpy_helper

        tensor = self.initializers[name]
        if not half:
            tensor.CopyFrom(numpy_helper.from_array(values, name))
            return
        narrow = to_fp16(name, values).astype(np.float16)
        stored = f"{name}.h"
        tensor.CopyFrom(numpy_helper.from_array(narrow, stored))
        self.nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))

    def finish(self) -> None:
        """Put the decoding nodes first, and the functions that they call into the model."""
        import onnx
        from onnx import parser

        nodes = [*self.nodes, *self.model.graph.node]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name not in self.dropped]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        if not self.used:
            return
        for form, bits in sorted(self.used):
            self.model.functions.append(parser.parse_function(function(form, bits)))
        self.model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))

    def _decode(self, weight: QuantizedWeight, place: Placement, tag: str) -> None:
        kept = np.float16 if weight.fp16 else np.float32
        codes = place.place(weight.codes).reshape(-1)
        if weight.table is not None:
            entries = max(used_entries(row) for row in weight.table)
            table = weight.table[:, :entries].astype(kept)
            form = "Table" if weight.axis is None else "Tables"
            parameter = self._add(f"t{tag}", table.reshape((*self._view(weight, place), entries)))
        else:
            assert weight.scale is not None
            form = "Symmetric" if weight.zero_point is None else "Linear"
            if weight.zero_point is not None:
                codes = np.concatenate([weight.zero_point, codes])
            parameter = self._add(f"s{tag}", weight.scale.astype(kept).reshape(self._view(weight, place)))
        packed = self._add(f"q{tag}", stream(codes, weight.bits))
        self._call(form, weight, [packed, parameter], place, f"w{tag}")

    def _view(self, weight: QuantizedWeight, place: Placement) -> tuple[int, ...]:
        """The shape in which a per-channel parameter broadcasts against the placed weight."""
        if weight.axis is None:
            return ()
        if place.axis is None:
            raise BackendError(f"{weight.name}: its channels share an axis in the ONNX file; use granularity tensor")
        return tuple(length if axis == place.axis else 1 for axis, length in enumerate(place.shape))

    def _call(self, form: str, weight: QuantizedWeight, inputs: list[str], place: Placement, output: str) -> None:
        """The decoding node carries the parameter's name; the value between it and its users a short one."""
        from onnx import helper

        self.used.add((form, weight.bits))
        shape = [int(length) for length in place.shape]
        self.nodes.append(
            helper.make_node(f"{form}{weight.bits}", inputs, [output], name=weight.name, domain=DOMAIN, d=shape)
        )
        for node in self.model.graph.node:
            for position, name in enumerate(node.input):
                if name == place.key:
                    node.input[position] = output

    def _add(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
