"""Fixtures are what their scripts and logs say: images made again are the same, accuracy is as logged."""

import importlib.util
import json

import numpy as np
import pytest
from pyarrow import parquet
from support import CALIBRATION, DATA, FIXTURES

from mobconv.data import labelled
from mobconv.evaluate import inference, tasks
from mobconv.model import checkpoint


def script(name):
    spec = importlib.util.spec_from_file_location(name, FIXTURES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_test_images_are_made_again_pixel_for_pixel():
    make_digits = script("make_digits")
    pixels, labels, scans = make_digits.make("test")
    assert make_digits.content_hash(pixels, labels, scans) == make_digits.CONTENT["test"]
    images = labelled.load(str(DATA))
    assert np.array_equal(images.pixels, pixels)
    assert np.array_equal(images.labels, labels)


def test_calibration_images_are_training_images():
    make_digits = script("make_digits")
    images = labelled.load(str(CALIBRATION))
    assert len(images) == make_digits.COUNT["calibration"] == 2048
    ids = np.array(parquet.read_table(CALIBRATION)["scan"].to_pylist())
    assert make_digits.content_hash(images.pixels, images.labels, ids) == make_digits.CONTENT["calibration"]
    assert {*ids.tolist()} <= set(make_digits.scans("train")[2].tolist())
    test = {pixels.tobytes() for pixels in labelled.load(str(DATA)).pixels}
    assert not any(pixels.tobytes() in test for pixels in images.pixels)


@pytest.mark.slow
def test_the_calibration_images_are_made_again_pixel_for_pixel():
    make_digits = script("make_digits")
    assert make_digits.content_hash(*make_digits.make("calibration")) == make_digits.CONTENT["calibration"]


def test_no_scan_is_on_both_sides():
    make_digits = script("make_digits")
    train, test = (set(make_digits.scans(split)[2].tolist()) for split in ("train", "test"))
    assert train and test and not train & test
    assert len(train | test) == 1797


@pytest.mark.parametrize(
    ("name", "parameters"), [("digits-fed-mobilenet-v2-w025", 162_602), ("digits-mobilenet-v2", 2_236_682)]
)
def test_a_checkpoint_is_as_accurate_as_its_log_says(name, parameters):
    path = FIXTURES / f"{name}.safetensors"
    loaded, images = checkpoint.load(path), labelled.load(str(DATA))
    (image,) = loaded.example
    outputs = inference.predict(lambda part: loaded.run({image: loaded.preprocessing(part)}), images.pixels)
    top1 = float((tasks.get("classification").scores(outputs, images) > 0).mean())
    logged = json.loads(path.with_suffix(".log.json").read_text())
    assert top1 >= 0.95
    # one image of 2,000: sums in another order may turn a tie
    assert abs(top1 - logged["test_top1"]) <= 1 / len(images)
    assert sum(p.numel() for p in loaded.module.parameters()) == logged["parameters"] == parameters
    assert script("train").NETWORKS[name].epochs == logged["recipe"]["epochs"] == len(logged["epochs"])
