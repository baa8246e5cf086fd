"""Networks that an installed library builds by name, with its own pretrained weights or the user's file of weights."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.common import file_kind
from mobconv.errors import BackendError, InputError, setting
from mobconv.model import factory, state_dict
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, complete
from mobconv.model.sources import safetensors, torch_save

if TYPE_CHECKING:
    import torch

Build = Callable[[bool], "torch.nn.Module"]
"""Build the network, with the library's own weights or with none."""
Statements = Callable[["torch.nn.Module", bool], dict[str, Any]]
"""(module, whether its weights are the library's own) -> input_shape, preprocessing and labels, as JSON has them."""


def fingerprint(reference: str, options: Options, *packages: str) -> Fingerprint:
    """Hash the name and the user's weights; releases of the packages decide the rest. Raises InputError."""
    digest = hashlib.sha256(f"{reference}\0".encode())
    if options.weights is not None:
        digest.update(file_kind.read(options.weights, "checkpoint"))
    return Fingerprint(digest.hexdigest(), packages=packages)


def load(reference: str, options: Options, package: str, build: Build, statements: Statements) -> Checkpoint:
    """Build a network, fill it, and take what the library says of its inputs and classes.

    package: that must be installed. Raises BackendError where it is not; InputError for a name that it does not know,
    for weights that it does not have, would fetch where there is no network, or would draw at random, and for a file
    that does not fit.
    """
    if find_spec(package) is None:
        raise BackendError(f"{reference} needs {package}, which is not installed: pip install {package}")
    ready = options.weights is None
    notes = [factory.NOT_CALLED] if options.factory else []
    module = _built(reference, package, build, ready)
    if options.weights is None:
        _check_not_drawn(module, _built(reference, package, build, ready), reference)
        notes.append(f"weights: those that {package} has for this name")
    else:
        content = _content(options.weights, options)
        notes += state_dict.fill(module, content, str(options.weights), reference, options.key)
    try:
        stated = statements(module, ready)
    except Exception as error:  # of the library, or of a release that says it in another way
        notes.append(f"what {package} says of preprocessing and classes was not taken: {factory.first_sentence(error)}")
        stated = {}
    if options.input_shape is not None and "preprocessing" in stated:
        size = stated["preprocessing"].get("size")
        if size is not None and tuple(size) != tuple(options.input_shape[2:]):
            notes.append(f"preprocessing of {size[0]}x{size[1]} not taken: you state another shape")
            del stated["preprocessing"]
    digest = fingerprint(reference, options).sha256
    return complete(reference, digest, module, options, stated, notes)


def _built(reference: str, package: str, build: Build, ready: bool) -> torch.nn.Module:
    import torch

    try:
        module = build(ready)
    except Exception as error:  # the library, the hub and the network raise dozens of types
        advice = f"; your own weights: {setting('weights', 'FILE')}" if ready else ""
        raise InputError(f"{reference}: {package} does not give it: {factory.first_sentence(error)}{advice}") from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{reference}: {package} gives {type(module).__name__}, not a torch.nn.Module")
    return module


def _check_not_drawn(module: torch.nn.Module, again: torch.nn.Module, reference: str) -> None:
    """Raise InputError for tensors in which two builds differ: those are not trained."""
    import torch

    other = again.state_dict()
    drawn = [key for key, value in module.state_dict().items() if not torch.equal(value, other[key])]
    if drawn:
        raise InputError(
            f"{reference}: {len(drawn)} tensors are drawn at random, not trained ({drawn[0]}): the library has no "
            f"weights for this network with these arguments; name a file, {setting('weights', 'FILE')}"
        )


def _content(path: Path, options: Options) -> object:
    """The content of a file of weights. Raises InputError for one of another kind."""
    content = file_kind.read(path, "checkpoint")
    if safetensors.accepts(str(path)):
        return safetensors.parse(content, str(path))[0]
    if torch_save.accepts(str(path)):
        return torch_save.unpickle(content, str(path), options)
    file_kind.refuse(path, "checkpoint")
    file_kind.refuse_broken_zip(path)
    raise InputError(f"{path}: neither {safetensors.KIND} nor {torch_save.KIND}")


def unique(labels: Sequence[str]) -> list[str]:
    """Names of classes, numbered where several have one (ImageNet has two cranes): files need a name for each."""
    counts = Counter(labels)
    return [f"{label} ({number})" if counts[label] > 1 else label for number, label in enumerate(labels)]
