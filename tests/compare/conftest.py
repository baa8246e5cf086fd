"""The small fixture, traced once, with a float template of each format, and files with a layer gone wrong."""

import numpy as np
import pytest
from support import CHECKPOINT, DATA

from mobconv import backends, compare
from mobconv.data import labelled
from mobconv.model import checkpoint
from mobconv.pipeline import templates
from mobconv.pipeline.network import quantize_all
from mobconv.schemes import Cell

FORMATS = ("onnx", "tflite", "coreml", "coreml-mlmodel")


class Bench:
    """Files of one checkpoint."""

    def __init__(self, out, path=CHECKPOINT, program=None):
        self.out, self.checkpoint = out, checkpoint.load(path)
        self.program = program or self.checkpoint.trace()
        self.images = labelled.load(str(DATA))
        self._weights = {}

    @property
    def example(self):
        import torch

        return (torch.from_numpy(next(iter(self.checkpoint.example.values()))),)

    def weights(self, scheme):
        if scheme not in self._weights:
            self._weights[scheme] = quantize_all(self.program, scheme)
        return self._weights[scheme]

    def file(self, cell, wrong=None):
        """A cell's file; wrong: the name of a weight of which channel 1 is 1.5 times what it should be."""
        cell = Cell.parse(cell)
        backend = backends.get(cell.backend)
        weights = dict(self.weights(cell.scheme))
        if wrong:
            value = self.program.floats()[wrong]
            value[1] *= 1.5
            weights[wrong] = quantize_all(self.program.with_values({wrong: value}), cell.scheme)[wrong]
        path = self.out / f"{str(cell).replace('/', '-')}{wrong or ''}.{backend.suffix}"
        if not path.exists():
            folder = templates.template(backend, self.program, cell.compute, self.out)
            backend.encode(folder, weights, cell, path)
        return path

    def some(self, count):
        """The first images, all else equal."""
        return labelled.Images("some", self.images.pixels[:count], self.images.labels[:count], self.images.names, "")

    def waterfall(self, path, count=100, feed=None):
        feed = feed or self.checkpoint.preprocessing
        return compare.waterfall(self.checkpoint, path, self.some(count), feed, 1, program=self.program)

    def subject(self, path):
        inputs = self.checkpoint.preprocessing(self.images.pixels[:4])
        return compare.prepare(self.checkpoint, path, inputs, None, 1, self.program)

    def layers(self, subject, count=8):
        return compare.layers(subject, self.checkpoint.preprocessing(self.images.pixels[:count]))


@pytest.fixture(scope="session")
def bench(tmp_path_factory, program):
    return Bench(tmp_path_factory.mktemp("compare"), program=program)


def assert_sums_up(found):
    """Steps telescope; each is what its outputs say."""
    assert [step.name for step in found.steps] == ["float", "weights", "graph", "precision", "preprocessing"]
    assert abs(sum(step.lost for step in found.steps) - found.lost) < 1e-9
    for step in found.steps:
        assert step.outputs.shape == (len(step.predictions), 10)
        assert np.array_equal(step.predictions, step.outputs.argmax(axis=1))
