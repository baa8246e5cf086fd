"""Files of torch.save: a state dict, bare or wrapped, or a whole module.

They are pickles, which run code when they are loaded. They are read with ``weights_only=True``, which builds tensors
and containers alone; anything else, such as a whole module, is refused unless the user trusts the file.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

from mobconv.common import file_kind
from mobconv.errors import InputError, setting
from mobconv.model import factory
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, complete, fingerprint_of_file

KIND = "a file of torch.save (state dict or whole module)"


def accepts(reference: str) -> bool:
    """Whether a file is a zip with a pickle in it and no program, or a bare pickle, as older releases wrote."""
    path = Path(reference)
    members = file_kind.zip_members(path)
    if members:
        return "data.pkl" in members and "constants.pkl" not in members
    return file_kind.is_pickle(path)


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash the file. Without a factory it is a whole module, whose code only unpickling finds."""
    return fingerprint_of_file(reference, options.factory is not None)


def load(reference: str, options: Options) -> Checkpoint:
    """Fill the factory's module with the state dict, or take the whole module. See checkpoint.Source for errors."""
    import torch

    content = file_kind.read(Path(reference), "checkpoint")
    digest = hashlib.sha256(content).hexdigest()
    value = _unpickle(content, options.trust_pickle, reference)
    if isinstance(value, torch.nn.Module):
        return complete(reference, digest, value, options, notes=["the file contains the whole module"])
    state, notes = factory.state_of(value, reference)
    if options.factory is None:
        raise factory.unnamed(reference)
    module = factory.filled(options.factory, options.arguments, options.here, state, reference)
    return complete(reference, digest, module, options, notes=notes)


def _unpickle(content: bytes, trusted: bool, reference: str) -> object:
    import torch

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "GLOBAL" not in str(error):
            raise InputError(f"{reference}: truncated, or not a file that torch.load reads") from error
        if not trusted:
            raise InputError(
                f"{reference}: this pickle wants to run code ({_refused_global(str(error))}), so it was not loaded. "
                f"Save model.state_dict() in its place. If you trust its author, {setting('trust_pickle', True)} loads "
                "it, and runs that code with your rights."
            ) from error
    except Exception as error:  # the unpickler raises whatever damaged bytes lead to, struct.error for one
        raise InputError(
            f"{reference}: truncated, or not a file that torch.load reads: {factory.first_sentence(error)}"
        ) from error
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:  # a trusted pickle may raise anything
        raise InputError(f"{reference}: cannot be unpickled: {factory.first_sentence(error)}") from error


def _refused_global(message: str) -> str:
    """The class or function that weights-only loading refused, from torch's message."""
    for marker in ("Unsupported global: GLOBAL ", "GLOBAL "):
        if marker in message:
            return message.partition(marker)[2].split()[0].strip("`'\".,")
    return "an object"
