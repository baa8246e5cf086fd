"""A backend: an object that satisfies `Backend`, with one line in the dict of `mobconv/backends/__init__.py`.

| Protocol  | what it is                                                        |
|-----------|-------------------------------------------------------------------|
| Backend   | one target format: converts, encodes and opens                    |
| Runner    | an artifact, opened and ready to run                              |
| Sliceable | optional: cuts its files into layers, for `mobconv compare`       |
| Auditable | optional: accounts for the bytes of its files, for `mobconv inspect` |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from mobconv.backends.size_audit import Audit
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import BackendError, UsageError
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.weights import Weight
from mobconv.schemes import Cell, Compute

if TYPE_CHECKING:
    from mobconv.backends.graph_view import GraphView
    from mobconv.model.program import Program


@dataclass(frozen=True)
class Support:
    """What a backend does with a cell.

    stored_bits  bits of one code on disk; None where the cell is unsupported, see reason
    requires     the oldest runtime that reads the file: 'opset 18', 'iOS18', ...
    reason       why it is unsupported, or why stored_bits is not the width that was asked
    note         anything else that a user of the cell should know
    """

    stored_bits: int | None
    requires: str = ""
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Encoded:
    """What an encoder reports of the artifact that it wrote, counted in the finished file.

    weight_bytes  the file's bytes less those of a file whose quantized weights take none: codes, scales, zero points,
                  tables, padding and the operations that decode them
    support       as `Backend.support`, with what only encoding can know
    """

    weight_bytes: int
    support: Support


@dataclass(frozen=True)
class Entry:
    """The program that a backend converts, and what is done to pixels in front of it.

    program        given to `convert`
    preprocessing  what callers of the files do to RGB pixels; None for a network that does not say
    options        the backend's options that `convert` needs, as `Backend.options` returned them
    computed       the program that the files compute, where that is not `program`: a converter that scales pixels by
                   itself puts that in front
    """

    program: Program
    preprocessing: Preprocessing | None = None
    options: Any = None
    computed: Program | None = None


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an artifact, as the file declares it.

    shape         -1 for a length that is open
    colour        'rgb', 'bgr' or 'gray' where the file says that the input is an image of pixels of 0 to 255
    mean, std     what the file says that callers do to them, one number or one for each channel: (pixel - mean) / std
    quantization  (scale, zero point) of an integer tensor q that stands for scale * (q - zero point)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    colour: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    quantization: tuple[float, int] | None = None


class Runner(Protocol):
    """An artifact, opened from disk and ready to run."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def verified(self) -> str:
        """How it is run: 'runtime' (the format's own), 'emulated' (another implementation), or a word that
        `Backend.runtime_label` explains. An emulated file is not timed."""
        ...

    @property
    def record(self) -> str:
        """The text that `encode` put into the file's metadata; empty in another tool's file."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, where the format has a place for them."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs of N samples each -> named outputs of N samples each, for any N.

        A file of a fixed, smaller batch is run several times. Raises InputError for arrays that do not fit.
        """
        ...

    def close(self) -> None:
        """Free what the runner keeps open."""
        ...


class Backend(Protocol):
    """One target format. Frameworks and vendors' packages are imported inside the functions only."""

    name: str
    suffix: str

    @property
    def default_compute(self) -> Compute:
        """Precision of compute where a cell's name says none.

        fp32 unless a format cannot: the file of a name is then the same from every command, and half precision is there
        when it is asked for by name (`@fp16`).
        """
        ...

    @property
    def source_packages(self) -> tuple[str, ...]:
        """Dotted packages whose source decides the bytes and results of its files, its own and shared ones.

        A sweep makes its cells again when one of them changes.
        """
        ...

    def missing(self) -> str | None:
        """What to install, as one sentence, where the backend cannot work here; None where it can."""
        ...

    def versions(self) -> dict[str, str]:
        """Names and versions of the tools that write, or run, its files."""
        ...

    def support(self, cell: Cell) -> Support:
        """What this backend does with a cell; needs no vendor's package."""
        ...

    @property
    def options_schema(self) -> dict[str, Any]:
        """JSON Schema of `options`; `NO_OPTIONS` for a backend without any."""
        ...

    def options(self, values: Mapping[str, Any]) -> Any:
        """The backend's own options of a recipe, checked, as plain JSON values with defaults left out; None for none.

        Raises UsageError for an unknown option or a wrong value.
        """
        ...

    def image_entry(
        self, program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], kind: str, options: Any
    ) -> Entry:
        """The program as this backend converts it for an input of a kind in `image_input.INPUTS`.

        A network that takes no images keeps its own tensors under any kind. options: as `options` returned them.
        `entry.pixel_entry` does all of it for a format whose images are plain tensors.
        """
        ...

    def convert(self, program: Program, compute: Compute, directory: Path, options: Any = None) -> None:
        """Write the float template of a program, with the map of its weights and biases, into an existing empty folder.

        Biases may be located by their values: `pipeline.templates` gives every bias that is to change values of its
        own. options: those of its `Entry`. Raises BackendError when the converter refuses, naming what it refused.
        """
        ...

    def encode(self, template: Path, model: QuantizedModel, cell: Cell, path: Path, record: str = "") -> Encoded:
        """Write the artifact of a cell to `path`, whole or not at all: the template with a model's values in place.

        record: text for the file's own metadata, under the key `mobconv`; it counts for no weight.
        Raises BackendError for a weight that cannot be placed or encoded, naming it, and for a part of the model
        (biases, activations) that this format cannot encode (see `weights_alone`, `float_activations`, `bias_map`).
        """
        ...

    def open(self, path: Path, threads: int = 0) -> Runner:
        """Read an artifact from disk. threads: 0 for the runtime's own choice.

        Raises InputError for a file that is not of this format, or damaged.
        """
        ...

    def runtime_label(self, verified: str) -> str:
        """How a file is run, in words, by `Runner.verified`."""
        ...

    def suggested_fix(self, spec: TensorSpec, network: Preprocessing, caller: Preprocessing) -> str:
        """Python to paste: the vendor's conversion with the network's normalisation inside the file.

        spec: the file's input; caller: what its callers do, which is not to normalise. `suggestion.wrapper` has the
        part that is the same for all converters.
        """
        ...


@runtime_checkable
class Sliceable(Protocol):
    """A backend that cuts its files, and those of other tools."""

    def graph_view(self, path: Path, threads: int = 0) -> GraphView:
        """Read an artifact as a graph of operations. Raises InputError as `Backend.open` does."""
        ...


@runtime_checkable
class Auditable(Protocol):
    """A backend that accounts for every byte of its files, and of those of other tools."""

    def size_audit(self, path: Path) -> Audit:
        """Bytes of each weight of an artifact, by what they are; runs nothing.

        Raises InputError for a file that is not of this format, or damaged.
        """
        ...


NO_OPTIONS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def no_options(name: str, values: Mapping[str, Any]) -> None:
    """`Backend.options` of a backend without options. Raises UsageError naming those that were given."""
    if values:
        raise UsageError(f"{name} has no options, and {', '.join(map(repr, values))} was given")


def weights_alone(model: QuantizedModel, cell: Cell) -> Mapping[str, Weight]:
    """The weights of a model that consists of weights, for an encoder that writes nothing else.

    Raises BackendError naming the biases or activations that such an encoder would otherwise drop in silence.
    """
    _refuse("biases", model.biases, cell)
    return float_activations(model, cell).weights


def float_activations(model: QuantizedModel, cell: Cell) -> QuantizedModel:
    """A model whose activations stay float, for an encoder that writes weights and biases.

    Raises BackendError naming the activations that such an encoder would otherwise drop in silence.
    """
    _refuse("activations", model.activations, cell)
    return model


def _refuse(part: str, entries: Mapping[str, Any], cell: Cell) -> None:
    if entries:
        raise BackendError(f"{cell}: {cell.backend} cannot encode changed {part} yet: {', '.join(entries)}")
