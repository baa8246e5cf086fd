"""A toy algorithm: the one file and the one line that an addition takes, put into a copy of the package."""

import shutil
from pathlib import Path

import mobconv

NAME = "clipped"
FILE = '''
"""Clipped: the better of the scale of minmax and seven eighths of it.

    s = argmin over s in {m, 7 m / 8} of sum_i (w_i - s q_i)^2,  m = max |w| / (2^(n-1) - 1)

See `minmax`, of the same section of the same paper.
"""

import numpy as np

from mobconv.quantize import symmetric
from mobconv.quantize.scales import round_to


def fit(weights, mode, bits, fp16):
    """Codes and scales of weights (groups, weights of a group) float32; symmetric only."""
    if bits == 1:
        return symmetric.encode_signs(weights, fp16)
    widest = symmetric.span(weights, bits, fp16)
    scales = np.stack([widest, round_to(widest * np.float32(0.875), fp16)])
    errors = [((weights - scale[:, None] * _factors(weights, scale, bits)) ** 2).sum(axis=1) for scale in scales]
    return symmetric.encode(weights, np.where(errors[1] < errors[0], scales[1], scales[0]), bits)


def _factors(weights, scale, bits):
    return symmetric.encode(weights, scale, bits).codes.astype(np.float64) - 2 ** (bits - 1)
'''
LINE = f'''    "{NAME}": Algorithm(f"{{_HERE}}.{NAME}", Needs.WEIGHTS, (Mode.SYMMETRIC,), "tries two scales"),\n'''


def add(folder: Path) -> Path:
    """Copy the package into `folder` and add the algorithm to the copy; returns the path to put into PYTHONPATH."""
    package = folder / "mobconv"
    shutil.copytree(Path(mobconv.__file__).parent, package, copy_function=shutil.copy2)
    (package / "quantize" / "algorithms" / f"{NAME}.py").write_text(FILE.lstrip())
    table = package / "schemes" / "algorithms.py"
    before, start, after = table.read_text().partition('    "minmax": Algorithm(')
    table.write_text(before + LINE + start + after)
    return folder
