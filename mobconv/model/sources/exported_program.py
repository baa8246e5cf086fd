"""`.pt2` archives of torch.export.save: the network as a program, with named inputs of any number and dtype."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common import file_kind
from mobconv.errors import InputError, UsageError, setting
from mobconv.model import example as examples
from mobconv.model import factory, pt2_archive, trace
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, fingerprint_of_file
from mobconv.model.program import IMAGE

if TYPE_CHECKING:
    from torch.export import ExportedProgram

KIND = "a .pt2 archive of torch.export.save"
_MARKS = ("archive_format", "models/model.json")


def accepts(reference: str) -> bool:
    """Whether a file is a zip with an exported program in it."""
    return not file_kind.zip_members(Path(reference)).isdisjoint(_MARKS)


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash the file, which contains its program."""
    return fingerprint_of_file(reference)


def load(reference: str, options: Options) -> Checkpoint:
    """Load the program, where it asks for nothing but data. See checkpoint.Source for errors."""
    content = file_kind.read(Path(reference), "checkpoint")
    exported, module, is_open = pt2_archive.load(reference, content, options.trust_pickle)
    example = _example(exported, reference)
    notes = [factory.NOT_CALLED] if options.factory else []
    if is_open:
        exported, example = _closed(exported, example, options, reference)
        module = exported.module()
        shapes = ", ".join(str(value.shape) for value in example.values())
        notes.append(f"the program has open dimensions: it was specialised to inputs of shape {shapes}")
    if options.input_shape is not None and [options.input_shape] != [value.shape for value in example.values()]:
        shapes = ", ".join(str(value.shape) for value in example.values())
        raise UsageError(f"{reference} was exported for inputs {shapes}, not {options.input_shape}")
    factory.check_finite(module, reference)
    preprocessing = options.preprocessing
    if len(example) == 1:
        preprocessing = examples.fitted(preprocessing, next(iter(example.values())).shape, reference)
    return Checkpoint(
        reference,
        Path(reference).name,
        hashlib.sha256(content).hexdigest(),
        module,
        example,
        preprocessing,
        (),
        notes,
        exported,
        exported.call_spec.in_spec,
    )


def _closed(
    exported: ExportedProgram, example: dict[str, NDArray[Any]], options: Options, reference: str
) -> tuple[ExportedProgram, dict[str, NDArray[Any]]]:
    """Export a program with open dimensions again, for the user's input shape or a batch of 1."""
    if options.input_shape is not None and len(example) == 1:
        closed = {name: np.zeros(options.input_shape, value.dtype) for name, value in example.items()}
    else:
        closed = {name: np.zeros((1, *value.shape[1:]), value.dtype) for name, value in example.items()}
    try:
        # without the guards and constraints of the traced lengths
        return trace.export(trace.unfolded(exported, len(example)), closed), closed
    except InputError as error:
        raise InputError(f"{reference}: {error.text}. Say the shape with {setting('input_shape')}") from error


def _example(exported: ExportedProgram, reference: str) -> dict[str, NDArray[Any]]:
    """Zeros for each input, by name.

    Raises InputError for open dimensions, for inputs that are not tensors, and for floats other than float32: weights
    are quantized, and programs run, in float32.
    """
    import torch

    inputs = set(exported.graph_signature.user_inputs)
    values = {
        node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in inputs
    }
    example = {}
    for name, value in values.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{reference}: the input {name} is {value!r}, not a tensor; export it without this input")
        shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        if not all(isinstance(length, int) for length in shape):
            raise InputError(f"{reference}: input shape {shape} has open dimensions; export it with a fixed shape")
        if (value.dtype.is_floating_point and value.dtype != torch.float32) or value.dtype.is_complex:
            raise InputError(f"{reference}: the input {name} is of {dtype}; export it in float32")
        example[name] = np.zeros(shape, dtype)
    if not example:
        raise InputError(f"{reference}: the program has no inputs")
    if len(example) == 1 and all(value.dtype == np.float32 for value in example.values()):
        return dict(zip([IMAGE], example.values(), strict=True))
    return example
