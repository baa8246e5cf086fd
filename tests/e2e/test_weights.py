"""Same weights everywhere: what each file holds is, bit for bit, what the quantizer decided.

The readers use nothing of mobconv. ONNX carries the parameters' names; TFLite and Core ML do not, there
a parameter is known by its place in the order of the network's ops, and its shape is compared.
"""

import pytest
import read_onnx
from laboratory import demo_cells
from stored import differences

READERS = {"onnx": read_onnx.read}


def compare(lab, cell, path):
    """What differs between a file and the quantizer, by parameter; empty when nothing does."""
    held, weights = READERS[cell.backend](path), lab.weights(cell.scheme)
    assert len(held) == len(weights), "the file has another number of weights than the network"
    # ONNX tables need no padding: a Gather takes a table of any length
    entries = "used" if cell.backend == "onnx" else "all"
    found = {}
    for stored, (name, weight) in zip(held, weights.items(), strict=True):
        wrong = differences(stored, weight, entries)
        if stored.name and stored.name != name:
            wrong.append(f"it is called {stored.name}")
        if wrong:
            found[name] = wrong
    return found


@pytest.mark.parametrize("cell", demo_cells(*READERS), ids=str)
def test_a_file_holds_the_quantizers_weights(lab, cell):
    assert compare(lab, cell, lab.path(cell)) == {}
