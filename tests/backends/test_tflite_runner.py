"""The TFLite runner: batches, feeds, files that are none, and the stock runtime without mobconv."""

import subprocess
import sys

import numpy as np
import pytest

from mobconv.backends.tflite import backend
from mobconv.errors import InputError
from mobconv.model.trace import trace
from mobconv.quantize import quantize
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell


def written(program, template, cell, path):
    backend.convert(program, cell.compute, template)
    values = program.floats()
    weights = {name: quantize(name, values[name], site.axis, cell.scheme) for name, site in program.sites.items()}
    backend.encode(template, QuantizedModel(weights), cell, path)
    return path


@pytest.fixture(scope="session")
def encoded(tmp_path_factory):
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    program = trace(module, {"image": np.zeros((1, 3, 9, 9), np.float32)})
    directory = tmp_path_factory.mktemp("encoded")
    (directory / "template").mkdir()
    return written(program, directory / "template", Cell.parse("tflite/w4-kmeans"), directory / "w4-kmeans.tflite")


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).normal(0.5, 1, (40, 3, 9, 9)).astype(np.float32)


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 5, 39, 64])
def test_any_batch_gives_what_single_images_give(threads, count, encoded, images):
    many = np.concatenate([images, images])[:count]
    runner = backend.open(encoded, threads)
    alone = np.concatenate([backend.open(encoded, 1).run({"image": image[None]})["logits"] for image in many])
    np.testing.assert_allclose(runner.run({"image": many})["logits"], alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_a_batch_built_into_the_graph_is_run_one_by_one(tmp_path):
    import torch

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 6)

        def forward(self, first, second):
            mixed = self.layer((first - 2 * second).reshape(1, 6))
            return mixed.reshape(1, 2, 3), torch.softmax(mixed, 0)

    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(33, 2, 3)).astype(np.float32) for name in ("first", "second")}
    program = trace(Fixed(), {name: value[:1] for name, value in feeds.items()})
    template = tmp_path / "template"
    template.mkdir()
    path = written(program, template, Cell.parse("tflite/fp32"), tmp_path / "fp32.tflite")
    found = backend.open(path, 2).run(feeds)
    assert list(found) == list(program.outputs)
    for i in range(33):
        expected = program.run({name: value[i : i + 1] for name, value in feeds.items()})
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][i : i + 1], value, atol=1e-5)


def test_feeds_that_do_not_fit_are_named(encoded, images):
    runner = backend.open(encoded)
    with pytest.raises(InputError, match=r"has the inputs image; given: pixels"):
        runner.run({"pixels": images})
    with pytest.raises(InputError, match=r"image is \[1, 3, 9, 9\] in the file, \[40, 3, 9, 8\] was given"):
        runner.run({"image": images[..., :8]})


def test_files_that_are_not_tflite_are_refused(encoded, tmp_path):
    data = encoded.read_bytes()
    bad = {
        "missing": None,
        "empty": b"",
        "garbage": b"\x89PNG" + bytes(range(256)) * 9,
        "identified garbage": b"\x00\xff\x00\x00TFL3" + bytes(range(256)) * 9,
        **{f"cut at {n}": data[:n] for n in (7, 8, 40, len(data) // 4, len(data) // 2, len(data) - 1)},
    }
    for name, content in bad.items():
        path = tmp_path / f"{name}.tflite"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            backend.open(path)


def test_files_run_where_mobconv_is_not(encoded, images, tmp_path):
    np.save(tmp_path / "image.npy", images[:1])
    script = """
import sys
sys.modules["mobconv"] = None
import numpy
from ai_edge_litert.interpreter import Interpreter
runner = Interpreter(model_path=sys.argv[1]).get_signature_runner()
print(*runner(image=numpy.load("image.npy"))["logits"][0])
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(encoded)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = backend.open(encoded).run({"image": images[:1]})["logits"][0]
    np.testing.assert_allclose([float(word) for word in run.stdout.split()], expected, rtol=1e-6)
