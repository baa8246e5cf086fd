"""A layer of which one channel is wrong is ranked first, wherever it is, in every format."""

import pytest
from conftest import FORMATS

PLACES = {"first": 0, "middle": 26, "last": 52}
FAST = {("fp32", "first"), ("w8-linear", "middle"), ("w4-kmeans", "last")}
CASES = [
    pytest.param(name, scheme, place, marks=[] if (scheme, place) in FAST else pytest.mark.slow)
    for name in FORMATS
    for scheme in ("fp32", "w8-linear", "w4-kmeans", "w4-linear")
    for place in PLACES
]


@pytest.mark.parametrize(("name", "scheme", "place"), CASES)
def test_it_is_ranked_first(bench, name, scheme, place):
    site = list(bench.program.sites)[PLACES[place]]
    alignment = bench.align(bench.file(f"{name}/{scheme}", site))
    errors = bench.layer_errors(alignment)
    worst = errors.layers[0]
    assert (worst.name, worst.channel) == (site.removesuffix(".weight"), 1)
    assert worst.worst > 0.4 and worst.worst > 1.2 * errors.layers[1].worst
    assert worst.graph < 1e-4  # the weights are wrong, not what is done with them
    assert all(error.worst < 1e-4 for error in errors.between)
    alignment.close()
