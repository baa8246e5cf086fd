"""Scales are good: never worse than min/max, and within 1 % of trying everything.

The brute force here shares no code with the search: every fp16 scale from a quarter of the min/max
scale to 1.6 times it, times every zero point, each evaluated in float64.
"""

import numpy as np
import pytest

from mobconv.quantize import quantize
from mobconv.schemes import Scheme


def error(weight, values):
    return float(((weight.dequantize().astype(np.float64) - values) ** 2).sum())


def fp16_between(low, high):
    """Every positive fp16 number in [low, high]: their bit patterns are consecutive integers."""
    first, last = (int(np.float16(v).view(np.uint16)) for v in (low, high))
    return np.arange(first, last + 1, dtype=np.uint16).view(np.float16).astype(np.float64)


def brute_force(group, bits, symmetric):
    """Least squared error of one group (k,) over all fp16 scales and zero points."""
    values = group.astype(np.float64)
    levels = 2**bits - 1
    if symmetric:
        top = 2 ** (bits - 1) - 1
        widest, limits = np.abs(values).max() / top, [(-top, top)]
    else:
        widest = (max(values.max(), 0) - min(values.min(), 0)) / levels
        limits = [(-z, levels - z) for z in range(levels + 1)]
    scales = fp16_between(widest / 4, widest * 1.6)[:, None]
    nearest = np.rint(values / scales)
    return min(((values - scales * np.clip(nearest, low, high)) ** 2).sum(axis=1).min() for low, high in limits)


@pytest.mark.parametrize("mode", ["linear", "symmetric"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_within_one_percent_of_brute_force(program, bits, mode):
    values = program.floats()
    # stem, the first depthwise and projection, one late depthwise and pointwise layer, the classifier;
    # of the long ones every fourth or sixteenth channel, to keep the brute force short
    for name, step in (
        ("features.0.weight", 1),
        ("features.3.layers.0.weight", 1),
        ("features.4.layers.6.weight", 1),
        ("features.18.layers.3.weight", 16),
        ("features.17.layers.0.weight", 16),
        ("classifier.weight", 4),
    ):
        part = values[name][::step]
        ours = error(quantize(name, part, 0, Scheme.parse(f"w{bits}-{mode}")), part)
        best = sum(brute_force(row, bits, mode == "symmetric") for row in part.reshape(len(part), -1))
        assert ours <= best * 1.01, f"{name}: {ours / best:.4f} of the best"


def heavy(name, count=8192):
    """(1, count) values with tails that are worth clipping, most of all to the left."""
    rng = np.random.default_rng(5)
    draw = {"laplace": rng.laplace, "student": lambda size: rng.standard_t(3, size)}[name]
    values = draw(size=count)
    return np.where(values < 0, 1.5 * values, values).astype(np.float32)[None]


@pytest.fixture(scope="module")
def long_groups(program):
    """Two of random numbers, and the widest layer of the fixture as one tensor, 25,600 weights."""
    return {
        "laplace": heavy("laplace"),
        "student": heavy("student"),
        "trained": program.floats()["features.20.weight"].reshape(1, -1),
    }


@pytest.mark.parametrize("name", ["laplace", "student", "trained"])
@pytest.mark.parametrize("mode", ["linear", "symmetric"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_long_groups_of_heavy_tails_are_clipped_far_enough(long_groups, name, bits, mode):
    """Within 1 % of the best among scales 1 % apart, from a fiftieth of the min/max scale on, and of 33 zero points."""
    values = long_groups[name]
    wide = values[0].astype(np.float64)
    levels = 2**bits - 1
    if mode == "symmetric":
        top = 2 ** (bits - 1) - 1
        widest, limits = np.abs(wide).max() / top, [(-top, top)]
    else:
        widest = (wide.max() - wide.min()) / levels
        limits = [(-z, levels - z) for z in np.unique(np.rint(np.linspace(0, levels, 33)))]
    errors = {}
    for ratio in np.geomspace(0.02, 1.02, 396):
        nearest = np.rint(wide / (widest * ratio))
        errors[ratio] = min(
            float(((wide - widest * ratio * np.clip(nearest, low, high)) ** 2).sum()) for low, high in limits
        )
    best = min(errors, key=errors.__getitem__)
    assert best < 1, "min/max is as good: nothing needs to be clipped here"
    ours = error(quantize("w", values, 0, Scheme.parse(f"w{bits}-{mode}-tensor")), values)
    assert ours <= errors[best] * 1.01, f"{ours / errors[best]:.4f} of the best, at {best:.3f} of the min/max scale"


@pytest.mark.parametrize("granularity", ["tensor", "channel", "oc16"])
@pytest.mark.parametrize("mode", ["linear", "symmetric"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_never_worse_than_minmax(program, bits, mode, granularity):
    values = program.floats()
    for name, site in program.sites.items():
        searched, minmax = (
            error(
                quantize(name, values[name], site.axis, Scheme.parse(f"w{bits}-{mode}-{granularity}{algorithm}")),
                values[name],
            )
            for algorithm in ("", "-minmax")
        )
        assert searched <= minmax, name
