"""A checkpoint: trained weights, loaded into a module that is ready to trace.

A reference says where it is: a path, or whatever text one of mobconv.model.sources accepts. A checkpoint is data, not a
program: no source runs code that a file contains, or imports what a file names, unless the user says so (see the
sources).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.typing import NDArray

from mobconv.common import file_kind
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError, UsageError, setting
from mobconv.model import example as examples
from mobconv.model import factory, fidelity, trace
from mobconv.model.fidelity import Behaviour
from mobconv.model.program import IMAGE, in_batches, output_names
from mobconv.model.sources import SOURCES

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule
    from torch.utils._pytree import TreeSpec

    from mobconv.model.program import Program


@dataclass
class Options:
    """Statements of the user about a checkpoint; they win over those of the file.

    factory: package.module:function that builds the module, with `arguments`. here: the folder where it is looked for
    first; None for the current one. key: which of several states in a file, such as an average of the weights (EMA).
    weights: a file with the weights of a network that the reference only names.
    """

    factory: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    weights: Path | None = None
    input_shape: tuple[int, ...] | None = None
    preprocessing: Preprocessing | None = None
    trust_pickle: bool = False
    here: Path | None = None


@dataclass(frozen=True)
class Fingerprint:
    """A hash over a checkpoint, without building its module.

    followed: whether the code behind the module is known before it is loaded: in the checkpoint itself, in mobconv, in
    the factory of `Options` or in `packages`. Where it is not, two equal hashes may be of two networks.
    packages: installed packages whose releases decide what the network computes.
    """

    sha256: str
    followed: bool = True
    packages: tuple[str, ...] = ()


@dataclass
class Checkpoint:
    """A trained network, ready to trace.

    reference      where it comes from, as the user named it; name: the same, short, for display
    module         in eval mode, float32; as loaded, nothing folded: the float baseline
    example        example inputs by name, of any dtype, batch 1
    preprocessing  None where neither the checkpoint nor the user states it
    labels         class names, empty where unknown
    notes          what was recognised while loading, to be shown
    exported       the program of a checkpoint that contains one, in place of `module` for tracing
    structure      how the inputs nest in the arguments of `module`, (args, kwargs); None: each is an argument
    fixed_batch    whether no other batch than the example's may be tried
    """

    reference: str
    name: str
    sha256: str
    module: torch.nn.Module = field(repr=False)
    example: dict[str, NDArray[Any]] = field(repr=False)
    preprocessing: Preprocessing | None
    labels: tuple[str, ...]
    notes: list[str]
    exported: ExportedProgram | None = field(default=None, repr=False)
    structure: TreeSpec | None = None
    fixed_batch: bool = False

    @cached_property
    def behaviour(self) -> Behaviour:
        """How the module may be run. Raises InputError for one whose outputs change from run to run."""
        return fidelity.behaviour(self._run, self.example, self._unfolded, self.reference, self.fixed_batch)

    def trace(self) -> Program:
        """Trace the module, fold its batch norms, and check that the program computes what the module computes.

        Raises InputError when it cannot be traced, computes something else, or is not the same from run to run.
        """
        program = trace.from_exported(self._export(), self.example)
        behaviour = self.behaviour
        batch = behaviour.batch
        if batch is None and fidelity.has_fixed_batch(program.module):
            batch = len(next(iter(self.example.values())))
        locate = self._locate(program)
        batch = fidelity.check(self._run, program.run, self.example, batch, locate, self.reference)
        notes = program.notes
        if behaviour.mixed:
            notes += (
                f"the network mixes the samples of a batch ({behaviour.mixed}): it is evaluated one sample at a time, "
                "as files are run",
            )
        return replace(program, batch=batch, notes=notes)

    def _export(self) -> ExportedProgram:
        if self.exported is not None:
            return self.exported
        try:
            return trace.export(self.module, self.example, self.structure)
        except InputError as error:
            raise InputError(f"{error.text}\n{self._hint()}".rstrip()) from error

    def _unfolded(self) -> GraphModule:
        return trace.unfolded(self._export(), len(self.example))

    def _locate(self, program: Program) -> Callable[[dict[str, NDArray[Any]]], str]:
        def locate(inputs: dict[str, NDArray[Any]]) -> str:
            graph = self._unfolded()
            return (
                fidelity.first_module(self.module, graph, self._run, inputs)
                or fidelity.first_departure(program.module, graph, inputs)
                or "an operation that torch.export changed"
            )

        return locate

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the unfolded module: the float baseline.

        inputs: an array for each name in `example`, of any number of samples. Returns the outputs in the module's
        order, by the names of program.output_names. Raises InputError for inputs that the module does not run on.
        """
        missing = [name for name in self.example if name not in inputs]
        if missing:
            raise InputError(f"{self.reference}: no array for the input {', '.join(missing)}")
        return in_batches(self._run, inputs, self.behaviour.batch)

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch
        from torch.utils._pytree import tree_flatten, tree_unflatten

        tensors = [torch.from_numpy(inputs[name]) for name in self.example]
        args, kwargs = (tensors, {}) if self.structure is None else tree_unflatten(tensors, self.structure)
        try:
            with torch.inference_mode():
                leaves, structure = tree_flatten(self.module(*args, **kwargs))
        except (RuntimeError, IndexError, AssertionError) as error:  # of embeddings, and of guards on inputs
            shapes = ", ".join(f"{name} {inputs[name].shape}" for name in self.example)
            parts = [factory.first_sentence(error), *filter(None, [self._hint()])]
            raise InputError(
                f"{self.reference}: the network does not run on inputs of shape {shapes}: {'. '.join(parts)}"
            ) from error
        named = zip(output_names(structure, self.example), leaves, strict=True)
        return {name: leaf.numpy() for name, leaf in named if isinstance(leaf, torch.Tensor)}

    def _hint(self) -> str:
        return examples.hint(next(iter(self.example.values())).shape) if len(self.example) == 1 else ""


def fingerprint_of_file(reference: str, followed: bool = True) -> Fingerprint:
    """Hash the file that a reference names, as sources of single files do. Raises InputError."""
    content = file_kind.read(Path(reference), "checkpoint")
    return Fingerprint(hashlib.sha256(content).hexdigest(), followed)


class Source(Protocol):
    """A kind of checkpoint; each is a module of mobconv.model.sources.

    Of the settings `key` and `weights`, a source reads those that its attribute SETTINGS names, a tuple; without the
    attribute, none.
    """

    KIND: str
    """What a checkpoint of this kind is, in a few words, for messages."""

    def accepts(self, reference: str) -> bool:
        """Whether a reference is of this kind, decided by content. Never raises, also for a missing file."""
        ...

    def fingerprint(self, reference: str, options: Options) -> Fingerprint:
        """Hash what `load` would read, without running or building anything. Raises InputError."""
        ...

    def load(self, reference: str, options: Options) -> Checkpoint:
        """Load a reference that is accepted.

        Raises InputError for one that is damaged, does not fit its architecture or contains NaN; UsageError when a
        setting is missing.
        """
        ...


def load(reference: str | Path, options: Options | None = None) -> Checkpoint:
    """Load a checkpoint of any kind in SOURCES.

    Raises InputError for a reference of no known kind, UsageError for a setting that its kind does not read, and what
    the source raises (see Source.load).
    """
    options = options or Options()
    return _for(reference, options).load(str(reference), options)


def fingerprint(reference: str | Path, options: Options | None = None) -> Fingerprint:
    """Hash a checkpoint without loading it. Raises InputError for a reference that cannot be read."""
    options = options or Options()
    return _for(reference, options).fingerprint(str(reference), options)


def _for(reference: str | Path, options: Options) -> Source:
    """The source of a reference. Raises UsageError for a setting that it does not read."""
    chosen = source(reference)
    for name in ("key", "weights"):
        value = getattr(options, name)
        if value is not None and name not in getattr(chosen, "SETTINGS", ()):
            raise UsageError(f"{reference} is {chosen.KIND}: {setting(name, str(value))} has no meaning for it")
    return chosen


def source(reference: str | Path) -> Source:
    """Find the source that accepts a reference. Raises InputError that says why none does."""
    kinds = []
    for place in SOURCES.values():
        candidate = cast(Source, importlib.import_module(place))
        if candidate.accepts(str(reference)):
            return candidate
        kinds.append(candidate.KIND)
    path = Path(reference)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder without the config.json of a model; a checkpoint is one file, or a folder that "
            "save_pretrained wrote"
        )
    file_kind.read(path, "checkpoint")
    file_kind.refuse(path, "checkpoint")
    file_kind.refuse_broken_zip(path)
    raise InputError(f"{path}: unknown kind of checkpoint, or a damaged file; known are {'; '.join(kinds)}")


def complete(
    reference: str,
    sha256: str,
    module: torch.nn.Module,
    options: Options,
    stated: Mapping[str, Any] | None = None,
    notes: list[str] | None = None,
) -> Checkpoint:
    """Make the checkpoint of a file's module: check weights, apply what the file states and the user's options.

    stated: the file's own `input_shape`, `preprocessing` and `labels`, as JSON has them, not to be trusted to be of the
    right type. Raises InputError for NaN and for statements that make no sense, UsageError without an input shape.
    """
    stated = stated or {}
    factory.check_finite(module, reference)
    factory.settle(module)
    example = examples.zeros(options.input_shape or stated.get("input_shape"), reference)
    preprocessing = options.preprocessing
    if preprocessing is None and "preprocessing" in stated:
        try:
            preprocessing = Preprocessing.from_json(stated["preprocessing"])
        except InputError as error:
            raise InputError(f"{reference}: {error.text}; say {setting('preprocessing')}") from error
    preprocessing = examples.fitted(preprocessing, example.shape, reference)
    names = stated.get("labels", ())
    labels = tuple(str(label) for label in names) if isinstance(names, list) else ()
    name = Path(reference).name or Path(reference).absolute().name
    inputs: dict[str, NDArray[Any]] = {IMAGE: example}
    return Checkpoint(reference, name, sha256, module.float().eval(), inputs, preprocessing, labels, list(notes or ()))
