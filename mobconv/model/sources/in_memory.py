"""A module in memory as a checkpoint: what `mobconv.export(module, example)` starts from.

It is not in SOURCES: its reference is an object, not text.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import UsageError, did_you_mean, setting
from mobconv.model import example as examples
from mobconv.model import factory
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.program import IMAGE
from mobconv.model.sources import torchscript

if TYPE_CHECKING:
    import torch

    Input: TypeAlias = torch.Tensor | NDArray[Any]

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def load(
    module: torch.nn.Module,
    example: Input | Sequence[Input] | Mapping[str, Input],
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
    name: str | None = None,
) -> Checkpoint:
    """Make a checkpoint of a module, which stays as it is: a copy is put into eval mode and float32.

    module: also of TorchScript, as torch.jit.load gives it. example: one input (a tensor or an array), several in a
    tuple or list by position, or a mapping by the names of `forward`'s arguments. Floats become float32; integers and
    booleans keep their type. name: for display; None for the module's class. Raises UsageError for an example that does
    not fit `forward`, InputError for weights with NaN.
    """
    import torch
    from torch.utils._pytree import tree_structure

    name = name or type(module).__name__
    scripted = isinstance(module, torch.jit.ScriptModule)
    module = (torchscript.copied(module) if scripted else factory.copied(module)).float().eval()
    factory.check_finite(module, name)
    digest = _sha256(module)
    factory.settle(module)
    args, kwargs = _arguments(module, example, name)
    inputs = {key: _array(value, key, name) for key, value in [*args, *kwargs]}
    alone = next(iter(inputs.values())) if len(inputs) == 1 else None
    if alone is not None:
        preprocessing = examples.fitted(preprocessing, alone.shape, name)
        if alone.dtype == np.float32 and not isinstance(example, Mapping):
            inputs = {IMAGE: alone}
    structure = tree_structure(((0,) * len(args), {key: 0 for key, _ in kwargs})) if kwargs else None
    checkpoint = Checkpoint(
        name, name, digest, module, inputs, preprocessing, tuple(map(str, labels)), [], structure=structure
    )
    if scripted:
        # an LSTM of TorchScript whose state has another batch than it was traced with ends the process
        checkpoint.fixed_batch = len(inputs) > 1
        checkpoint.exported = torchscript.convert(module, tuple(map(torch.from_numpy, inputs.values())), name)
    return checkpoint


def _arguments(
    module: torch.nn.Module, example: Any, name: str
) -> tuple[list[tuple[str, Input]], list[tuple[str, Input]]]:
    """The example as arguments of `forward`, by position and by keyword, each with its name, in `forward`'s order."""
    import torch

    parameters: Mapping[str, inspect.Parameter]
    if isinstance(module, torch.jit.ScriptModule):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = {key: inspect.Parameter(key, kind) for key in torchscript.inputs_of(module)}
    else:
        parameters = inspect.signature(module.forward).parameters
    if example is None:
        raise UsageError(
            f"{name}: a module in memory needs {setting('example')}, of its inputs with a batch of 1; forward has "
            f"{', '.join(parameters)}"
        )
    positional = [key for key, parameter in parameters.items() if parameter.kind in _BY_POSITION]
    if not isinstance(example, Mapping):
        values = list(example) if isinstance(example, list | tuple) else [example]
        if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values()):
            positional += [f"input_{position}" for position in range(len(positional), len(values))]
        if not 1 <= len(values) <= len(positional):
            raise UsageError(f"{name}: the example has {len(values)} inputs; forward has {', '.join(positional)}")
        return list(zip(positional, values, strict=False)), []
    unknown = [key for key in example if key not in parameters]
    if unknown and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        near = did_you_mean(unknown[0], parameters)
        raise UsageError(f"{name}: forward has no argument {unknown[0]!r}{near}; it has {', '.join(parameters)}")
    if not example:
        raise UsageError(f"{name}: the example has no inputs; forward has {', '.join(parameters)}")
    # an argument left out ends those by position
    first = list(takewhile(lambda key: key in example, positional))
    others = [key for key in [*parameters, *unknown] if key in example and key not in first]
    return [(key, example[key]) for key in first], [(key, example[key]) for key in others]


def _array(value: Any, key: str, name: str) -> NDArray[Any]:
    """An input as an array; floats as float32. Raises UsageError for one that is neither numbers nor booleans."""
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise UsageError(f"{name}: the example's input {key} is {type(value).__name__}, not a tensor or an array")
    return np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else None)


def _sha256(module: torch.nn.Module) -> str:
    """Hash the module's class and its state dict."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}\n".encode())
    for key, value in module.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
