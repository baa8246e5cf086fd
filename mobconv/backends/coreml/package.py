"""The .mlpackage folder: Manifest.json, model.mlmodel, weights/weight.bin.

    x.mlpackage/
        Manifest.json                               items by identifier, the root one is the model
        Data/com.apple.CoreML/model.mlmodel         the Model message (the program)
        Data/com.apple.CoreML/weights/weight.bin    what the program names @model_path/weights/weight.bin

Identifiers are hashes of the content, so that equal models are equal folders, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.apple.vendor import proto
from mobconv.backends.coreml.weights_file import Dtype, read_blob
from mobconv.errors import InputError, OutputError

_MODEL = "com.apple.CoreML/model.mlmodel"
_WEIGHTS = "com.apple.CoreML/weights"
PREFIX = "@model_path/"


@dataclass
class Package:
    """A package from disk: its Model message, the path of that, and constants on demand."""

    path: Path
    spec: Any
    model: Path
    _files: dict[str, bytes] = field(default_factory=dict)

    def read_blob(self, name: str, offset: int, dtype: Dtype, count: int) -> NDArray[np.generic]:
        """(count,) values at `offset` of file `name`. Raises InputError where they are not there."""
        if name not in self._files:
            if not name.startswith(PREFIX):
                raise InputError(f"{self.path}: the program has constants in {name!r}, outside of the package")
            self._files[name] = read_bytes(self.path, inside(self.path, self.model.parent, name.removeprefix(PREFIX)))
        try:
            return read_blob(self._files[name], offset, dtype, count)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    def forget_files(self) -> None:
        """Free the bytes of weight.bin."""
        self._files.clear()


def inside(package: Path, base: Path, name: str) -> Path:
    """`base / name`, where that is an ordinary path below `base` without symbolic links.

    Raises InputError otherwise: a package must not make mobconv read files outside of it.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        raise InputError(f"{package}: the path {name!r} leads out of the package")
    path = base
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise InputError(f"{package}: {name!r} is a symbolic link, which a package must not contain")
    return path


def read(path: Path) -> Package:
    """Open a package. Raises InputError naming the part that is missing or damaged."""
    if not path.exists():
        raise InputError(f"{path}: no such .mlpackage folder")
    if not path.is_dir():
        raise InputError(f"{path}: an .mlpackage is a folder, and this is a file")
    manifest_path = inside(path, path, "Manifest.json")
    if not manifest_path.is_file():
        raise InputError(f"{path}: it has no Manifest.json, so it is not an .mlpackage")
    try:
        manifest = json.loads(read_bytes(path, manifest_path))
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: Manifest.json does not name the model: {error!r}") from error
    if not isinstance(item, str):
        raise InputError(f"{path}: Manifest.json does not name the model, its path is {item!r}")
    model = inside(path, path, f"Data/{item}")
    if PurePosixPath(item).is_absolute():
        raise InputError(f"{path}: the path {item!r} leads out of the package")
    data = read_bytes(path, model)
    spec = proto().Model_pb2.Model()
    try:
        spec.ParseFromString(data)
    except Exception as error:  # DecodeError, which each implementation of protobuf has its own of
        raise InputError(f"{model}: not a Core ML model, or truncated: {error}") from error
    if not data or spec.WhichOneof("Type") is None:
        raise InputError(f"{model}: empty, or not a Core ML model")
    return Package(path, spec, model)


def serialize(spec: Any) -> bytes:
    """A message as bytes, maps in a fixed order."""
    return bytes(spec.SerializeToString(deterministic=True))


def contents(spec: Any, weights: bytes) -> dict[str, bytes]:
    """The files of a package by their path in it."""
    model = serialize(spec)
    digest = hashlib.sha256(model + weights).digest()
    root, side = (str(uuid.UUID(bytes=digest[i : i + 16], version=4)) for i in (0, 16))
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            root: _item("CoreML Model Specification", "model.mlmodel", _MODEL),
            side: _item("CoreML Model Weights", "weights", _WEIGHTS),
        },
        "rootModelIdentifier": root,
    }
    return {
        "Manifest.json": json.dumps(manifest, indent=4).encode() + b"\n",
        f"Data/{_MODEL}": model,
        f"Data/{_WEIGHTS}/weight.bin": weights,
    }


def write(path: Path, files: dict[str, bytes]) -> None:
    """Write a package whole or not at all, in place of one of that path. Raises OutputError."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        for name, data in files.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if path.is_dir() and not path.is_symlink():
            path.rename(old)
            try:
                partial.rename(path)
            except BaseException:
                old.rename(path)
                raise
        else:
            partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:  # also when interrupted
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _item(description: str, name: str, path: str) -> dict[str, str]:
    return {"author": "com.apple.CoreML", "description": description, "name": name, "path": path}


def read_bytes(package: Path, path: Path) -> bytes:
    """A file of a package. Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{package}: cannot read {path.name}: {error.strerror or error}") from error
