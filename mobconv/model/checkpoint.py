"""Every kind of file that a trained model comes in: safetensors, a state dict, an exported program, TorchScript.

A checkpoint is data, not a program. Pickles are read with ``weights_only=True``; a `.pt2` archive is let
through only as far as it is data (see pt2_archive.py); a file's own metadata may name factories of mobconv.zoo only,
since importing and calling any name that a file brings along would run code of its choice.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common import file_kind
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError, UsageError
from mobconv.model import factory
from mobconv.model.sources import pt2_archive, torchscript

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from mobconv.model.trace import Program

_OUR_FACTORIES = "mobconv.zoo."
_COLOURS = (1, 3, 4)  # channels of images
_NO_SHAPE = "say the input's shape, for one image, as in --input-shape 1,3,224,224 (batch, channels, height, width)"


@dataclass
class Options:
    """What the user says of a checkpoint; wins over what the file says of itself.

    here: the folder that the factory is looked for in first; None for the current one
    """

    factory: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    preprocessing: Preprocessing | None = None
    trust_pickle: bool = False
    here: Path | None = None


@dataclass
class Checkpoint:
    """A trained network, ready to trace.

    module         in eval mode, float32; as loaded, nothing folded: the float baseline
    example        named example inputs (zeros), batch 1
    preprocessing  None where neither the file nor the user says
    labels         class names, empty where unknown
    notes          what was recognised while loading, to be told
    """

    path: Path
    sha256: str
    module: torch.nn.Module
    example: dict[str, NDArray[Any]]
    preprocessing: Preprocessing | None
    labels: tuple[str, ...]
    notes: list[str]
    exported: ExportedProgram | None = None

    def trace(self) -> Program:
        """The traced, folded program. Raises InputError when the module cannot be traced."""
        from mobconv.model import trace

        if self.exported is not None:
            return trace.from_exported(self.exported, self.example)
        try:
            return trace.trace(self.module, self.example)
        except InputError as error:
            hint = _hint(next(iter(self.example.values())).shape)
            raise InputError(f"{error}\n{hint}".rstrip()) from error

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The unfolded module's output on (N, C, H, W): the float baseline."""
        import torch
        from torch.utils._pytree import tree_leaves

        try:
            with torch.inference_mode():
                found = self.module(torch.from_numpy(images))
        except RuntimeError as error:
            hint = _hint(next(iter(self.example.values())).shape)
            raise InputError(
                f"{self.path}: the network does not run on images of shape {images.shape}: {_first_line(error)}"
                f"{'. ' * bool(hint)}{hint}"
            ) from error
        return np.asarray(tree_leaves(found)[0].numpy(), np.float32)


def load(path: Path, options: Options | None = None) -> Checkpoint:
    """Read a checkpoint of any kind, told apart by content.

    Raises InputError for a file that is missing, empty, truncated, no checkpoint, of another
    architecture, or holds NaN; UsageError when something must be said by an option.
    """
    options = options or Options()
    if path.is_dir():
        raise InputError(f"{path} is a folder; a checkpoint is one file (.safetensors, .pt, .pth or .pt2)")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not content:
        raise InputError(f"{path} is empty")
    file_kind.refuse(path, "checkpoint", content)
    digest = hashlib.sha256(content).hexdigest()
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path, content)
        return _from_state(path, digest, state, metadata, [], options)
    kind = kind_of(path, content)
    if kind == "program":
        return _from_program(path, content, digest, options)
    if kind == "torchscript":
        return _from_torchscript(path, content, digest, options)
    found = _unpickle(path, options.trust_pickle)
    import torch

    if isinstance(found, torch.nn.Module):
        return _finish(path, digest, found, {}, ["the file held the whole module"], options)
    state, notes = factory.state_of(found, path)
    return _from_state(path, digest, state, {}, notes, options)


def _read_safetensors(path: Path, content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        state = parse(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: damaged or no safetensors file: {error}") from error
    text = header.get("__metadata__", {}).get("mobconv", "{}")
    try:
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{path}: its `mobconv` metadata is not JSON: {error}") from error
    return state, metadata


def kind_of(path: Path, content: bytes) -> str:
    """'program', 'torchscript' or 'pickle'. Raises InputError for a zip that is none of these."""
    if not content.startswith(b"PK"):
        return "pickle"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: truncated or damaged ({error}); copy or download it again") from error
    if "archive_format" in names or "models/model.json" in names:
        return "program"
    if "constants.pkl" in names:
        return "torchscript"
    if "data.pkl" in names:
        return "pickle"
    raise InputError(f"{path} is a zip file, but no checkpoint: it has no data.pkl, as torch.save writes")


def _unpickle(path: Path, trust: bool) -> object:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "GLOBAL" not in str(error):
            raise InputError(f"{path}: truncated, or no checkpoint that torch.load reads") from error
        if not trust:
            wanted = _refused_global(str(error))
            raise InputError(
                f"{path}: this pickle wants to run code ({wanted}), so it was not loaded. Save "
                "model.state_dict() in its place. If you trust whoever made the file, --trust-pickle loads it, "
                "and with it whatever it does to your machine."
            ) from error
    except Exception as error:  # the unpickler raises whatever damaged bytes lead to, struct.error for one
        raise InputError(f"{path}: truncated, or no checkpoint that torch.load reads: {_first_line(error)}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a trusted pickle may raise anything
        raise InputError(f"{path}: cannot be unpickled: {_first_line(error)}") from error


def _refused_global(message: str) -> str:
    """The class or function that weights-only loading refused, from torch's message."""
    for marker in ("Unsupported global: GLOBAL ", "GLOBAL "):
        if marker in message:
            return message.partition(marker)[2].split()[0].strip("`'\".,")
    return "an object"


def _first_line(error: BaseException) -> str:
    """The first sentence of an error: PyTorch goes on with advice that is not about this file."""
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def _from_state(
    path: Path,
    digest: str,
    state: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    notes: list[str],
    options: Options,
) -> Checkpoint:
    named = options.factory or metadata.get("factory")
    if named is None:
        raise UsageError(f"{path} holds weights only: name what builds the network, --model package.module:factory")
    named = str(named)
    if options.factory is None and not named.startswith(_OUR_FACTORIES):
        raise UsageError(
            f"{path} says that it is built by {named!r}. A file may not choose what is imported: if you know "
            f"this factory, say --model {named}"
        )
    arguments = dict(options.arguments)
    if not arguments and options.factory in (None, metadata.get("factory")):
        arguments = metadata.get("arguments", {})
        if not isinstance(arguments, dict):
            raise InputError(f"{path}: `arguments` in its metadata is {arguments!r}, not an object; say --model-arg")
    module = factory.build(named, arguments, options.here)
    factory.fill(module, state, path, named)
    return _finish(path, digest, module, metadata, notes, options)


def _finish(
    path: Path,
    digest: str,
    module: torch.nn.Module,
    metadata: Mapping[str, Any],
    notes: list[str],
    options: Options,
) -> Checkpoint:
    factory.check_finite(module, path)
    factory.settle(module)
    shape = options.input_shape or metadata.get("input_shape")
    if shape is None:
        raise UsageError(f"{path} does not say what it takes: {_NO_SHAPE}")
    try:
        lengths = [int(length) for length in shape]
        if len(lengths) < 2 or min(lengths) < 1:
            raise ValueError("too short")
        example = np.zeros(lengths, np.float32)
    except (TypeError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: {shape!r} is no input shape; {_NO_SHAPE}") from error
    preprocessing = options.preprocessing
    if preprocessing is None and "preprocessing" in metadata:
        try:
            preprocessing = Preprocessing.from_json(metadata["preprocessing"])
        except InputError as error:
            raise InputError(f"{path}: {error}; say --preprocessing") from error
    preprocessing = _fitting(preprocessing, example.shape, path)
    held = metadata.get("labels", ())
    labels = tuple(str(label) for label in held) if isinstance(held, list) else ()
    return Checkpoint(path, digest, module.float().eval(), {"image": example}, preprocessing, labels, notes)


def _from_torchscript(path: Path, content: bytes, digest: str, options: Options) -> Checkpoint:
    import torch

    module = torchscript.load(path, content, options.trust_pickle)
    notes = ["a TorchScript archive"] + (["it holds its own program: --model is not used"] if options.factory else [])
    found = _finish(path, digest, module, {}, notes, options)
    found.exported = torchscript.export(module, torch.from_numpy(found.example["image"]), path)
    return found


def _from_program(path: Path, content: bytes, digest: str, options: Options) -> Checkpoint:
    """A `.pt2` archive of torch.export.save."""
    exported, module = pt2_archive.load(path, content, options.trust_pickle)
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    wanted = list(exported.graph_signature.user_inputs)
    shapes = [tuple(node.meta["val"].shape) for node in placeholders if node.name in wanted]
    if len(shapes) != 1:
        raise InputError(f"{path}: the program takes {len(shapes)} inputs; mobconv works on networks with one")
    if not all(isinstance(length, int) for length in shapes[0]):
        raise InputError(f"{path}: input shape {shapes[0]} has open dimensions; export it with a fixed shape")
    kinds = {str(node.meta["val"].dtype) for node in placeholders if node.name in wanted}
    if kinds != {"torch.float32"}:
        raise InputError(f"{path}: the program takes {', '.join(kinds)}; export it in float32")
    if options.input_shape not in (None, shapes[0]):
        raise UsageError(f"{path} was exported for inputs {shapes[0]}, not {options.input_shape}")
    factory.check_finite(module, path)
    example: dict[str, NDArray[Any]] = {"image": np.zeros(shapes[0], np.float32)}
    notes = ["the file holds its own program: --model is not used"] if options.factory else []
    preprocessing = _fitting(options.preprocessing, shapes[0], path)
    return Checkpoint(path, digest, module, example, preprocessing, (), notes, exported)


def _fitting(preprocessing: Preprocessing | None, shape: tuple[int, ...], path: Path) -> Preprocessing | None:
    """With a mean and a std for each channel of an input of images; of any other input as it is.

    Raises InputError where there are several, and not as many as channels.
    """
    if preprocessing is None or len(shape) != 4:
        return preprocessing
    last = preprocessing.layout == "nhwc"
    if _channels_last(shape) and not last:
        return preprocessing
    try:
        return preprocessing.for_channels(shape[3 if last else 1])
    except InputError as error:
        raise InputError(f"{path} takes {_lengths(shape)}: {error}") from error


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a shape looks like (N, H, W, C)."""
    return len(shape) == 4 and shape[3] in _COLOURS and shape[1] not in _COLOURS


def _lengths(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def _hint(shape: tuple[int, ...]) -> str:
    """What else a shape may have been meant as, for networks that do not run on it; or ''."""
    meant: tuple[int, ...] = ()
    if _channels_last(shape):
        meant = shape[0], shape[3], *shape[1:3]
    elif len(shape) == 3 and shape[0] in _COLOURS:
        meant = 1, *shape
    elif len(shape) == 3 and shape[2] in _COLOURS:
        meant = 1, shape[2], *shape[:2]
    return f"The shape of images is batch, channels, height, width: did you mean {_lengths(meant)}?" if meant else ""
