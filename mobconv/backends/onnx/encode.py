"""Template + weights and biases -> artifact: initializers are replaced, nothing is converted again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import bias_map, weight_map
from mobconv.backends.onnx.added import added_bytes
from mobconv.backends.onnx.convert import MAP, TEMPLATE
from mobconv.backends.onnx.functions import DOMAIN, OPSET, function, stream
from mobconv.backends.weight_map import Placement
from mobconv.common.files import write_whole
from mobconv.errors import BackendError
from mobconv.quantize import packing
from mobconv.quantize.kmeans import used_entries
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.scales import to_fp16
from mobconv.quantize.weights import Form, QuantizedWeight, Weight
from mobconv.schemes import Cell, Storage

if TYPE_CHECKING:
    import onnx


def encode(template: Path, quantized: QuantizedModel, cell: Cell, path: Path, record: str) -> int:
    """Write the artifact, whole or not at all -> its weight bytes (see base.Encoded)."""
    import onnx

    scheme, weights = cell.scheme, quantized.weights
    places, notes = weight_map.load(template / MAP)
    weight_map.check_agreement(places, weights, cell)
    model = onnx.load(str(template / TEMPLATE))
    rewriter = _Rewriter(model, cell.storage is Storage.NATIVE)
    for key, values in bias_map.placed(weight_map.biases(notes), quantized.biases, cell).items():
        rewriter.change(key, values)
    for number, (name, placements) in enumerate(places.items()):
        for copy, place in enumerate(placements):
            rewriter.place(weights[name], place, f"{number}" if copy == 0 else f"{number}_{copy}")
    read = {node.output[0] for node in rewriter.nodes if node.op_type != "Cast"}  # a layer rule's fp16 is not quantized
    if scheme.mode is None:
        read = {place.key for placements in places.values() for place in placements}
        for name in notes["floats"] if scheme.bits == 16 else ():
            rewriter.halve(name)
    rewriter.finish()
    weight_bytes = added_bytes(model, read)
    if record:
        model.metadata_props.add(key="mobconv", value=record)
    write_whole(path, model.SerializeToString(deterministic=True))
    return weight_bytes


_IR = {21: 10}  # opset -> the IR version that came with it


class _Rewriter:
    """Replaces a template's initializers by weights, and collects the nodes that decode them."""

    def __init__(self, model: onnx.ModelProto, native: bool = False) -> None:
        self.model, self.native = model, native
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.used: set[tuple[str, int]] = set()
        self.dropped: set[str] = set()
        self.opset = OPSET

    def place(self, weight: Weight, place: Placement, tag: str) -> None:
        """Encode one weight in place of its constant. tag: ends the names of its initializers."""
        if isinstance(weight, QuantizedWeight):
            self.dropped.add(place.key)
            (self._dequantize_linear if self.native else self._decode)(weight, place, tag)
        else:
            self._store(place.key, place.place(weight.values), half=weight.bits == 16)

    def change(self, name: str, values: NDArray[np.float32]) -> None:
        """Put other values into a float initializer."""
        self._store(name, values, half=False)

    def halve(self, name: str) -> None:
        """Store another float initializer as fp16."""
        from onnx import numpy_helper

        self._store(name, numpy_helper.to_array(self.initializers[name]), half=True)

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
        """Add the decoding nodes in front of the network's, and the functions that they call."""
        import onnx
        from onnx import parser

        nodes = [*self.nodes, *self.model.graph.node]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name not in self.dropped]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        if self.opset > OPSET:
            self.model.ir_version = max(self.model.ir_version, _IR[self.opset])
            for entry in self.model.opset_import:
                if not entry.domain:
                    entry.version = self.opset
        if not self.used:
            return
        for form, bits in sorted(self.used):
            self.model.functions.append(parser.parse_function(function(form, bits)))
        self.model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))

    def _decode(self, weight: QuantizedWeight, place: Placement, tag: str) -> None:
        """Storage packed: a byte stream of codes and a node that calls the function of its form."""
        kept = np.float16 if weight.fp16 else np.float32
        codes = place.place(weight.codes).reshape(-1)
        if weight.form is Form.TABLE:
            assert weight.table is not None
            entries = max(used_entries(row) for row in weight.table)
            table = weight.table[:, :entries].astype(kept)
            form = "Table" if weight.axis is None else "Tables"
            parameter = self._add(f"t{tag}", table.reshape((*self._view(weight, place), entries)))
        else:
            assert weight.scale is not None
            form = "Symmetric" if weight.form is Form.SCALE else "Linear"
            if weight.zero_point is not None:
                codes = np.concatenate([weight.zero_point, codes])
            parameter = self._add(f"s{tag}", weight.scale.astype(kept).reshape(self._view(weight, place) or (1,)))
        packed = self._add(f"q{tag}", stream(codes, weight.bits))
        self._call(form, weight, [packed, parameter], place, f"w{tag}")

    def _dequantize_linear(self, weight: QuantizedWeight, place: Placement, tag: str) -> None:
        """Storage native: DequantizeLinear of uint8 or uint4 codes and zero points, int8 or int4 codes if symmetric.

        Its scales are fp32, as they decide the type of its output. Groups are repeated for each channel.
        """
        from onnx import TensorProto, helper

        if weight.form is Form.TABLE:
            raise BackendError(f"{weight.name}: ONNX has no type for a lookup table; leave out @native")
        assert weight.scale is not None
        bits = 4 if weight.bits <= 4 else 8
        wide = weight.widened(bits)
        signed = wide.form is Form.SCALE
        kind = getattr(TensorProto, f"{'INT' if signed else 'UINT'}{bits}")

        def store(name: str, codes: NDArray[np.uint8]) -> str:
            tensor = helper.make_tensor(
                name,
                kind,
                codes.shape,
                packing.pack(codes ^ np.uint8(2 ** (bits - 1) if signed else 0), bits).tobytes(),
                raw=True,
            )
            self.model.graph.initializer.append(tensor)
            return name

        inputs = [store(f"q{tag}", place.place(wide.codes))]
        scale = wide.spread(weight.scale) if weight.axis is not None else weight.scale.reshape(())
        inputs.append(self._add(f"s{tag}", scale))
        if wide.zero_point is not None:
            zero = wide.spread(wide.zero_point) if weight.axis is not None else wide.zero_point.reshape(())
            inputs.append(store(f"z{tag}", zero))
        node = helper.make_node("DequantizeLinear", inputs, [f"w{tag}"], name=_node_name(weight, tag))
        if weight.axis is not None:
            self._view(weight, place)  # raises where the channels share an axis
            node.attribute.append(helper.make_attribute("axis", place.axis))
        self._read(node, place)
        self.opset = max(self.opset, 21 if bits == 4 else 18)

    def _view(self, weight: QuantizedWeight, place: Placement) -> tuple[int, ...]:
        """The shape in which parameters broadcast against the placed weight; groups in place of channels under oc16."""
        if weight.axis is None:
            return ()
        if place.axis is None:
            raise BackendError(
                f"{weight.name}: its channels share an axis with others in the ONNX file; use granularity tensor"
            )
        return tuple(weight.groups if axis == place.axis else 1 for axis in range(len(place.shape)))

    def _call(self, form: str, weight: QuantizedWeight, inputs: list[str], place: Placement, output: str) -> None:
        """Add a node that calls the function of a form. It has the parameter's name; its output, a short one."""
        from onnx import helper

        form += "16_" if weight.together > 1 else ""
        self.used.add((form, weight.bits))
        shape = [int(length) for length in place.shape]
        name = _node_name(weight, output.removeprefix("w"))
        node = helper.make_node(f"{form}{weight.bits}", inputs, [output], name=name, domain=DOMAIN, d=shape)
        self._read(node, place)

    def _read(self, decoder: onnx.NodeProto, place: Placement) -> None:
        """Add a decoding node, whose output the network reads in place of a constant."""
        self.nodes.append(decoder)
        output = decoder.output[0]
        for node in self.model.graph.node:
            for position, name in enumerate(node.input):
                if name == place.key:
                    node.input[position] = output

    def _add(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name


def _node_name(weight: Weight, tag: str) -> str:
    """The weight's name; with a number for a second layout of it, as no two nodes may share a name."""
    copy = tag.partition("_")[2]
    return f"{weight.name}_{copy}" if copy else weight.name
