"""Arrays from an .npz or .npy file: inputs of any network by their names, and the targets of a task.

| array in the .npz                                | what it is                                                     |
|--------------------------------------------------|----------------------------------------------------------------|
| the name of an input of the network              | that input, (N, ...); a network of one input takes any name    |
| `label(s)`, `target(s)`, `mask(s)`, `y`, `target_*` | a target of the task, (N, ...)                              |
| `group(s)`                                       | equal for samples that depend on each other, (N,)              |
| `names`                                          | names of the classes, texts                                    |

An .npy file is the only input of a network, without targets. Nothing is unpickled, and no array is allocated before its
declared size is checked against the file.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common import file_kind
from mobconv.data.labelled import Images
from mobconv.errors import InputError, did_you_mean

SUFFIXES = (".npz", ".npy")
_TARGETS = ("label", "labels", "target", "targets", "mask", "masks", "y")
_GROUPS = ("group", "groups")
_NAMES = "names"
_MOST = 256  # arrays in a file
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN = (OSError, ValueError, TypeError, EOFError, KeyError, OverflowError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Arrays:
    """Samples of a network that takes arrays.

    source  as the user named it
    inputs  (N, ...) by the names of the network's inputs
    targets (N, ...) by name
    names   of the classes, empty where the data has none
    sha256  over inputs and targets
    groups  (N,) int64, equal for samples that depend on each other; None where the data has none
    float_outputs  of the float network, (N, ...) by name, for tasks that compare with them; None where there are none
    split, skipped, notes  as in labelled.Images
    """

    source: str
    inputs: Mapping[str, NDArray[Any]]
    targets: Mapping[str, NDArray[Any]]
    names: tuple[str, ...]
    sha256: str
    groups: NDArray[np.int64] | None = None
    float_outputs: Mapping[str, NDArray[Any]] | None = field(default=None)
    split: str = ""
    skipped: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def kind(self) -> str:
        """What the samples are."""
        return "arrays"

    @property
    def fed(self) -> Mapping[str, NDArray[Any]]:
        """What is fed to a network."""
        return self.inputs

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of each sample, (N,), where the only target is one whole number for each; else empty."""
        if len(self.targets) == 1:
            (target,) = self.targets.values()
            if target.ndim == 1 and target.dtype.kind in "iu":
                return target.astype(np.int64)
        return np.zeros(0, np.int64)


Samples = Images | Arrays


def accepts(source: str) -> bool:
    """Whether a reference to data is an .npz or .npy file, by its suffix."""
    return Path(source).suffix.lower() in SUFFIXES


def load(source: str, inputs: Sequence[str], limit: int | None = None) -> Arrays:
    """Read a file of arrays for a network with inputs of these names.

    limit: take the first so many samples. Raises InputError for a file that is missing, damaged, larger than this
    machine's memory or with objects in it, for an array that is neither an input nor a target, for an input without
    one, and for arrays of different lengths.
    """
    content = _read(Path(source), limit)
    names = content.pop(_NAMES, None) if _NAMES not in inputs else None
    groups = next((content.pop(name) for name in _GROUPS if name in content and name not in inputs), None)
    fed = {name: content.pop(name) for name in inputs if name in content}
    targets = {name: content.pop(name) for name in [*content] if name in _TARGETS or name.startswith("target_")}
    if not fed and len(inputs) == 1 and len(content) == 1:
        fed = {inputs[0]: content.popitem()[1]}
    if missing := [name for name in inputs if name not in fed]:
        there = f"it has {', '.join([*fed, *targets, *content])}{did_you_mean(missing[0], content)}"
        raise InputError(f"{source}: no array for the input {missing[0]!r} of the network; {there}")
    if content:
        raise InputError(
            f"{source}: array {next(iter(content))!r} is neither an input of the network ({', '.join(inputs)}) nor a "
            f"target (label, target, mask, y or target_...); leave it out or rename it"
        )
    _check(source, {**fed, **targets, **({} if groups is None else {"groups": groups})})
    digest = hashlib.sha256()
    for name, value in sorted({**fed, **targets}.items()):
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode() + np.ascontiguousarray(value).tobytes())
    return Arrays(
        source,
        fed,
        targets,
        () if names is None else tuple(str(name) for name in names.ravel()),
        digest.hexdigest(),
        None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64),
    )


def _check(source: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise InputError for arrays without samples, of different lengths, of texts, or with NaN in them."""
    first, count = next((name, len(value) if value.ndim else 0) for name, value in arrays.items())
    for name, value in arrays.items():
        if value.ndim == 0 or len(value) != count:
            raise InputError(
                f"{source}: array {name!r} has shape {value.shape}, and {first!r} has {count} samples: the first "
                "length of each is the number of samples"
            )
        if value.dtype.kind not in "biuf":
            raise InputError(f"{source}: array {name!r} is of {value.dtype}; numbers are needed")
        if value.dtype.kind == "f" and np.isnan(value).any():
            position = int(np.isnan(value.reshape(count, -1)).any(axis=1).argmax())
            raise InputError(f"{source}: array {name!r} has NaN in sample {position}")
    if not count:
        raise InputError(f"{source}: no samples in it")


def _read(path: Path, limit: int | None) -> dict[str, NDArray[Any]]:
    """All arrays by name, the first `limit` samples of each; of an .npy file under its name 'array'."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    file_kind.refuse(path, f"{path.suffix} file")
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as stream:
                return {"array": _array(stream, path.stat().st_size, limit)}
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(members) > _MOST or len({*names}) != len(names):
                raise ValueError(f"{len(members)} arrays, {len({*names})} names")
            arrays, most = {}, _memory()
            for name, member in zip(names, members, strict=True):
                with archive.open(member) as part:
                    arrays[name] = _array(part, member.file_size, limit, most)
                most -= arrays[name].nbytes
            return arrays
    except _BROKEN as error:
        text = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as arrays of numpy: {text}") from error


def _array(stream: IO[bytes], size: int, limit: int | None, most: int | None = None) -> NDArray[Any]:
    """One array in numpy's format from a stream of `size` bytes. Raises ValueError, EOFError."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"format {version} of numpy's files")
    shape, columns_first, dtype = _HEADERS[version](stream)
    if dtype.hasobject or dtype.kind not in "biufU" or not dtype.itemsize:
        raise ValueError(f"an array of {dtype}: only numbers and texts are read, and nothing is unpickled")
    count = math.prod(shape)
    size -= stream.tell()
    if any(length < 0 for length in shape) or count * dtype.itemsize > size:
        raise ValueError(f"an array of shape {shape} and {dtype} is declared, and there are {size} bytes for it")
    whole = shape
    if limit is not None and shape and not columns_first:
        shape = (min(limit, shape[0]), *shape[1:])
        count = math.prod(shape)
    wanted = count * dtype.itemsize
    if wanted > (_memory() if most is None else most):
        raise ValueError(f"{wanted / 1e9:.1f} GB are more than this machine's memory; take fewer samples")
    content = stream.read(wanted)
    if len(content) != wanted:
        raise EOFError(f"an array of shape {whole} ends after {len(content)} bytes")
    flat = np.frombuffer(content, dtype)
    array = flat.reshape(shape[::-1]).T if columns_first else flat.reshape(shape)
    array = array if limit is None or not array.ndim else array[:limit]
    if dtype.kind != "U":
        array = np.array(array, dtype.newbyteorder("="), order="C")
    return array


def _memory() -> int:
    """Bytes that arrays of one file may take: half of this machine's memory."""
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # not on this system
        return 8 << 30
