"""`mobconv export`: one scheme into one or more formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import (
    AsJson,
    InputShape,
    Model,
    ModelArg,
    PreprocessingOption,
    TrustPickle,
    load_checkpoint,
    say,
)


def command(
    checkpoint: Annotated[
        Path, typer.Argument(help=".safetensors, .pt, .pth (state dict), .pt2 (torch.export) or TorchScript")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="onnx,tflite,coreml", help="formats (see `mobconv backends`), with commas between"
        ),
    ],
    scheme: Annotated[
        str, typer.Option("--scheme", help="fp32, fp16 or w<bits>-<mode>, such as w4-kmeans or w4-linear@native")
    ] = "fp32",
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the files")] = Path("out"),
    compute: Annotated[
        str | None,
        typer.Option("--compute", metavar="fp32|fp16", help="default: fp16 for coreml, as Apple's; else fp32"),
    ] = None,
    takes: Annotated[
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
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> int:
    """Write a checkpoint as Core ML, TFLite or ONNX files, read each back, and print what it costs."""
    import json
    from dataclasses import asdict

    from mobconv.pipeline import export

    cells = export.cells(to, scheme, compute)
    if compute is None and any(cell.backend == "coreml" for cell in cells):
        say("coreml: the program computes in fp16, Apple's own default; --compute fp32 for full precision")
    loaded = load_checkpoint(checkpoint, model, model_arg, input_shape, preprocessing, trust_pickle)
    rows = export.export(loaded, cells, out, say, takes)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    from mobconv.cli import render
    from mobconv.results import tables

    console = render.console()
    console.print(render.exported(rows))
    console.print(
        "eff. bits: all that the weights add to the file, per weight; latency: one image on one thread, against the "
        "same format's fp32 file.",
        style="dim",
    )
    render.remarks(console, tables.remarks(rows))
    return 0
