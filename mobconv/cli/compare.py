"""`mobconv compare`: where the loss of one artifact comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobconv.cli.common import (
    DATA,
    AsJson,
    InputShape,
    Key,
    Labels,
    MetricOption,
    Model,
    ModelArg,
    PreprocessingOption,
    SkipBad,
    TaskOption,
    TrustPickle,
    Weights,
    load_checkpoint,
    preprocessing_from,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

    from mobconv.compare.comparison import Comparison


def command(
    checkpoint: Annotated[str, typer.Argument(help="what the file was made from, as for `mobconv export`")],
    artifact: Annotated[Path, typer.Argument(help="an .onnx, .tflite, .mlpackage or .mlmodel, of any tool")],
    data: Annotated[str, typer.Option("--data", help=DATA)],
    limit: Annotated[int | None, typer.Option("--images", min=1, help="number of samples, the first ones")] = None,
    stated_input: Annotated[
        str | None,
        typer.Option(
            "--takes",
            metavar="JSON|raw",
            help="what the file's caller does to pixels, where the file does not say (default: what the network "
            "wants); `raw` for pixels of 0 to 255",
        ),
    ] = None,
    task: TaskOption = None,
    metric: MetricOption = None,
    shown: Annotated[int, typer.Option("--layers", min=0, help="number of layers to list, worst first")] = 10,
    model: Model = None,
    model_arg: ModelArg = None,
    input_shape: InputShape = None,
    preprocessing: PreprocessingOption = None,
    key: Key = None,
    weights: Weights = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> int:
    """Find out where the accuracy of an artifact went: which step, which layers, which mistake in preprocessing.

    Without labels: `--task fidelity` compares outputs with those of the float network. Data may be arrays (.npz, .npy).
    """
    import json

    from mobconv.cli import render
    from mobconv.compare.comparison import compare
    from mobconv.errors import InputError

    if not artifact.exists():
        raise InputError(f"{artifact}: no such file or folder")
    loaded = load_checkpoint(
        checkpoint, model, model_arg, input_shape, preprocessing, trust_pickle, key, weights, labels
    )
    with render.stages() as stage:
        comparison = compare(
            loaded,
            artifact,
            data,
            takes=preprocessing_from(stated_input, "--takes"),
            samples=limit,
            skip_bad=skip_bad,
            task=task or "classification",
            metric=metric,
            say=stage,
            checkpoint_options=_checkpoint_options(model, model_arg, input_shape, trust_pickle, key, weights),
        )
    if comparison.other_checkpoint:
        say(f"warning: {artifact} says that it was made from another checkpoint than {checkpoint}")
    for warning in comparison.doubts:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(comparison.to_json(), indent=1))
        return 0
    _print(comparison, shown, render.console())
    return 0


def _checkpoint_options(
    model: str | None,
    model_arg: list[str] | None,
    input_shape: str | None,
    trust_pickle: bool,
    key: str | None,
    weights: Path | None,
) -> list[str]:
    """The words of the options that say how the checkpoint is loaded, for a command to paste."""
    given = {"--model": model, "--input-shape": input_shape, "--key": key, "--weights": weights}
    words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    words += [word for value in model_arg or () for word in ("--model-arg", value)]
    return words + ["--trust-pickle"] * trust_pickle


def _print(comparison: Comparison, shown: int, console: Console) -> None:
    from mobconv.errors import worded
    from mobconv.report import losses

    by = comparison.expected.source if comparison.expected else "its inputs"
    console.print(f"{comparison.artifact} takes {comparison.input_text}, by {by}", markup=False)
    console.print()
    console.print(losses.steps(comparison))
    for line in losses.remarks(comparison):
        console.print(line, style="dim")
    console.print()
    if shown and comparison.layer_errors.layers:
        console.print(losses.layers(comparison, shown))
        for line in losses.layer_remarks(comparison):
            console.print(line, style="dim")
        console.print()
    for line in losses.verdict(comparison):
        console.print(worded(line, "cli"), markup=False)
