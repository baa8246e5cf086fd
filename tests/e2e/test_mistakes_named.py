"""Every mistake of the probe's list, planted with the vendors' own converters, is named; none is on a clean file.

And what it costs is booked under preprocessing: at least nine tenths of the planted loss, the issue's figure.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import BACKENDS, make

from mobconv.compare.comparison import compare
from mobconv.compare.mistakes import Mistake, no_mistake, plausible_mistakes
from mobconv.data.labelled import load as load_images
from mobconv.data.preprocessing import raw
from mobconv.model import checkpoint as checkpoints

FIXTURES = Path(__file__).parents[2] / "fixtures"
DATA = str(FIXTURES / "digits-test.parquet")
NETWORKS = {"small": "digits-fed-mobilenet-v2-w025", "full": "digits-mobilenet-v2"}
IMAGES = 128  # of 2,000: all of them add nothing to a loss of tens of points but time


@functools.cache
def loaded(network):
    return checkpoints.load(FIXTURES / f"{NETWORKS[network]}.safetensors")


@functools.cache
def images(count):
    return load_images(DATA, count)


@functools.cache
def mistakes(network) -> dict[str, Mistake]:
    return {each.name: each for each in plausible_mistakes(loaded(network).preprocessing)}


def compared(network, path, takes=None, samples=IMAGES):
    return compare(loaded(network), path, DATA, takes=takes, samples=samples)


def planted_loss(network, mistake, data):
    """Points of top-1 that the mistake costs the float network itself, in PyTorch."""
    checkpoint = loaded(network)
    right = []
    for inputs in (checkpoint.preprocessing(data.pixels), mistake.seen(data.pixels)):
        (outputs,) = checkpoint.run({next(iter(checkpoint.example)): inputs}).values()
        right.append(outputs.argmax(axis=1) == data.labels)
    return 100 * float(right[0].mean() - right[1].mean())


def check(network, backend, mistake, folder):
    path = make(backend, loaded(network).module, mistake, (32, 32), folder)
    comparison = compared(network, path, raw() if backend in ("onnx", "tflite") else None)
    result = comparison.probe_result
    assert result is not None
    assert result.named is not None, result
    assert result.named.mistake.name == mistake.name
    # nine tenths of what it costs, whichever way; and no other row after quantization has more than two images
    two = 100 * 2 / IMAGES
    cost = planted_loss(network, mistake, images(IMAGES))
    assert comparison.differences[-1].loss == pytest.approx(cost, rel=0.1, abs=two)
    assert max(abs(difference.loss) for difference in comparison.differences[2:-1]) <= two
    assert abs(result.named.restored - result.reference_score) <= two
    assert comparison.corrected


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=[] if name == "onnx" else pytest.mark.slow) for name in BACKENDS]
)
def test_the_sign_of_the_bias_is_named_and_booked(backend, tmp_path):
    check("small", backend, next(each for name, each in mistakes("small").items() if "sign" in name), tmp_path)


@pytest.mark.slow
def test_axes_that_the_file_turns_around_in_front_of_its_first_layer(tmp_path):
    """As litert-torch places them: the network's input stands before the transposition in the same shape."""
    swapped = next(each for name, each in mistakes("small").items() if name == "height and width swapped")
    path = make("onnx", loaded("small").module, replace(swapped, late=True), (32, 32), tmp_path)
    comparison = compared("small", path, raw())
    assert comparison.probe_result.named.mistake.name == swapped.name
    assert all(difference.loss == 0 for difference in comparison.differences[1:-1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pair", [False, True], ids=["one", "two at once"])
def test_every_mistake_is_named(network, backend, pair, tmp_path, subtests):
    for number, mistake in enumerate(mistakes(network).values()):
        if mistake.pair == pair:
            with subtests.test(mistake=mistake.name):
                folder = tmp_path / str(number)
                folder.mkdir()
                check(network, backend, mistake, folder)


CLEAN = [("small", "onnx")]  # the rest with the slow ones


@pytest.mark.parametrize(
    ("network", "backend"),
    [
        pytest.param(network, backend, marks=[] if (network, backend) in CLEAN else pytest.mark.slow)
        for network in NETWORKS
        for backend in BACKENDS
    ],
)
def test_nothing_is_named_on_a_clean_file(network, backend, tmp_path):
    checkpoint = loaded(network)
    path = make(backend, checkpoint.module, no_mistake(checkpoint.preprocessing), (32, 32), tmp_path)
    samples = 400 if (network, backend) in CLEAN else 2000
    comparison = compared(network, path, raw() if backend in ("onnx", "tflite") else None, samples)
    assert comparison.probe_result is None
    rows = [round(difference.loss * samples / 100) for difference in comparison.differences[2:]]
    assert max(map(abs, rows)) <= 2, rows


@pytest.mark.slow
@pytest.mark.slow
def test_the_mistake_of_a_plain_tensors_caller_is_named(tmp_path):
    nothing = Mistake("", np.ones(3), np.zeros(3))
    path = make("onnx", loaded("small").module, nothing, (32, 32), tmp_path)
    comparison = compared("small", path, raw())  # its caller does not normalise at all
    assert comparison.probe_result.named.mistake.name.startswith("pixels of 0 to 255, not normalised at all")
    clean = compared("small", path)
    assert clean.probe_result is None
    assert "the checkpoint" in clean.expected.source


@pytest.mark.slow
def test_a_fault_that_is_no_mistake_of_the_list_has_no_name(tmp_path):
    odd = Mistake("odd", np.array([0.011, 0.003, 0.02]), np.array([0.7, -1.9, 0.1]))
    path = make("onnx", loaded("small").module, odd, (32, 32), tmp_path)
    comparison = compared("small", path, raw())
    assert comparison.differences[-1].loss > 0
    assert comparison.probe_result is not None
    assert comparison.probe_result.named is None
    assert not comparison.corrected
