"""The promises of a source of checkpoints, checked: for ours and for sources of third parties.

    from mobconv.testing import source_conformance
    source_conformance.check(my_source, "path/to/one.ckpt", module, tmp_path, Options(...))

`module` is the network that the checkpoint was made from, `others` are references of other kinds.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.model.checkpoint import Options, Source

if TYPE_CHECKING:
    import torch


def check(
    source: Source,
    reference: str,
    module: torch.nn.Module,
    scratch: Path,
    options: Options | None = None,
    others: Sequence[str] = (),
) -> None:
    """Check every promise of checkpoint.Source. Raises AssertionError.

    scratch: a folder for a changed copy, where the reference is a file or a folder of files.
    """
    options = options or Options()
    check_accepts(source, reference, scratch, others)
    check_fingerprint(source, reference, scratch, options)
    check_outputs(source, reference, module, options)


def check_accepts(source: Source, reference: str, scratch: Path, others: Sequence[str] = ()) -> None:
    """It accepts its own kind, by content and not by name, and no other; a missing or empty file does not raise."""
    assert source.KIND
    assert source.accepts(reference) is True
    empty = scratch / f"empty{Path(reference).suffix}"
    empty.touch()
    for other in (str(scratch / "missing"), str(empty), str(scratch), "", *others):
        assert source.accepts(other) is False, other
    if Path(reference).is_file():
        renamed = scratch / "renamed.bin"
        shutil.copy(reference, renamed)
        assert source.accepts(str(renamed)) is True


def check_fingerprint(source: Source, reference: str, scratch: Path, options: Options) -> None:
    """The fingerprint is that of the loaded checkpoint, the same every time, and another one after a changed byte."""
    fingerprint = source.fingerprint(reference, options)
    assert fingerprint == source.fingerprint(reference, options)
    assert fingerprint.sha256 == source.load(reference, options).sha256
    path = Path(reference)
    if not path.exists():  # a name
        return
    copy = scratch / f"changed{path.suffix}"
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    for part in sorted(copy.iterdir()) if path.is_dir() else [copy]:
        before = part.read_bytes()
        content = bytearray(before)
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
        assert source.fingerprint(str(copy), options).sha256 != fingerprint.sha256, part
        part.write_bytes(before)
    assert source.fingerprint(str(copy), options).sha256 == fingerprint.sha256  # of the content alone


def check_outputs(source: Source, reference: str, module: torch.nn.Module, options: Options) -> None:
    """The loaded module and its traced program compute what the untouched module computes, from named inputs."""
    import torch
    from torch.utils._pytree import tree_leaves

    checkpoint = source.load(reference, options)
    assert checkpoint.reference == reference and checkpoint.name
    inputs = {name: _random(value) for name, value in checkpoint.example.items()}
    with torch.inference_mode():
        outputs = tree_leaves(module.eval()(*(torch.from_numpy(value) for value in inputs.values())))
    expected = [value.numpy() for value in outputs if isinstance(value, torch.Tensor)]
    loaded = checkpoint.run(inputs)
    program = checkpoint.trace()
    traced = program.run(inputs)
    assert list(loaded) == list(traced) == list(program.outputs) and len(loaded) == len(expected)
    for name, want in zip(loaded, expected, strict=True):
        assert loaded[name].dtype == want.dtype and np.array_equal(loaded[name], want), name
        # folded batch norms round otherwise
        assert np.allclose(traced[name], want, rtol=0, atol=1e-5 * max(1e-6, float(np.abs(want).max()))), name


def _random(example: NDArray[Any]) -> NDArray[Any]:
    """Normal floats, small integers that any table of 2 rows has, and coin flips."""
    generator = np.random.default_rng(0)
    if example.dtype.kind == "f":
        return generator.normal(size=example.shape).astype(example.dtype)
    return generator.integers(0, 2, example.shape).astype(example.dtype)
