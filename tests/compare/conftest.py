"""The small fixture, traced once, with a float template of each format, and files in which one layer is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from support import CHECKPOINT, DATA

from mobconv import backends
from mobconv.compare.alignment import align
from mobconv.compare.layer_errors import layer_errors
from mobconv.compare.waterfall import run_waterfall
from mobconv.data import labelled
from mobconv.evaluate import tasks
from mobconv.model import checkpoint
from mobconv.pipeline.context import Context, Plan
from mobconv.pipeline.quantized import quantize_model

FORMATS = ("onnx", "tflite", "coreml", "coreml-mlmodel")


class Bench:
    """Files of one checkpoint, which take the network's own tensor."""

    def __init__(self, out, loaded, program=None, images=None):
        self.out, self.checkpoint = out, loaded
        self.context = Context(lambda: loaded, Plan(input="tensor"), out)
        if program is not None:
            self.context.program = program
        self.images = images or labelled.load(str(DATA))

    @property
    def program(self):
        return self.context.program

    @property
    def example(self):
        import torch

        return (torch.from_numpy(next(iter(self.checkpoint.example.values()))),)

    def encoded(self, cell, name, weights):
        """A cell's file under a name, with other values of the program's weights."""
        cell = backends.cell(cell)
        backend = backends.get(cell.backend)
        path = self.out / f"{name}.{backend.suffix}"
        if not path.exists():
            model = self.context.quantized(cell.scheme).model
            if weights:
                others = quantize_model(self.program.with_values(weights), cell.scheme).weights
                model = replace(model, weights=dict(model.weights) | {name: others[name] for name in weights})
            backend.encode(self.context.template(backend, cell.compute), model, cell, path)
        return path

    def file(self, cell, wrong=None):
        """A cell's file; wrong: the name of a weight of which channel 1 is 1.5 times what it should be."""
        weights = {}
        if wrong:
            weights[wrong] = self.program.floats()[wrong]
            weights[wrong][1] *= 1.5
        return self.encoded(cell, f"{cell.replace('/', '-')}{wrong or ''}", weights)

    def some(self, count):
        """The first images, without groups."""
        return labelled.Images("some", self.images.pixels[:count], self.images.labels[:count], self.images.names, "")

    def waterfall(self, path, count=100, feed=None):
        """feed: pixels (n, H, W, 3) -> the file's input; the network's own preprocessing by default."""
        feed = feed or self.checkpoint.preprocessing
        task = tasks.get("classification")
        images = self.some(count)
        inputs = lambda pixels: {"input": feed(pixels)}  # noqa: E731
        return run_waterfall(self.checkpoint, path, images, inputs, task, 1, program=self.program)

    def align(self, path):
        inputs = self.checkpoint.preprocessing(self.images.pixels[:4])
        return align(self.checkpoint, path, inputs, None, 1, self.program)

    def layer_errors(self, alignment, count=8):
        return layer_errors(alignment, self.checkpoint.preprocessing(self.images.pixels[:count]))


@pytest.fixture(scope="session")
def bench(tmp_path_factory, program):
    return Bench(tmp_path_factory.mktemp("compare"), checkpoint.load(CHECKPOINT), program)


def assert_sums_up(waterfall):
    """Losses of steps add up to the whole; scores and predictions are those of the outputs."""
    steps = waterfall.steps
    assert [step.name for step in steps] == ["float", "weights", "graph", "precision", "preprocessing"]
    assert abs(sum(step.loss for step in steps) - waterfall.loss) < 1e-9
    for step in steps:
        right = step.outputs.argmax(axis=1) == waterfall.images.labels
        assert step.outputs.shape == (len(waterfall.images), 10)
        assert np.array_equal(step.scores, np.where(right, 100.0, 0.0))
        assert step.score == pytest.approx(100 * right.mean())
