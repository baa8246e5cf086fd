"""Error of a file against PyTorch on random inputs, where there is no data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Entry
from mobconv.evaluate.inference import Outputs
from mobconv.evaluate.input_spec import typed
from mobconv.evaluate.output_error import OutputDeviation, output_error
from mobconv.model.checkpoint import Checkpoint
from mobconv.pipeline.artifact import Artifact

SAMPLES = 4


def example_error(artifact: Artifact, checkpoint: Checkpoint, entry: Entry) -> OutputDeviation:
    """Compare a file with the untouched module on random inputs, one at a time: pixels where it takes an image.

    Images are uniform noise of 0 to 255, floats are normal, integers are those of the checkpoint's example. The same
    inputs for every file. Raises InputError where the module does not run on them.
    """
    rng = np.random.default_rng(0)
    given: dict[str, list[NDArray[Any]]] = {}
    wanted: dict[str, list[NDArray[Any]]] = {}
    for _ in range(SAMPLES):
        feeds, inputs = _sample(artifact, checkpoint, entry, rng)
        outputs = artifact.run(feeds)
        # a file names its outputs in its own order or by its own names
        expected = checkpoint.run(inputs)
        ordered = {name: outputs[name] for name in expected} if {*expected} <= {*outputs} else outputs
        for gathered, values in ((given, ordered), (wanted, expected)):
            for name, value in values.items():
                gathered.setdefault(name, []).append(value)
    return output_error(_joined(given), _joined(wanted))


def _sample(
    artifact: Artifact, checkpoint: Checkpoint, entry: Entry, rng: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Inputs of the file and of the module, with the same values."""
    preprocessing, network = entry.preprocessing, checkpoint.preprocessing
    if entry.program.image and preprocessing is not None and network is not None:
        name, example = next(iter(checkpoint.example.items()))
        _, channels, height, width = example.shape
        pixels = rng.integers(0, 256, (1, height, width, channels), np.uint8)
        spec = artifact.inputs[0]
        return {spec.name: typed(preprocessing(pixels), spec)}, {name: network(pixels)}
    inputs = {
        name: rng.normal(size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in checkpoint.example.items()
    }
    return inputs, inputs


def _joined(parts: dict[str, list[NDArray[Any]]]) -> Outputs:
    return {name: np.concatenate(values) for name, values in parts.items()}
