"""One laboratory for the whole matrix: each scheme is quantized once a session, each backend converts once.

Everything is made when it is first asked for, so that `-k onnx` costs what ONNX costs.
"""

import json
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import pytest

from mobconv import backends, recipe
from mobconv.backends.base import Entry
from mobconv.data import labelled
from mobconv.evaluate import inference
from mobconv.model import checkpoint
from mobconv.pipeline import templates
from mobconv.pipeline.quantized import quantize_model
from mobconv.pipeline.reference import reference
from mobconv.schemes import BITS, Cell, Compute, Granularity, Mode, Scheme, Storage

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "demo.yaml"
FAST = 64  # images of the fast suite


def demo_cells(*names):
    """The cells of recipes/demo.yaml, of these backends or of all."""
    return [cell for cell in recipe.load(RECIPE, backends.formats()).cells() if not names or cell.backend in names]


def in_fp16(cell):
    """The same cell with a program that computes in fp16."""
    return replace(cell, compute=Compute.FP16)


THREE = ("onnx", "tflite", "coreml")  # coreml-mlmodel has tests of its own


def oc16_cells(*names):
    """Every width and mode with 16 channels a group, of these backends or of all."""
    schemes = [Scheme(bits, mode, Granularity.OC16) for mode in Mode for bits in reversed(BITS)]
    return [Cell(name, scheme) for name in names or THREE for scheme in schemes]


def native_cells(*names):
    """What each backend has with storage native: every width and mode, and groups of 16 channels at some."""
    schemes = [Scheme.parse(f"w{bits}-{mode}") for mode in Mode for bits in reversed(BITS)]
    schemes += [Scheme(bits, mode, Granularity.OC16) for mode in Mode for bits in (7, 4)]
    cells = [Cell(name, scheme, Storage.NATIVE) for name in names or THREE for scheme in schemes]
    return [cell for cell in cells if backends.get(cell.backend).support(cell).stored_bits]


# of oc16: a width that every format has, one that none has, the two ends
FAST_WIDTHS = {(8, Mode.LINEAR), (5, Mode.LINEAR), (4, Mode.SYMMETRIC), (3, Mode.KMEANS), (1, Mode.LINEAR)}
# of native: wider by a step (5 to 8, 3 to 4 or 8) in each mode, and the codes that are the least like themselves
FAST_NATIVE = {"w5-linear", "w3-symmetric", "w1-symmetric", "w5-kmeans", "w4-linear-oc16"}


def is_fast(cell):
    """Whether an oc16 or native cell is one of those that the fast suite has."""
    if cell.storage is Storage.NATIVE:
        return cell.scheme.name in FAST_NATIVE
    return (cell.scheme.bits, cell.scheme.mode) in FAST_WIDTHS


def some(cells):
    """Parameters of a test: in the fast suite a part of these cells in which each way to hold a weight is met."""
    return [pytest.param(cell, id=str(cell), marks=[] if is_fast(cell) else pytest.mark.slow) for cell in cells]


class Laboratory:
    """A trained fixture, quantized and encoded by the real backends; all results are kept."""

    def __init__(self, out, path=RECIPE):
        self.out = out
        plan = recipe.load(path, backends.formats())
        self.checkpoint = checkpoint.load(plan.checkpoint, checkpoint.Options())
        self.source = plan.data
        self.program = self.checkpoint.trace()
        self.names = list(self.program.sites)
        # for methods, functools.cache would keep every laboratory alive; there is one a session
        self.model = cache(self._model)
        self.encoded = cache(self._encoded)
        self.expected = cache(self._expected)

    @cached_property
    def images(self):
        """All test images, as the network takes them."""
        return self.checkpoint.preprocessing(labelled.load(str(self.source)).pixels)

    def template(self, cell):
        """The float template of the cell's backend, converted once."""
        return templates.template(backends.get(cell.backend), Entry(self.program), cell.compute, self.out)

    def path(self, cell):
        """The cell's artifact, written now unless it is there."""
        self.encoded(cell)
        return self.out / cell.path(backends.get(cell.backend).suffix)

    def weights(self, scheme):
        """The network's weights under a scheme, by name."""
        return self.model(scheme).weights

    def outputs(self, cell, count=FAST):
        """What our own runner computes from the cell's file: arrays by name."""
        return self.run(cell.backend, self.path(cell), count)

    def run(self, backend, path, count=FAST):
        """What our own runner computes from a file."""
        runner = backends.get(backend).open(path, threads=1)
        try:
            (spec,) = runner.inputs
            return inference.predict(inference.of_runner(runner, lambda part: {spec.name: part}), self.images[:count])
        finally:
            runner.close()

    def _model(self, scheme):
        return quantize_model(self.program, scheme)

    def _encoded(self, cell):
        backend = backends.get(cell.backend)
        path = self.out / cell.path(backend.suffix)
        return backend.encode(
            self.template(cell),
            self.model(cell.scheme),
            cell,
            path,
            record=json.dumps({"cell": "demo"}),
        )

    def _expected(self, scheme, count=FAST):
        program = reference(self.program, self.model(scheme), scheme)
        (name,) = program.example
        return inference.predict(lambda part: program.run({name: part}), self.images[:count])
