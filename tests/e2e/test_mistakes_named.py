"""Every mistake of the probe's list, planted with the vendors' own converters, is named; none is on a clean file.

And what it costs is booked under preprocessing: at least nine tenths of the planted loss, the issue's figure.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import BACKENDS, make

from mobconv.compare import comparison
from mobconv.compare.mistakes import Mistake, plausible, right
from mobconv.data.labelled import Images
from mobconv.data.labelled import load as load_images
from mobconv.data.preprocessing import raw
from mobconv.model import checkpoint as checkpoints

FIXTURES = Path(__file__).parents[2] / "fixtures"
NETWORKS = {"small": "digits-fed-mobilenet-v2-w025", "full": "digits-mobilenet-v2"}
IMAGES = 128  # of 2,000: all of them add nothing to a loss of tens of points but time


@functools.cache
def loaded(network):
    return checkpoints.load(FIXTURES / f"{NETWORKS[network]}.safetensors")


@functools.cache
def images(count):
    return load_images(str(FIXTURES / "digits-test.parquet"), count)


@functools.cache
def mistakes(network) -> dict[str, Mistake]:
    return {each.name: each for each in plausible(loaded(network).preprocessing)}


def compared(network, path, told=None, data: Images | None = None):
    return comparison.compare(loaded(network), path, lambda _: data or images(IMAGES), told)


def planted_loss(network, mistake, data):
    """Points of top-1 that the mistake costs the float network itself, in PyTorch."""
    held = loaded(network)
    clean = held.run(held.preprocessing(data.pixels)).argmax(axis=1) == data.labels
    wrong = held.run(mistake.seen(data.pixels)).argmax(axis=1) == data.labels
    return 100 * float(clean.mean() - wrong.mean())


def check(network, backend, mistake, folder):
    path = make(backend, loaded(network).module, mistake, (32, 32), folder)
    found = compared(network, path, raw() if backend in ("onnx", "tflite") else None)
    assert found.finding is not None
    assert found.finding.named is not None, found.finding
    assert found.finding.named.mistake.name == mistake.name
    # nine tenths of what it costs, whichever way; and no other row after quantization has more than two images
    two = 100 * 2 / IMAGES
    cost = planted_loss(network, mistake, images(IMAGES))
    assert found.lost[-1].points == pytest.approx(cost, rel=0.1, abs=two)
    assert max(abs(lost.points) for lost in found.lost[2:-1]) <= two
    assert abs(found.finding.named.restored - found.finding.reference_top1) <= 2 / IMAGES
    assert found.call


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.slow if "coreml" in name else []) for name in BACKENDS]
)
def test_the_sign_of_the_bias_is_named_and_booked(backend, tmp_path):
    check("small", backend, next(each for name, each in mistakes("small").items() if "sign" in name), tmp_path)


def test_axes_that_the_file_turns_around_in_front_of_its_first_layer(tmp_path):
    """As litert-torch places them: the network's input stands before the transposition in the same shape."""
    swapped = next(each for name, each in mistakes("small").items() if name == "height and width swapped")
    path = make("onnx", loaded("small").module, replace(swapped, late=True), (32, 32), tmp_path)
    found = compared("small", path, raw())
    assert found.finding.named.mistake.name == swapped.name
    assert all(lost.points == 0 for lost in found.lost[1:-1])


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
    held = loaded(network)
    path = make(backend, held.module, right(held.preprocessing), (32, 32), tmp_path)
    data = images(2000)
    found = compared(network, path, raw() if backend in ("onnx", "tflite") else None, data)
    assert found.finding is None
    rows = [round(lost.points * len(data) / 100) for lost in found.lost[2:]]
    assert max(map(abs, rows)) <= 2, rows


def test_the_caller_of_a_plain_tensor_is_told_of_its_own_mistake(tmp_path):
    held = loaded("small")
    nothing = Mistake("", np.ones(3), np.zeros(3))
    path = make("onnx", held.module, nothing, (32, 32), tmp_path)
    found = compared("small", path, raw())  # whoever calls it forgets all about normalising
    assert found.finding.named.mistake.name.startswith("pixels of 0 to 255, not normalised at all")
    clean = compared("small", path)
    assert clean.finding is None
    assert "the checkpoint" in clean.takes.source


def test_a_fault_that_is_no_mistake_of_the_list_has_no_name(tmp_path):
    odd = Mistake("odd", np.array([0.011, 0.003, 0.02]), np.array([0.7, -1.9, 0.1]))
    path = make("onnx", loaded("small").module, odd, (32, 32), tmp_path)
    found = compared("small", path, raw())
    assert found.lost[-1].points > 0
    assert found.finding is not None
    assert found.finding.named is None
    assert not found.call
