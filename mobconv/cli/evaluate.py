"""`mobconv evaluate`: measure one artifact, read from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import (
    DATA,
    AsJson,
    HigherIsBetter,
    InputShape,
    Labels,
    MetricOption,
    Model,
    ModelArg,
    Postprocess,
    PreprocessingOption,
    SkipBad,
    TaskOption,
    TrustPickle,
    load_checkpoint,
    preprocessing_from,
    say,
)


def command(
    artifact: Annotated[Path, typer.Argument(help="an .onnx, .tflite, .mlpackage or .mlmodel, ours or not")],
    data: Annotated[str, typer.Option("--data", help=DATA)],
    limit: Annotated[int | None, typer.Option("--images", min=1, help="take the first so many samples")] = None,
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
    task: TaskOption = None,
    metric: MetricOption = None,
    higher_is_better: HigherIsBetter = None,
    postprocess: Postprocess = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="CHECKPOINT",
            help="the float network that outputs are compared with; without --task, by fidelity, which needs no labels",
        ),
    ] = None,
    model: Model = None,
    model_arg: ModelArg = None,
    input_shape: InputShape = None,
    trust_pickle: TrustPickle = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="threads of the runtime; 0 for all cores")] = 0,
    as_json: AsJson = False,
) -> int:
    """Score, size and latency of one artifact on images or arrays, with labels, other targets, or none."""
    import json

    from mobconv.common.text import plural, size
    from mobconv.pipeline.evaluation import evaluate

    loaded = None
    if checkpoint is not None:
        loaded = load_checkpoint(checkpoint, model, model_arg, input_shape, preprocessing, trust_pickle)
    figures = evaluate(
        artifact,
        data,
        task=task or ("classification" if loaded is None else "fidelity"),
        metric=metric,
        postprocess=postprocess,
        higher_is_better=higher_is_better,
        checkpoint=loaded,
        samples=limit,
        # of a checkpoint: what the network wants, which its file may do inside
        preprocessing=preprocessing_from(preprocessing) if loaded is None else None,
        labels=labels,
        skip_bad=skip_bad,
        threads=threads,
        say=say,
    )
    if as_json:
        print(json.dumps(figures.to_json(), indent=1))
        return 0
    judged = figures.metric
    wide = max(8, *(len(name) for name in (judged.name, *figures.metrics)))
    print(f"{figures.artifact} ({figures.cell or 'not made by mobconv'})")
    left_out = f", {figures.skipped:,} left out" if figures.skipped else ""
    print(f"  {judged.name:<{wide}} {judged.text(figures.score)}  of {plural(figures.samples, 'sample')}{left_out}")
    for name, value in figures.metrics.items():
        print(f"  {name:<{wide}} {figures.further.get(name, judged).text(value)}")
    print(f"  {'size':<{wide}} {size(figures.file_bytes)}")
    print(f"  {'load':<{wide}} {figures.load_ms:.0f} ms")
    latency = figures.latency_ms
    not_timed = "not measured: emulated, no such device here"
    print(f"  {'latency':<{wide}} {not_timed if latency is None else f'{latency:.2f} ms a sample'}")
    print(f"  {'run by':<{wide}} {figures.run_by}")
    print(f"  {'takes':<{wide}} {figures.input_text}, by {figures.input_by}")
    return 0
