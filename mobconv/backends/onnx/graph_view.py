"""An ONNX file, cut: see `mobconv.anatomy.Anatomy`. Parts of it run in ONNX Runtime, as the whole does."""

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

_HELD = 4  # sessions of cuts that are kept


_KINDS: dict[str, Any] = {
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class OnnxAnatomy:
    """See `mobconv.anatomy.Anatomy`. Raises InputError for a file that is no ONNX model."""

    layout = "nchw"

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnx
        from onnx import numpy_helper

        self.path, self._threads = path, threads
        whole = session(path, threads)  # says what is wrong with a damaged file
        try:
            self._model = onnx.load(str(path))
        except Exception as error:  # protobuf's, and what its readers of external data raise
            raise InputError(f"{path}: not an ONNX model, or without its external data: {error}") from error
        held = self._model.graph
        self._initializers = {tensor.name: tensor for tensor in held.initializer}
        self._nodes = list(held.node)
        edges = [(operators.reads(node), list(node.output)) for node in self._nodes]
        self._edges = edges
        self._fixed = slicing.fixed(edges, set(self._initializers))
        self.inputs = tuple(value.name for value in held.input if value.name not in self._initializers)
        self.outputs = tuple(value.name for value in held.output)
        self._types: dict[str, str] = {each.name: each.type for each in whole.get_inputs()}
        declared = {
            each.name: tuple(n if isinstance(n, int) else -1 for n in each.shape) for each in whole.get_inputs()
        }
        self.batch = declared[self.inputs[0]][0] if self.inputs and declared[self.inputs[0]] else -1

        def constant(name: str) -> NDArray[Any] | None:
            tensor = self._initializers.get(name)
            return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

        self._reader = operators.Reader(self._nodes, self._fixed, constant)
        self.ops: tuple[Op, ...] = self._reader.ops()
        self.shapes: dict[str, tuple[int, ...]] = dict(declared)
        self._sessions: dict[tuple[frozenset[str], tuple[str, ...]], Any] = {}
        half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in held.initializer)
        halves = half and any(each.type == "tensor(float16)" for each in [*whole.get_inputs(), *whole.get_outputs()])
        self.note = "computed in fp32"
        if self._reader.integer:
            self.note = "activations in 8 bits: integer kernels, which cannot be run in fp32"
        elif halves:
            self.note = "an fp16 file: ONNX Runtime rounds its values to fp16, and it cannot be run in fp32"
        if all(n > 0 for shape in declared.values() for n in shape[1:]):
            self.settle({name: np.zeros((1 if s[0] < 1 else s[0], *s[1:]), np.float32) for name, s in declared.items()})

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Run one sample (as many as the file takes) with every tensor looked at, for their shapes."""
        if len(self.shapes) > len(self.inputs):
            return
        tensors = [name for _, outputs in self._edges for name in outputs if name and name not in self._fixed]
        held = session(self._cut(frozenset(self.inputs), tensors), self._threads, self.path)
        rows = {name: self._typed(name, value) for name, value in feeds.items()}
        if self.batch > 0:
            rows = {name: np.resize(value, (self.batch, *value.shape[1:])) for name, value in rows.items()}
        found = held.run(tensors, rows)
        self.shapes.update({name: tuple(np.shape(value)) for name, value in zip(tensors, found, strict=True)})
        self._types.update({name: _type_name(value) for name, value in zip(tensors, found, strict=True)})
        self.shapes.update({name: rows[name].shape for name in self.inputs})

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Anatomy.run`."""
        if not feeds:
            return self._constants(fetch)
        key = frozenset(feeds), tuple(fetch)
        if key not in self._sessions:
            whole = key[0] == set(self.inputs) and list(fetch) == list(self.outputs)
            model = self.path if whole else self._cut(key[0], fetch)
            self._sessions[key] = session(model, self._threads, self.path)
            if len(self._sessions) > _HELD:
                self._sessions.pop(next(iter(self._sessions)))
        held = self._sessions[key]
        names = {name: f"{name}{_FED}" if name not in self.inputs else name for name in feeds}
        taken = {each.name for each in held.get_inputs()}
        typed = {name: self._typed(name, value) for name, value in feeds.items() if names[name] in taken}
        lengths = {name: self.shapes[name][0] if self.batch > 0 and self.shapes.get(name) else -1 for name in typed}
        wanted = [each.name for each in held.get_outputs()]

        def once(part: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            try:
                values = held.run(wanted, {names[name]: value for name, value in part.items()})
            except Exception as error:  # pybind types without a common base
                raise InputError(f"{self.path}: ONNX Runtime cannot run this part of the file: {error}") from error
            return dict(zip(wanted, values, strict=True))

        found = slicing.in_batches(typed, lengths, once)
        return {name: self._floats(name, found.get(name, feeds.get(name))) for name in fetch}

    def precise(self) -> None:
        """ONNX Runtime computes in what the file says: see `note`."""

    def close(self) -> None:
        self._sessions.clear()

    def _constants(self, fetch: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        from onnx import numpy_helper

        found: dict[str, NDArray[np.float32]] = {}
        computed = []
        for name in fetch:
            decoded = self._reader.decoded(name)
            if decoded is None and name in self._initializers:
                decoded = numpy_helper.to_array(self._initializers[name])
            if decoded is None:
                computed.append(name)
            else:
                found[name] = np.asarray(decoded, np.float32)
        if computed:
            held = session(self._cut(frozenset(), computed), self._threads, self.path)
            found.update(zip(computed, (np.asarray(v, np.float32) for v in held.run(computed, {})), strict=True))
        return found

    def _typed(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """As the tensor has it: quantized, or in its own type."""
        known = self._reader.quantized.get(name)
        if known is not None and value.dtype.kind == "f":
            return known.quantize(value)
        kind = _KINDS.get(self._types.get(name, ""), np.float32)
        if value.dtype.kind == "f" or kind is not np.float32:
            return np.ascontiguousarray(value, kind)
        declared = self._types.get(name, "tensor(float)")
        return np.ascontiguousarray(value, np.float32 if declared == "tensor(float)" else value.dtype)

    def _floats(self, name: str, value: Any) -> NDArray[Any]:
        known = self._reader.quantized.get(name)
        array = np.asarray(value)
        if known is not None and array.dtype.kind != "f":
            return known.dequantize(array)
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def _cut(self, feeds: frozenset[str], fetch: Sequence[str]) -> onnx.ModelProto:
        """The part of the model that is needed, fed tensors under names of their own where they are not inputs."""
        import onnx
        from onnx import helper

        held = self._model.graph
        kept = slicing.needed(self._edges, feeds, fetch, set(self._initializers))
        renamed = {name: f"{name}{_FED}" for name in feeds if name not in self.inputs}
        nodes = [operators.renamed(self._nodes[position], renamed) for position in kept]
        read = {name for node in nodes for name in operators.reads(node)}
        made = {name for node in nodes for name in node.output}
        values = [value for value in held.input if value.name in feeds and value.name in read]
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
        known = {value.name: value for value in held.output}
        for name in fetch:
            if name in made:
                out.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
        return model

    def _element(self, name: str) -> int:
        """The element type of a tensor, float where nothing says otherwise."""
        from onnx import TensorProto

        kinds = {"float": "FLOAT", "double": "DOUBLE"}
        kind = self._types.get(name, "tensor(float)").removeprefix("tensor(").removesuffix(")")
        return int(getattr(TensorProto, kinds.get(kind, kind.upper())))


_FED = "//fed"


def _type_name(value: Any) -> str:
    kind = {"float32": "float", "float64": "double"}.get(str(np.asarray(value).dtype), str(np.asarray(value).dtype))
    return f"tensor({kind})"


def anatomy(path: Path, threads: int = 0) -> OnnxAnatomy:
    """Open a file to be cut. Raises InputError for what is no ONNX model."""
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    return OnnxAnatomy(path, threads)


__all__ = ["OnnxAnatomy", "anatomy"]
