"""Options and output that commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobconv.errors import InputError, UsageError

if TYPE_CHECKING:
    from mobconv.data.preprocessing import Preprocessing
    from mobconv.model.checkpoint import Checkpoint

_SHAPE = "such as 1,3,224,224 (batch, channels, height, width)"
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="PKG:FACTORY", help="function or class that builds the network, for files of weights alone"
    ),
]
ModelArg = Annotated[
    list[str] | None, typer.Option("--model-arg", metavar="NAME=VALUE", help="argument of the factory; may be repeated")
]
InputShape = Annotated[
    str | None,
    typer.Option("--input-shape", metavar="1,3,224,224", help="shape of one input: batch, channels, height, width"),
]
PreprocessingOption = Annotated[
    str | None,
    typer.Option(
        "--preprocessing",
        metavar="JSON",
        help='normalisation of pixels: {"mean": [..], "std": [..]}, for each channel or one for all, in units of 0..1 '
        'pixels, with "range", "colour", "size" where they matter; a file with such JSON; `imagenet` for ImageNet\'s '
        "mean and std; or `raw` for pixels of 0 to 255 as they are",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="names of the classes, in the order of the outputs: one a line, or JSON (a list, or id2label); `none` for "
        "no names. Default: those of the checkpoint, else of the data",
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave out images that cannot be decoded, and count them")]
DATA = "parquet file, folder of images by class, CSV file of paths and labels, .npz of arrays, or hub name"
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="TASK", help="what outputs mean: classification (default), regression, fidelity ..."
    ),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME|PKG:OBJECT",
        help="one of the task's metrics in place of its first, as F1 or RMSE; or your own: a function of outputs and "
        "targets, or an object with update and compute (docs/tasks.md)",
    ),
]
Postprocess = Annotated[
    str | None,
    typer.Option("--postprocess", metavar="PKG:FUNCTION", help="makes the task's outputs of a sample's, such as boxes"),
]
HigherIsBetter = Annotated[
    bool | None,
    typer.Option("--higher-is-better/--lower-is-better", help="of a metric of your own that does not say it"),
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="load pickles that run code: only from people you trust")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="NAME", help="which of several states in the file, such as model_ema; default: as trained"
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="your weights of a network by name (timm:NAME, torchvision:NAME)"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON in place of a table")]


def preprocessing_from(text: str | None, option: str = "--preprocessing") -> Preprocessing | None:
    """Parse --preprocessing, or another option of its kind. Raises UsageError or InputError."""
    from mobconv.data.preprocessing import NAMES, Preprocessing, named

    if text is None:
        return None
    if text in NAMES:
        return named(text)
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text()
        except FileNotFoundError:
            raise InputError(
                f"{option} {text}: no such file, and not a JSON object such as "
                """'{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'"""
            ) from None
        except (OSError, ValueError) as error:  # ValueError: not text
            raise InputError(f"{option} {text}: cannot be read: {error}") from error
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{option} {value!r} is not a JSON object")
    return Preprocessing.from_json(value)


def load_checkpoint(
    reference: str,
    model: str | None,
    model_arg: list[str] | None,
    input_shape: str | None,
    preprocessing: str | None,
    trust_pickle: bool,
    key: str | None = None,
    weights: Path | None = None,
    labels: str | None = None,
) -> Checkpoint:
    """Load a checkpoint with the options of the command line, and print its notes on stderr."""
    from mobconv.model.loading import load

    if trust_pickle:
        say("warning: --trust-pickle: the file may run any code on this machine, with your rights")
    loaded = load(
        reference,
        model=model,
        arguments=dict(_argument(text) for text in model_arg or ()),
        input_shape=None if input_shape is None else _shape(input_shape),
        preprocessing=preprocessing_from(preprocessing),
        key=key,
        weights=weights,
        labels=labels,
        trust_pickle=trust_pickle,
    )
    for note in loaded.notes:
        say(f"{loaded.name}: {note}")
    return loaded


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--model-arg {text!r} is not of the form name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--input-shape {text!r}: numbers with commas between, {_SHAPE}") from None
    if len(shape) < 2 or min(shape) < 1:
        raise UsageError(f"--input-shape {text!r}: at least two lengths, each 1 or more, {_SHAPE}")
    return shape


def results_file(path: Path) -> Path:
    """The file itself, or results.json in a sweep's folder."""
    return path / "results.json" if path.is_dir() else path


def say(text: str) -> None:
    """Print a line on stderr, its settings as options: stdout is for results."""
    from mobconv.errors import worded

    print(worded(text, "cli"), file=sys.stderr, flush=True)
