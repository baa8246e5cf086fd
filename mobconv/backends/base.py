"""What a backend is: a module that satisfies `Backend`, and stands in the one dict beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

from mobconv.backends.size_audit import Audit
from mobconv.quantize.weights import Weight
from mobconv.schemes import Cell, Compute

if TYPE_CHECKING:
    from mobconv.backends.graph_view import Anatomy
    from mobconv.model.trace import Program


@dataclass(frozen=True)
class Support:
    """What a backend does with a cell.

    stored_bits  bits that one code takes on disk; None: the cell is unsupported, see reason
    requires     the oldest runtime that reads it: 'opset 18', 'iOS18', ...
    reason       why it is unsupported, or why stored_bits is not the width that was asked
    note         anything else that a user of the cell should know
    """

    stored_bits: int | None
    requires: str = ""
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Encoded:
    """What `encode` says of the artifact it wrote, counted from the finished file.

    weight_bytes  the file less what it would be if its quantized weights took no byte: codes,
                  scales, zero points, tables, padding and the ops that decode them
    """

    weight_bytes: int
    support: Support


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor at the edge of an artifact, as the file declares it.

    colour        'rgb', 'bgr' or 'gray' where the file says that the input is an image of pixels of 0 to 255
    mean, std     what the file says that the caller does to them, one or one a channel: (pixel - mean) / std
    quantization  (scale, zero point) of an integer tensor that stands for scale * (q - zero point)
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
        """How it is run: 'runtime' (its own), 'emulated' (ours, for Core ML), 'macos' (Core ML itself)."""
        ...

    @property
    def record(self) -> str:
        """The text that `encode` put into the file's metadata; empty in a file that is not ours."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, where the format holds them by means of its own."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs with any leading batch N -> named outputs with the same N.

        Where the file is fixed to a smaller batch, it is run as often as needed.
        """
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """One target format. Vendors are imported inside the functions only."""

    name: str
    suffix: str
    image: Literal["nchw", "nhwc", "native"]
    """How it takes images: as tensors of that layout, or 'native': by a type of its own, whatever the layout."""

    def missing(self) -> str | None:
        """What to install, as one sentence, when the backend cannot work here; None when it can."""
        ...

    def versions(self) -> dict[str, str]:
        """Names and versions of the tools whose output ends up in, or reads, its files."""
        ...

    def support(self, cell: Cell) -> Support:
        """What this backend does with a cell; needs no vendor."""
        ...

    def convert(self, program: Program, compute: Compute, directory: Path) -> None:
        """Program -> float template in an existing empty folder, with the map of its weights.

        Raises BackendError when the converter refuses, naming what it refused.
        """
        ...

    def encode(
        self, template: Path, weights: Mapping[str, Weight], cell: Cell, path: Path, record: str = ""
    ) -> Encoded:
        """Template and all its quantizable weights -> artifact at `path`, whole or not at all.

        `weights` has an entry for every site of the program, float or quantized, keyed by name; `record`
        is text that travels in the file's own metadata, under the key `mobconv`, and counts for no weight.
        Raises BackendError for a weight that cannot be placed or encoded, naming it.
        """
        ...

    def open(self, path: Path, threads: int = 0) -> Runner:
        """Read an artifact from disk. threads: 0 for the runtime's own choice.

        Raises InputError for a file that is not of this format.
        """
        ...

    def anatomy(self, path: Path, threads: int = 0) -> Anatomy:
        """Read an artifact, of any maker, to be cut and compared. Raises InputError as `open` does."""
        ...

    def audit(self, path: Path) -> Audit:
        """What each weight of an artifact takes on disk, whoever made it; runs nothing.

        Raises InputError for a file that is not of this format, or damaged.
        """
        ...
