"""An ONNX file as a graph that can be cut; its parts run in ONNX Runtime, as the whole file does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import Op, slicing
from mobconv.backends.onnx import operators
from mobconv.backends.onnx.runner import session
from mobconv.errors import InputError

if TYPE_CHECKING:
    import onnx

_KEPT = 4  # sessions of cuts
_KINDS: dict[str, Any] = {
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class OnnxGraphView:
    """See `mobconv.backends.graph_view.GraphView`. Raises InputError for a file of another kind."""

    layout = "nchw"

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnx
        from onnx import numpy_helper

        self.path, self._threads = path, threads
        whole = session(path, threads)  # raises for a damaged file, with the runtime's reason
        try:
            self._model = onnx.load(str(path))
        except Exception as error:  # protobuf's, and what its readers of external data raise
            raise InputError(f"{path}: not an ONNX model, or without its external data: {error}") from error
        graph = self._model.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = list(graph.node)
        edges = [(operators.reads(node), list(node.output)) for node in self._nodes]
        self._edges = edges
        self._fixed = slicing.fixed(edges, set(self._initializers))
        self.inputs = tuple(value.name for value in graph.input if value.name not in self._initializers)
        self.outputs = tuple(value.name for value in graph.output)
        self._types: dict[str, str] = {value.name: value.type for value in whole.get_inputs()}
        declared = {
            value.name: tuple(n if isinstance(n, int) else -1 for n in value.shape) for value in whole.get_inputs()
        }
        self.batch = declared[self.inputs[0]][0] if self.inputs and declared[self.inputs[0]] else -1

        def constant(name: str) -> NDArray[Any] | None:
            tensor = self._initializers.get(name)
            return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

        self._reader = operators.NodeReader(self._nodes, self._fixed, constant)
        self.ops: tuple[Op, ...] = self._reader.ops()
        self.shapes: dict[str, tuple[int, ...]] = dict(declared)
        self._sessions: dict[tuple[frozenset[str], tuple[str, ...]], Any] = {}
        half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
        edge = [*whole.get_inputs(), *whole.get_outputs()]
        halves = half and any(value.type == "tensor(float16)" for value in edge)
        self.note = "computed in fp32"
        if self._reader.integer:
            self.note = "activations in 8 bits: integer kernels, which cannot run in fp32"
        elif halves:
            self.note = "an fp16 file: ONNX Runtime rounds its values to fp16, and cannot run it in fp32"
        if all(n > 0 for shape in declared.values() for n in shape[1:]):
            self.settle({name: np.zeros((1 if s[0] < 1 else s[0], *s[1:]), np.float32) for name, s in declared.items()})

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Run one batch with every tensor as an output, for their shapes and types."""
        if len(self.shapes) > len(self.inputs):
            return
        tensors = [name for _, outputs in self._edges for name in outputs if name and name not in self._fixed]
        everything = session(self._cut(frozenset(self.inputs), tensors), self._threads, self.path)
        rows = {name: self._typed(name, value) for name, value in feeds.items()}
        if self.batch > 0:
            rows = {name: np.resize(value, (self.batch, *value.shape[1:])) for name, value in rows.items()}
        values = everything.run(tensors, rows)
        self.shapes.update({name: tuple(np.shape(value)) for name, value in zip(tensors, values, strict=True)})
        self._types.update({name: _type_name(value) for name, value in zip(tensors, values, strict=True)})
        self.shapes.update({name: rows[name].shape for name in self.inputs})

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `GraphView.run`."""
        if not feeds:
            return self._constants(fetch)
        key = frozenset(feeds), tuple(fetch)
        if key not in self._sessions:
            whole = key[0] == set(self.inputs) and list(fetch) == list(self.outputs)
            model = self.path if whole else self._cut(key[0], fetch)
            self._sessions[key] = session(model, self._threads, self.path)
            if len(self._sessions) > _KEPT:
                self._sessions.pop(next(iter(self._sessions)))
        cut = self._sessions[key]
        names = {name: f"{name}{_FED}" if name not in self.inputs else name for name in feeds}
        inputs = {value.name for value in cut.get_inputs()}
        typed = {name: self._typed(name, value) for name, value in feeds.items() if names[name] in inputs}
        lengths = {name: self.shapes[name][0] if self.batch > 0 and self.shapes.get(name) else -1 for name in typed}
        wanted = [value.name for value in cut.get_outputs()]

        def once(part: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            try:
                values = cut.run(wanted, {names[name]: value for name, value in part.items()})
            except Exception as error:  # pybind types without a common base
                raise InputError(f"{self.path}: ONNX Runtime cannot run this part of the file: {error}") from error
            return dict(zip(wanted, values, strict=True))

        results = slicing.in_batches(typed, lengths, once)
        return {name: self._floats(name, results.get(name, feeds.get(name))) for name in fetch}

    def precise(self) -> None:
        """None: ONNX Runtime computes in the types that the file declares; see `note`."""

    def close(self) -> None:
        """Close all sessions."""
        self._sessions.clear()

    def _constants(self, fetch: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        from onnx import numpy_helper

        """Constants in float32: decoded here where the reader can, else in ONNX Runtime."""
        values: dict[str, NDArray[np.float32]] = {}
        computed = []
        for name in fetch:
            decoded = self._reader.decoded(name)
            if decoded is None and name in self._initializers:
                decoded = numpy_helper.to_array(self._initializers[name])
            if decoded is None:
                computed.append(name)
            else:
                values[name] = np.asarray(decoded, np.float32)
        if computed:
            cut = session(self._cut(frozenset(), computed), self._threads, self.path)
            values.update(zip(computed, (np.asarray(v, np.float32) for v in cut.run(computed, {})), strict=True))
        return values

    def _typed(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """An array in the tensor's own type, quantized where that is an integer one."""
        known = self._reader.quantized.get(name)
        if known is not None and value.dtype.kind == "f":
            return known.quantize(value)
        kind = _KINDS.get(self._types.get(name, ""), np.float32)
        if value.dtype.kind == "f" or kind is not np.float32:
            return np.ascontiguousarray(value, kind)
        declared = self._types.get(name, "tensor(float)")
        return np.ascontiguousarray(value, np.float32 if declared == "tensor(float)" else value.dtype)

    def _floats(self, name: str, value: Any) -> NDArray[Any]:
        """A value as floats: dequantized, or fp16 as fp32; other types as they are."""
        known = self._reader.quantized.get(name)
        array = np.asarray(value)
        if known is not None and array.dtype.kind != "f":
            return known.dequantize(array)
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def _cut(self, feeds: frozenset[str], fetch: Sequence[str]) -> onnx.ModelProto:
        """The nodes that compute `fetch` from `feeds`, as a model; fed inner tensors become inputs of other names."""
        import onnx
        from onnx import helper

        graph = self._model.graph
        kept = slicing.needed(self._edges, feeds, fetch, set(self._initializers))
        renamed = {name: f"{name}{_FED}" for name in feeds if name not in self.inputs}
        nodes = [operators.renamed(self._nodes[position], renamed) for position in kept]
        read = {name for node in nodes for name in operators.reads(node)}
        computed = {name for node in nodes for name in node.output}
        values = [value for value in graph.input if value.name in feeds and value.name in read]
        for name in sorted(feeds):
            if name in renamed and renamed[name] in read:
                values.append(helper.make_tensor_value_info(renamed[name], self._element(name), None))
        model = onnx.ModelProto()
        model.ir_version = self._model.ir_version
        model.opset_import.extend(self._model.opset_import)
        model.functions.extend(self._model.functions)
        out = model.graph
        out.name = "cut"
        out.node.extend(nodes)
        out.initializer.extend(tensor for name, tensor in self._initializers.items() if name in read | set(fetch))
        out.input.extend(values)
        known = {value.name: value for value in graph.output}
        for name in fetch:
            if name in computed:
                out.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
        return model

    def _element(self, name: str) -> int:
        """The number of a tensor's element type in ONNX; float where it is not known."""
        from onnx import TensorProto

        kinds = {"float": "FLOAT", "double": "DOUBLE"}
        kind = self._types.get(name, "tensor(float)").removeprefix("tensor(").removesuffix(")")
        return int(getattr(TensorProto, kinds.get(kind, kind.upper())))


_FED = "//fed"


def _type_name(value: Any) -> str:
    kind = {"float32": "float", "float64": "double"}.get(str(np.asarray(value).dtype), str(np.asarray(value).dtype))
    return f"tensor({kind})"


def open_graph(path: Path, threads: int = 0) -> OnnxGraphView:
    """Open a file as a graph view. Raises InputError for a missing file, and for another kind of file."""
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    return OnnxGraphView(path, threads)


__all__ = ["OnnxGraphView", "open_graph"]
