"""TorchScript archives (torch.jit.save): the way in for networks whose source is gone.

An archive contains a program, and PyTorch's own security notes count loading one among running code, so it is loaded
only where the user trusts it. It becomes an ExportedProgram, which all converters share: converters of TorchScript
itself support fewer networks (Core ML 14 of 21 vision classifiers, against all 21).
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.common import file_kind
from mobconv.errors import InputError, setting
from mobconv.model import factory
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, complete, fingerprint_of_file

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

KIND = "a TorchScript archive"


def accepts(reference: str) -> bool:
    """Whether a file is a zip with the constants of a TorchScript program in it."""
    members = file_kind.zip_members(Path(reference))
    return "constants.pkl" in members and "archive_format" not in members


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash the file, which contains its program."""
    return fingerprint_of_file(reference)


def load(reference: str, options: Options) -> Checkpoint:
    """Load the module and convert it to an exported program. See checkpoint.Source for errors."""
    import torch

    content = file_kind.read(Path(reference), "checkpoint")
    module = _module(content, options.trust_pickle, reference)
    if len(inputs := inputs_of(module)) > 1:
        raise InputError(
            f"{reference}: this TorchScript network takes {len(inputs)} inputs, {', '.join(inputs)}, and an archive "
            "does not have their shapes and types. In Python, `mobconv.export(torch.jit.load(...), inputs)` takes the "
            "network with a tuple of its inputs"
        )
    notes = [KIND, *([factory.NOT_CALLED] if options.factory else [])]
    checkpoint = complete(reference, hashlib.sha256(content).hexdigest(), module, options, notes=notes)
    tensors = tuple(torch.from_numpy(value) for value in checkpoint.example.values())
    checkpoint.exported = convert(module, tensors, reference)
    return checkpoint


def _module(content: bytes, trusted: bool, reference: str) -> torch.nn.Module:
    """The module in an archive, in eval mode. Raises InputError without trust, and for archives torch cannot load."""
    if not trusted:
        raise InputError(
            f"{reference} is a TorchScript archive: it contains a program, and loading it can run code, so it was not "
            "loaded. Save model.state_dict() in its place, or the program with torch.export.save. If you trust its "
            f"author, {setting('trust_pickle', True)} loads it, and runs that code with your rights."
        )
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself: this is for old files
            module: torch.nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
        return module.float().eval()
    except Exception as error:  # torch raises what its parser raises
        raise InputError(f"{reference}: torch.jit.load refuses this archive: {_last_line(error)}") from error


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """Copy a TorchScript module by way of an archive: parameters of a deep copy are not leaves."""
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(module, buffer)
        buffer.seek(0)
        copy: torch.nn.Module = torch.jit.load(buffer, map_location="cpu")  # type: ignore[no-untyped-call]
    return copy


def inputs_of(module: torch.nn.Module) -> list[str]:
    """Names of the inputs that a TorchScript module needs, in order: those without a default."""
    forward: Any = module.forward
    arguments = forward.schema.arguments[1:]  # the first is the module
    return [each.name for each in arguments if not each.has_default_value()]


def convert(module: torch.nn.Module, example: tuple[torch.Tensor, ...], reference: str) -> ExportedProgram:
    """Convert the module to an exported program for inputs like `example`; parameters keep their names.

    Raises InputError for a network that torch's converter does not support.
    """
    try:
        from torch._export.converter import TS2EPConverter
    except ImportError as error:
        raise InputError(f"{reference}: this PyTorch cannot convert TorchScript; 2.8 to 2.13 can") from error
    logger = logging.getLogger("torch._export")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it logs how it treats the batch size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: ExportedProgram = TS2EPConverter(module, example, {}).convert()  # type: ignore[arg-type]
    except Exception as error:  # each of its passes raises a type of its own
        raise InputError(
            f"{reference}: this TorchScript network cannot be converted to a program of torch.export "
            f"({_last_line(error)}). If you have its source, give the weights as a state dict, and "
            f"{setting('model', 'package.module:factory')}"
        ) from error
    finally:
        logger.setLevel(level)
    if any(
        "batch_norm" in str(node.target) and any(arg is True for arg in node.args[5:6]) for node in program.graph.nodes
    ):
        raise InputError(
            f"{reference}: this network was traced in training mode, where batch norm takes mean and variance from "
            "each batch; call model.eval() before torch.jit.trace"
        )
    return program


def _last_line(error: BaseException) -> str:
    """The last line of an error: TorchScript's begin with a trace, and end with what is wrong."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
