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
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="DATA",
            help="data that schemes such as w2-kmeans-gptq are fitted on: as --data, other images, without labels",
        ),
    ] = None,
    calibrate_images: Annotated[
        int | None,
        typer.Option("--calibrate-images", min=1, metavar="N", help="choose so many at random; default: 1024"),
    ] = None,
    calibrate_seed: Annotated[
        int | None, typer.Option("--calibrate-seed", min=0, metavar="N", help="seed of that choice; default: 0")
    ] = None,
    calibrate_split: Annotated[
        str | None,
        typer.Option(
            "--calibrate-split", metavar="NAME", help="split of the data; default: calibration, else train, validation"
        ),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="calibrate on images that are in --data too; the row says so")
    ] = False,
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

    from mobconv.data.chosen import CalibrationData
    from mobconv.evaluate import tasks
    from mobconv.pipeline import export
    from mobconv.pipeline.calibration_data import check_given
    from mobconv.pipeline.context import Plan

    the_task = tasks.get(task or "classification", metric, postprocess, higher_is_better)
    calibration = CalibrationData.of(calibrate, calibrate_images, calibrate_seed, calibrate_split, allow_leak)
    wanted = export.cells(to.split(","), scheme, compute)
    export.refused(wanted)
    check_given([cell.scheme for cell in wanted], calibration)
    loaded = load_checkpoint(
        checkpoint, model, model_arg, input_shape, preprocessing, trust_pickle, key, weights, labels
    )
    plan = Plan(
        data=data,
        limit=limit,
        skip_bad=skip_bad,
        name_classes=labels is None,
        task=the_task,
        calibration=calibration,
    )
    rows = export.export_cells(loaded, wanted, out, say, file_input, plan)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        from mobconv.cli import render

        render.exported(rows, data, the_task.metric if data else None)
    if error := export.failure(rows):
        raise error
    return 0
