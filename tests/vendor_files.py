"""A small network, and files that the vendors' own tools make of it."""

import contextlib
import io
import json
import warnings
from functools import cache

import numpy as np
import torch
from torch import nn

from mobconv import backends, recipe
from mobconv.backends.base import Entry
from mobconv.model.trace import trace
from mobconv.pipeline import templates
from mobconv.pipeline.quantized import quantize_model, same_scheme
from mobconv.schemes import Cell, Compute

CLASSES = 10


class Small(nn.Module):
    """Convolutions: stem, depthwise and pointwise; two linear layers. How large they are: `WEIGHTS`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 256, 1)
        self.first = nn.Linear(256, 128)
        self.second = nn.Linear(128, CLASSES)

    def forward(self, image):
        x = torch.relu(self.stem(image))
        x = torch.relu(self.depthwise(x))
        x = torch.relu(self.pointwise(x)).mean((2, 3))
        return self.second(torch.relu(self.first(x)))


class Words(nn.Module):
    """An embedding and a matrix product."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(100, 64), nn.Linear(64, 48)

    def forward(self, x):
        return self.out(self.table(x))


WEIGHTS = {"stem": 432, "depthwise": 144, "pointwise": 4096, "first": 32768, "second": 1280}


@cache
def small():
    torch.manual_seed(0)
    return trace(Small().eval(), {"image": np.zeros((1, 3, 8, 8), np.float32)})


LAYERS = [{"match": "first.*", "keep": "fp32"}, {"match": "pointwise.*", "bits": 8}]


def ours(name, folder, program=None, layers=None):
    """The artifact of a cell, made by mobconv with its record, and the bytes of its weights as `encode` counts them."""
    cell, program = Cell.parse(name), program or small()
    backend = backends.get(cell.backend)
    template = templates.template(backend, Entry(program), cell.compute, folder)
    path = folder / cell.path(backend.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    scheme_for = same_scheme
    if layers:
        given = {"checkpoint": "-", "data": "-", "backends": "onnx", "schemes": "w4-kmeans", "layers": layers}
        scheme_for = recipe.Recipe.model_validate(given).scheme_for
    model = quantize_model(program, cell.scheme, scheme_for)
    encoded = backend.encode(template, model, cell, path, json.dumps({"cell": name}))
    return path, encoded.weight_bytes


@contextlib.contextmanager
def hushed():
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@cache
def ml_program(target, compute=Compute.FP16):
    """The network as coremltools converts it, in memory."""
    import coremltools as ct

    with hushed():
        return ct.convert(
            small().exported().run_decompositions({}),
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT16 if compute is Compute.FP16 else ct.precision.FLOAT32,
            skip_model_load=True,
        )


@cache
def words():
    torch.manual_seed(0)
    return trace(Words().eval(), {"x": np.zeros((1, 9), np.int64)})


class Calibration:
    """Random images, for static quantization."""

    def __init__(self, name, shape):
        self._rows = iter([{name: np.random.default_rng(i).normal(size=shape).astype(np.float32)} for i in range(2)])

    def get_next(self):
        return next(self._rows, None)


def quantize_static(plain, path, form, shape=(1, 3, 8, 8), per_channel=False):
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as run

    name = onnx.load(plain).graph.input[0].name
    with hushed():
        run(
            str(plain), str(path), Calibration(name, shape), quant_format=QuantFormat[form], per_channel=per_channel,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    return path


def quantize_dynamic(plain, path, kind="QInt8"):
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as run

    with hushed():
        run(str(plain), str(path), weight_type=QuantType[kind])
    return path


def matmul_nbits(plain, path, block=32):
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with hushed():
        tool = MatMulNBitsQuantizer(onnx.load(plain), block_size=block, is_symmetric=False)
        tool.process()
        tool.model.save_model_to_file(str(path))
    return path


def litert(path):
    """The network as litert-torch converts it; ai-edge-quantizer wants the names that our files leave out."""
    import litert_torch

    with hushed():
        example = tuple(torch.from_numpy(value) for value in small().example.values())
        litert_torch.convert(small().module.eval(), example).export(str(path))
    return path


def ai_edge(plain, path, bits, kind, **more):
    """kind: weight_only or dynamic."""
    from ai_edge_quantizer import quantizer, recipe

    path.unlink(missing_ok=True)  # it refuses to write over a file
    with hushed():
        tool = quantizer.Quantizer(str(plain))
        add = tool.add_weight_only_config if kind == "weight_only" else tool.add_dynamic_config
        add(regex=".*", operation_name=recipe.TFLOperationName.ALL_SUPPORTED, num_bits=bits, **more)
        tool.quantize().export_model(str(path))
    return path
