"""The grammar of schemes and cells: one string names a file, a row of the table and an ``--only`` glob.

    cell    <backend>/<scheme>[@native][@fp16|@fp32]
    scheme  fp32 | fp16 | w<bits>-<mode>[-<granularity>][-<algorithm>]

Defaults are left out of the canonical name: granularity `channel` for linear and symmetric, `tensor`
for kmeans; algorithm `mse`; storage packed; compute as the backend's default. So `w4-kmeans-tensor` is `w4-kmeans`.
"""

from mobconv.schemes.algorithms import ALGORITHMS, DEFAULT_ALGORITHM, Algorithm, Needs
from mobconv.schemes.cell import Cell, grammar
from mobconv.schemes.parts import BITS, DEFAULT_GRANULARITY, Compute, Granularity, Mode, Storage
from mobconv.schemes.scheme import WEIGHTS_ONLY, Scheme, syntax

__all__ = [
    "ALGORITHMS",
    "BITS",
    "DEFAULT_ALGORITHM",
    "DEFAULT_GRANULARITY",
    "WEIGHTS_ONLY",
    "Algorithm",
    "Cell",
    "Compute",
    "Granularity",
    "Mode",
    "Needs",
    "Scheme",
    "Storage",
    "grammar",
    "syntax",
]
