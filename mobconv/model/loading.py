"""Load a checkpoint with the user's settings: the function of the Python API and of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.data.preprocessing import Preprocessing, stated
from mobconv.errors import UsageError, setting
from mobconv.model import checkpoint
from mobconv.model.checkpoint import Checkpoint, Options
from mobconv.model.labels import read as read_labels
from mobconv.model.sources import in_memory

if TYPE_CHECKING:
    import torch


def load(
    reference: Path | str | torch.nn.Module,
    example: Any = None,
    *,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    key: str | None = None,
    weights: Path | str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | str | None = None,
    labels: Sequence[str] | Path | str | None = None,
    trust_pickle: bool = False,
) -> Checkpoint:
    """Load a checkpoint of any kind: safetensors, a state dict, an exported program, TorchScript, a folder of
    save_pretrained, or a network by name (`hf:NAME`, `timm:NAME`, `torchvision:NAME`).

    reference: its path or name, or a module in memory, whose settings are example (its inputs with a batch of 1: a
    tensor or array, a tuple, or a mapping by name), preprocessing and labels. model: `package.module:factory` that
    builds the module, with arguments, where the file does not name it; input_shape: of one input, batch 1, such as
    (1, 3, 224, 224); preprocessing: from pixels to the input, its fields, such as {"mean": [0.5], "std": [0.5]}, or a
    name, `raw` or `imagenet`; labels: names of the classes, in the order of the outputs, or a file of them (see
    mobconv.model.labels), `none` for no names; key: which of several states in the file, such as "model_ema"; weights:
    a file with the weights of a network that the reference names (`timm:NAME`); trust_pickle: load a pickle that runs
    code, which may do anything on this machine.

    Settings win over statements of the file. Raises InputError for a file that is missing, damaged, of another
    architecture or contains NaN; UsageError when a setting is missing or wrong.
    """
    if not isinstance(reference, Path | str):
        alone = (model, arguments, input_shape, key, weights, trust_pickle or None)
        if any(value is not None for value in alone):
            raise UsageError(
                "A module in memory takes an example, preprocessing and labels; other settings are of files"
            )
        return labelled(in_memory.load(reference, example, stated(preprocessing)), labels)
    if example is not None:
        raise UsageError(f"{setting('example')} is for a module in memory; a file takes {setting('input_shape')}")
    options = Options(
        factory=model,
        arguments=dict(arguments or {}),
        input_shape=None if input_shape is None else tuple(input_shape),
        preprocessing=stated(preprocessing),
        key=key,
        weights=None if weights is None else Path(weights),
        trust_pickle=trust_pickle,
    )
    return labelled(checkpoint.load(reference, options), labels)


def labelled(loaded: Checkpoint, labels: Sequence[str] | Path | str | None) -> Checkpoint:
    """A checkpoint with the user's labels; with its own where these are None. Raises InputError."""
    return loaded if labels is None else replace(loaded, labels=read_labels(labels))
