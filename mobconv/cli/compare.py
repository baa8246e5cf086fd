"""`mobconv compare`: where the loss of one artifact comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobconv.cli.common import (
    AsJson,
    InputShape,
    Model,
    ModelArg,
    PreprocessingOption,
    TrustPickle,
    load_checkpoint,
    preprocessing_from,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

    from mobconv.compare.comparison import Comparison


def command(
    checkpoint: Annotated[Path, typer.Argument(help="what the file was made from, as for `mobconv export`")],
    artifact: Annotated[Path, typer.Argument(help="an .onnx, .tflite, .mlpackage or .mlmodel, ours or not")],
    data: Annotated[str, typer.Option("--data", help="parquet file, folder of images by class, or hub name")],
    limit: Annotated[int | None, typer.Option("--images", min=1, help="take the first so many images")] = None,
    takes: Annotated[
        str | None,
        typer.Option(
            "--takes",
            metavar="JSON|raw",
            help="what the file's caller does to pixels, where the file does not say (default: what the network "
            "wants); `raw` for pixels of 0 to 255",
        ),
    ] = None,
    shown: Annotated[int, typer.Option("--layers", min=0, help="how many layers to list, worst first")] = 10,
    model: Model = None,
    model_arg: ModelArg = None,
    input_shape: InputShape = None,
    preprocessing: PreprocessingOption = None,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> int:
    """Where the accuracy of an artifact went: step by step, layer by layer, and to which mistake in preprocessing."""
    import json

    from mobconv.cli import render
    from mobconv.compare import comparison
    from mobconv.data import labelled as datasets
    from mobconv.errors import InputError

    if not artifact.exists():
        raise InputError(f"{artifact}: no such file or folder")
    loaded = load_checkpoint(checkpoint, model, model_arg, input_shape, preprocessing, trust_pickle)
    told = preprocessing_from(takes, "--takes")
    given = {"--model": model, "--input-shape": input_shape}
    options = [text for option, value in given.items() if value is not None for text in (option, value)]
    options += [text for value in model_arg or () for text in ("--model-arg", value)]
    options += ["--trust-pickle"] * trust_pickle
    with render.stages() as stage:
        found = comparison.compare(
            loaded, artifact, lambda network: datasets.load(data, limit, network.fit), told, stage, options
        )
    if found.other_checkpoint:
        say(f"warning: {artifact} says that it was made from another checkpoint than {checkpoint}")
    if found.guessing:
        say(f"warning: {found.guessing}")
    if found.doubt:
        say(f"warning: {found.doubt}")
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return 0
    _print(found, shown, render.console())
    return 0


def _print(found: Comparison, shown: int, console: Console) -> None:
    from mobconv.report import losses

    console.print(f"{found.artifact} takes {found.told}, by {found.takes.source}")
    console.print()
    console.print(losses.steps(found))
    for line in losses.remarks(found):
        console.print(line, style="dim")
    console.print()
    if shown and found.injections.layers:
        console.print(losses.injections(found, shown))
        console.print(losses.LAYERS_NOTE.format(images=found.injections.images), style="dim")
        for line in found.injections.skipped:
            console.print(f"not compared: {line}", style="dim")
        console.print()
    for line in losses.verdict(found):
        console.print(line, markup=False)
