"""Conversion loses nothing: every file, run from disk, computes what the reference computes.

The two limits are those of the project's contract: fp32 sums in another order differ by about 1e-6 of
the largest logit, so 1e-4 and 80 dB leave room for kernels, and none for a wrong weight.
"""

import numpy as np
import pytest
from laboratory import demo_cells

from mobconv.evaluate import closeness

LARGEST_ERROR = 1e-4  # of the image's largest |logit|
LOWEST_SNR = 80.0  # dB


def assert_nothing_lost(found, expected):
    near = closeness(found, expected)
    assert np.isfinite(found).all()
    assert near.max_error <= LARGEST_ERROR
    assert near.snr_db is None or near.snr_db >= LOWEST_SNR  # None: exact


@pytest.mark.parametrize("cell", demo_cells(), ids=str)
def test_conversion_loses_nothing(lab, cell):
    assert_nothing_lost(lab.logits(cell), lab.expected(cell.scheme))


@pytest.mark.slow
@pytest.mark.parametrize("cell", demo_cells(), ids=str)
def test_conversion_loses_nothing_on_any_image(lab, cell):
    count = len(lab.images)
    assert count == 2000
    assert_nothing_lost(lab.logits(cell, count), lab.expected(cell.scheme, count))
