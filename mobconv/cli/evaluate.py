"""`mobconv evaluate`: measure one artifact, read from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import AsJson, PreprocessingOption, preprocessing_from, say


def command(
    artifact: Annotated[Path, typer.Argument(help="an .onnx, .tflite, .mlpackage or .mlmodel, ours or not")],
    data: Annotated[str, typer.Option("--data", help="parquet file, folder of images by class, or hub name")],
    limit: Annotated[int | None, typer.Option("--images", min=1, help="take the first so many images")] = None,
    preprocessing: PreprocessingOption = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="threads of the runtime; 0 for all cores")] = 0,
    as_json: AsJson = False,
) -> int:
    """Accuracy, size and latency of one artifact on labelled images."""
    import json
    import time

    from mobconv import backends
    from mobconv.backends.size_audit import record_of
    from mobconv.common import files
    from mobconv.data import labelled as datasets
    from mobconv.errors import BackendError, InputError
    from mobconv.evaluate import inference, input_spec, latency
    from mobconv.evaluate.tasks import classification

    if not artifact.exists():
        raise InputError(f"{artifact}: no such file or folder")
    backend = backends.for_path(artifact)
    missing = backend.missing()
    if missing:
        raise BackendError(missing)
    backend.open(artifact, threads).close()  # the first time imports the runtime, which is no matter of the file
    start = time.perf_counter()
    runner = backend.open(artifact, threads)
    load_ms = (time.perf_counter() - start) * 1e3
    record = record_of(runner.record, artifact)
    takes = input_spec.expected(runner, artifact, preprocessing_from(preprocessing))
    images = datasets.load(data, limit, takes.preprocessing.fit)
    spec = runner.inputs[0]
    input_spec.check_shape(images.pixels, images.source, takes.preprocessing, spec, str(artifact))
    feed = input_spec.feed(takes.preprocessing, spec)
    outputs = inference.predict(inference.of_runner(runner, feed), images.pixels)
    classification.check_labels(images, outputs.shape[1])
    doubt = classification.check_names(images, runner.labels or tuple(record.get("labels", ())), str(artifact))
    if doubt:
        say(f"warning: {doubt}")
    right = classification.accuracy(outputs, images.labels)
    timing = None if runner.verified == "emulated" else latency.latency(runner, runner, feed(images.pixels[:1]))
    found = {
        "artifact": str(artifact),
        "cell": record.get("cell"),
        "images": len(images),
        "top1": right.top1,
        "top5": right.top5,
        "file_bytes": files.size(artifact),
        "latency_ms": timing.ms if timing else None,
        "load_ms": load_ms,
        "verified": runner.verified,
        "input": takes.preprocessing.to_json(),
        "input_by": takes.source,
    }
    runner.close()
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    from mobconv.results.tables import plural, size

    print(f"{artifact} ({found['cell'] or 'not made by mobconv'})")
    print(f"  top-1    {right.top1 * 100:.2f} %  of {plural(len(images), 'image')}")
    print(f"  top-5    {right.top5 * 100:.2f} %")
    print(f"  size     {size(files.size(artifact))}")
    print(f"  load     {load_ms:.0f} ms")
    print(
        f"  latency  {timing.ms:.2f} ms an image"
        if timing
        else "  latency  not measured: emulated, no such device here"
    )
    print(f"  run by   {_RUN_BY[runner.verified]}")
    print(f"  takes    {input_spec.told(takes.preprocessing, spec)}, by {takes.source}")
    return 0


_RUN_BY = {
    "runtime": "the format's own runtime",
    "emulated": "mobconv's own executor of Core ML files (emulated)",
    "macos": "Core ML on this Mac",
}
