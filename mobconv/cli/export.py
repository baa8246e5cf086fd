"""`mobconv export`: one scheme into one or more formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import (
    DATA,
    AsJson,
    HigherIsBetter,
    InputShape,
    Key,
    Labels,
    MetricOption,
    Model,
    ModelArg,
    Postprocess,
    PreprocessingOption,
    SkipBad,
    TaskOption,
    TrustPickle,
    Weights,
    load_checkpoint,
    say,
)
from mobconv.schemes import WEIGHTS_ONLY, syntax


def command(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help=".safetensors, .pt, .pth, .ckpt (state dict), .pt2 (torch.export) or TorchScript; a folder of "
            "save_pretrained; or hf:NAME, timm:NAME, torchvision:NAME"
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT,..", help="formats (see `mobconv backends`), with commas between"),
    ],
    scheme: Annotated[
        str, typer.Option("--scheme", help=f"{syntax()}. Such as w4-kmeans or w4-linear@native. {WEIGHTS_ONLY}")
    ] = "fp32",
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the files")] = Path("out"),
    compute: Annotated[
        str | None,
        typer.Option("--compute", metavar="fp32|fp16", help="precision that the program runs in; default: fp32"),
    ] = None,
    file_input: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="image|image-uint8|tensor",
            help="what the files take: pixels of 0 to 255, normalised inside (default where the network takes images), "
            "the same as bytes, or the network's own tensor",
        ),
    ] = None,
    model: Model = None,
    model_arg: ModelArg = None,
    input_shape: InputShape = None,
    preprocessing: PreprocessingOption = None,
    key: Key = None,
    weights: Weights = None,
    labels: Labels = None,
    data: Annotated[
        str | None, typer.Option("--data", help=f"{DATA}, to run the files on; default: random inputs, without labels")
    ] = None,
    limit: Annotated[int | None, typer.Option("--images", min=1, help="take the first so many images")] = None,
    skip_bad: SkipBad = False,
    task: TaskOption = None,
    metric: MetricOption = None,
    higher_is_better: HigherIsBetter = None,
    postprocess: Postprocess = None,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> int:
    """Write a checkpoint as Core ML, TFLite or ONNX files, read each back, and print what it costs.

    A file has the name of its cell, as in a sweep: the same name is the same file. Core ML programs compute in fp32
    unless fp16 is asked for (--compute fp16, or w4-kmeans@fp16); Apple's Neural Engine runs fp16 programs only.
    A format that cannot be written does not keep the others from it: exit code 4, or 5 for a failure.
    """
    import json
    from dataclasses import asdict

    from mobconv.evaluate import tasks
    from mobconv.pipeline import export
    from mobconv.pipeline.context import Plan

    the_task = tasks.get(task or "classification", metric, postprocess, higher_is_better)
    wanted = export.cells(to.split(","), scheme, compute)
    export.refused(wanted)
    loaded = load_checkpoint(
        checkpoint, model, model_arg, input_shape, preprocessing, trust_pickle, key, weights, labels
    )
    plan = Plan(data=data, limit=limit, skip_bad=skip_bad, name_classes=labels is None, task=the_task)
    rows = export.export_cells(loaded, wanted, out, say, file_input, plan)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        from mobconv.cli import render

        render.exported(rows, data, the_task.metric if data else None)
    if error := export.failure(rows):
        raise error
    return 0
