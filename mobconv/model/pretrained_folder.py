"""Files of a folder that `save_pretrained` wrote, or of a model's snapshot from the Hugging Face hub: where, and which.

Nothing here runs what a folder contains. Files that lead elsewhere are refused: to other folders, adapters, quantizers
and kernels of the hub; so is a configuration of a network far larger than the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobconv.errors import BackendError, InputError
from mobconv.model import factory

HUB = "hf:"
CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_PICKLES = "pytorch_model*.bin"
_READ = (CONFIG, *PROCESSORS, "*.index.json", "*.safetensors", _PICKLES)


def check_installed(reference: str) -> None:
    """Raise BackendError where the extra `transformers` is not installed."""
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        raise BackendError(
            f'{reference} needs transformers, which is not installed: pip install "mobconv[transformers]"'
        )


def folder_of(reference: str) -> Path:
    """The folder of a reference; of a name on the hub, its snapshot in the cache. Raises InputError."""
    if not reference.startswith(HUB):
        return Path(reference)
    check_installed(reference)
    from huggingface_hub import snapshot_download

    name, _, revision = reference.removeprefix(HUB).partition("@")
    folder = None
    # weights in safetensors; pickles only where there are none
    for patterns in (["*.json", "*.safetensors"], ["*.json", _PICKLES]):
        try:
            folder = Path(
                snapshot_download(name, revision=revision or None, allow_patterns=patterns, ignore_patterns=["*/*"])
            )
        except Exception as error:  # of the network, of the hub, of an unknown name
            raise InputError(
                f"{reference}: not in the cache, and cannot be downloaded from the Hugging Face hub "
                f"({factory.first_sentence(error)}). Where there is a network: `hf download {name} --local-dir DIR`, "
                "and give the folder"
            ) from error
        if any(folder.glob("*.safetensors")):
            break
    if folder is None or not (folder / CONFIG).is_file():
        raise InputError(f"{reference} has no {CONFIG}: not a model of transformers")
    return folder


@contextmanager
def offline() -> Iterator[None]:
    """Without the hub, whatever a configuration names: weights of a backbone, for one."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def sha256(folder: Path) -> str:
    """Hash the names and contents of the files that are read."""
    digest = hashlib.sha256()
    paths = {path.name: path for pattern in _READ for path in folder.glob(pattern) if path.is_file()}
    for name in sorted(paths):
        with paths[name].open("rb") as stream:
            digest.update(f"{name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises InputError."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def check_files(folder: Path, config: Mapping[str, Any], reference: str) -> None:
    """Raise InputError for files that lead elsewhere: to adapters, quantizers, kernels of the hub, other folders."""
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{reference}: weights of an adapter (PEFT): merge it, model.merge_and_unload(), and save that"
        )
    if config.get("quantization_config"):
        raise InputError(f"{reference}: its weights are quantized already; give the float ones")
    for index in folder.glob("*.index.json"):
        names = read_json(index).get("weight_map", {})
        if not isinstance(names, dict) or any(Path(str(name)).name != name for name in names.values()):
            raise InputError(f"{index}: names files outside of its folder")
    for key, value in _leaves(config):
        if "attn_implementation" in key and isinstance(value, str) and "/" in value:
            raise InputError(f"{reference}: {CONFIG} asks for code of the hub, {value!r}, which is not run")
    if not _weights(folder):
        raise InputError(f"{reference}: no weights in it (model.safetensors, or pytorch_model.bin)")


def _weights(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob(_PICKLES)]


def check_size(architecture: Any, folder: Path, reference: str) -> None:
    """Raise InputError for a configuration of a network far larger than the weights: nothing is allocated for it.

    A byte holds at most two weights of the smallest type that is common; four are allowed.
    """
    import torch

    try:
        config = architecture.config_class.from_pretrained(str(folder), local_files_only=True)
        with torch.device("meta"):
            count = sum(value.numel() for value in architecture(config).parameters())
    except Exception:  # what is wrong with it, loading says
        return
    stored = sum(path.stat().st_size for path in _weights(folder))
    if count > 4 * stored + 1_000_000:
        raise InputError(
            f"{reference}: {CONFIG} describes a network of {count:,} weights; the files have {stored:,} bytes"
        )


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, str(name))
    else:
        yield key, value
