"""Templates and files: a safetensors file each, whose metadata has the graph."""

import json

import numpy as np

from mobconv.backends.base import TensorSpec
from mobconv.common.files import write_whole
from mobconv.errors import BackendError, InputError
from mobconv.quantize.scales import to_fp16
from mobconv.quantize.weights import QuantizedWeight
from toyformat import graph
from toyformat.weights import decoded, tensors_of

_TEMPLATE = "template.safetensors"


def write_template(program, directory):
    """The graph of a program, and every tensor that no weight will replace."""
    from safetensors.numpy import save

    tensors = {name: value.detach().numpy() for name, value in program.module.state_dict().items()}
    others = {name: np.ascontiguousarray(value) for name, value in tensors.items() if name not in program.sites}
    shapes = {name: list(site.shape) for name, site in program.sites.items()}
    floats = [name for name in program.floats() if name not in program.sites]
    header = {"graph": graph.dump(program), "sites": shapes, "floats": floats}
    (directory / _TEMPLATE).write_bytes(save(others, {"toy": json.dumps(header)}))


def write(template, weights, cell, path, record):
    """Write a cell's file -> bytes of its weights. Raises BackendError for a weight that does not fit."""
    from safetensors.numpy import save

    tensors, header = _read(template / _TEMPLATE)
    if cell.scheme.mode is None and cell.scheme.bits == 16:
        tensors |= {name: to_fp16(name, tensors[name]).astype(np.float16) for name in header["floats"]}
    layouts, size = {}, 0
    for name, shape in header["sites"].items():
        if name not in weights or list(weights[name].dequantize().shape) != shape:
            raise BackendError(f"{cell}: no weight {name} of shape {shape}")
        parts, layouts[name] = tensors_of(weights[name])
        tensors |= parts
        if cell.scheme.mode is None or isinstance(weights[name], QuantizedWeight):
            size += sum(part.nbytes for part in parts.values())
    content = {"graph": header["graph"], "weights": layouts, "record": record}
    write_whole(path, save(tensors, {"toy": json.dumps(content)}))
    return size


def _read(path):
    """Tensors and header of a file. Raises InputError for a missing, foreign or damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            header = json.loads(file.metadata()["toy"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a toy file, or a damaged one: {error}") from error


class ToyRunner:
    """A file run in PyTorch, sample by sample."""

    verified = "runtime"
    labels = ()

    def __init__(self, path):
        import torch

        tensors, header = _read(path)
        self._graph, self.record = header["graph"], header["record"]
        values = {name: decoded(name, layout, tensors) for name, layout in header["weights"].items()}
        floats = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in header["weights"]}
        floats = {n: t.astype(np.float32) if t.dtype == np.float16 else t for n, t in floats.items()} | values
        self._tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in floats.items()}
        self.inputs = tuple(TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in self._graph["inputs"])
        example = [np.zeros(spec.shape, spec.dtype) for spec in self.inputs]
        shapes = [result.shape for result in self._once(example)]
        outputs = zip(self._graph["outputs"], shapes, strict=True)
        self.outputs = tuple(TensorSpec(name, shape, "float32") for name, shape in outputs)

    def run(self, feeds):
        rows = [
            self._once([feeds[spec.name][i : i + 1] for spec in self.inputs])
            for i in range(len(feeds[self.inputs[0].name]))
        ]
        return {
            spec.name: np.concatenate(column)
            for spec, column in zip(self.outputs, zip(*rows, strict=True), strict=True)
        }

    def close(self):
        self._tensors = {}

    def _once(self, arrays):
        import torch

        results = graph.run(self._graph, self._tensors, [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])
        return [result.numpy() for result in results]
