"""TorchScript archives (torch.jit.save): the way in for networks whose source is gone.

An archive holds a program, and PyTorch's own security notes count loading one among running code. So it is
read only with trust. It becomes an ExportedProgram, which all converters share: traced again from TorchScript, they
take fewer networks (Core ML 14 of 21 vision classifiers, against all 21).
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mobconv.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


def load(path: Path, content: bytes, trusted: bool) -> torch.nn.Module:
    """The module in an archive, in eval mode. Raises InputError without trust, and for what torch cannot load."""
    if not trusted:
        raise InputError(
            f"{path} is a TorchScript archive: it holds a program, and loading it can run code, so it was not loaded. "
            "Save model.state_dict() in its place, or the program with torch.export.save. If you trust whoever made "
            "the file, --trust-pickle loads it, and with it whatever it does to your machine."
        )
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself: this is for old files
            module: torch.nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
        return module.float().eval()
    except Exception as error:  # torch raises what its parser raises
        raise InputError(f"{path}: torch.jit.load refuses this archive: {_last_line(error)}") from error


def export(module: torch.nn.Module, example: torch.Tensor, path: Path) -> ExportedProgram:
    """The module as an exported program for inputs like `example`, parameters by their names in the archive.

    Raises InputError for a network that torch's converter does not take.
    """
    try:
        from torch._export.converter import TS2EPConverter
    except ImportError as error:
        raise InputError(f"{path}: this PyTorch cannot convert TorchScript; 2.8 to 2.13 can") from error
    logger = logging.getLogger("torch._export")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of its own use of the batch size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: ExportedProgram = TS2EPConverter(module, (example,), {}).convert()  # type: ignore[arg-type]
    except Exception as error:  # one type for each of its passes
        raise InputError(
            f"{path}: this TorchScript network cannot be converted to a program of torch.export "
            f"({_last_line(error)}). If you have its source, give the weights as a state dict, and --model "
            "package.module:factory"
        ) from error
    finally:
        logger.setLevel(level)
    if any(
        "batch_norm" in str(node.target) and any(arg is True for arg in node.args[5:6]) for node in found.graph.nodes
    ):
        raise InputError(
            f"{path}: this network was traced in training mode, where batch norm takes mean and variance from each "
            "batch; call model.eval() before torch.jit.trace"
        )
    return found


def _last_line(error: BaseException) -> str:
    """TorchScript's errors begin with a trace of its own; the last line says what is wrong."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
