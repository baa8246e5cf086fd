"""Safetensors files: tensors, and metadata that may state the factory of the network and its input.

https://github.com/huggingface/safetensors, section Format: 8 bytes with the length of the header, then the header as
JSON, then the tensors. The metadata of ours has one entry, `mobconv`, JSON too: `factory`, `arguments`, `input_shape`,
`preprocessing`, `labels`. It may name factories of mobconv.zoo only: to import and call a name that a file chooses
is to run its code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.common import file_kind
from mobconv.errors import InputError, UsageError, setting
from mobconv.model import factory, state_dict
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, complete, fingerprint_of_file

if TYPE_CHECKING:
    import torch

KIND = "a safetensors file"
SETTINGS = ("key",)
_OUR_FACTORIES = "mobconv.zoo."
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def accepts(reference: str) -> bool:
    """Whether a file begins with the length of a JSON object, and that object."""
    start = file_kind.head(Path(reference))
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash the file. Its code is that of the factory."""
    return fingerprint_of_file(reference)


def load(reference: str, options: Options) -> Checkpoint:
    """Build the factory's module and fill it. See checkpoint.Source for errors."""
    content = file_kind.read(Path(reference), "checkpoint")
    state, stated = parse(content, reference)
    name, arguments = _factory(stated, options, reference)
    module = factory.build(name, arguments, options.here)
    notes = state_dict.fill(module, state, reference, name, options.key)
    return complete(reference, hashlib.sha256(content).hexdigest(), module, options, stated, notes)


def parse(content: bytes, reference: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and the metadata of ours. Raises InputError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    try:
        state = tensors_of(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{reference}: a damaged safetensors file, or another kind of file: {error}") from error
    text = header.get("__metadata__", {}).get("mobconv", "{}")
    try:
        stated = json.loads(text)
        if not isinstance(stated, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{reference}: its `mobconv` metadata is not JSON: {error}") from error
    return state, stated


def _factory(stated: dict[str, Any], options: Options, reference: str) -> tuple[str, dict[str, Any]]:
    """The factory's name and arguments: the user's, else the file's."""
    if options.factory is None and "factory" not in stated:
        raise factory.unnamed(reference)
    name = options.factory or str(stated["factory"])
    if options.factory is None and not name.startswith(_OUR_FACTORIES):
        raise UsageError(
            f"{reference} says that it is built by {name!r}. A file may not choose what is imported: if you know "
            f"this factory, say {setting('model', name)}"
        )
    arguments = options.arguments
    if not arguments and name == stated.get("factory"):
        arguments = stated.get("arguments", {})
        if not isinstance(arguments, dict):
            raise InputError(
                f"{reference}: `arguments` in its metadata is {arguments!r}, not an object; say {setting('arguments')}"
            )
    return name, dict(arguments)
