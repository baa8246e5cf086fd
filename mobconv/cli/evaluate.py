"""`mobconv evaluate`: measure one artifact, read from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import DATA, AsJson, Labels, PreprocessingOption, SkipBad, preprocessing_from, say


def command(
    artifact: Annotated[Path, typer.Argument(help="an .onnx, .tflite, .mlpackage or .mlmodel, ours or not")],
    data: Annotated[str, typer.Option("--data", help=DATA)],
    limit: Annotated[int | None, typer.Option("--images", min=1, help="take the first so many images")] = None,
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="threads of the runtime; 0 for all cores")] = 0,
    as_json: AsJson = False,
) -> int:
    """Accuracy, size and latency of one artifact on labelled images."""
    import json

    from mobconv.common.text import plural, size
    from mobconv.pipeline.evaluation import evaluate

    figures = evaluate(
        artifact,
        data,
        samples=limit,
        preprocessing=preprocessing_from(preprocessing),
        labels=labels,
        skip_bad=skip_bad,
        threads=threads,
    )
    for note in figures.notes:
        say(f"{data}: {note}")
    for warning in figures.warnings:
        say(f"warning: {warning}")
    if as_json:
        print(json.dumps(figures.to_json(), indent=1))
        return 0
    metric = figures.metric
    print(f"{figures.artifact} ({figures.cell or 'not made by mobconv'})")
    left_out = f", {figures.skipped:,} left out" if figures.skipped else ""
    print(f"  {metric.name:<8} {metric.text(figures.score)}  of {plural(figures.samples, 'sample')}{left_out}")
    for name, value in figures.metrics.items():
        print(f"  {name:<8} {metric.text(value)}")
    print(f"  size     {size(figures.file_bytes)}")
    print(f"  load     {figures.load_ms:.0f} ms")
    latency = figures.latency_ms
    not_timed = "not measured: emulated, no such device here"
    print(f"  latency  {not_timed if latency is None else f'{latency:.2f} ms a sample'}")
    print(f"  run by   {figures.run_by}")
    print(f"  takes    {figures.input_text}, by {figures.input_by}")
    return 0
