"""Write the figures of README.md and docs/ from results files, and the schemas from the code; they are never typed.

python docs/readme_tables.py              rewrite the blocks between <!-- generated: NAME --> and <!-- end generated -->
                                          from docs/*-results.json, benchmarks/RESULTS.md,
                                          pyproject.toml and docs/listing.txt, the output of the command in LISTING;
                                          the map of CONTRIBUTING.md, docs/schema/, and the plot docs/cliff.svg
python docs/readme_tables.py --check      exit 1 when something would change
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import house

from mobconv import backends, recipe, results
from mobconv.common.text import size
from mobconv.evaluate.tasks import TASKS, Metric
from mobconv.gate import budget
from mobconv.report import charts, digest, drawing, gallery
from mobconv.results import Cliff, Results, Row
from mobconv.schemes import ALGORITHMS, DEFAULT_ALGORITHM, Mode

HERE = Path(__file__).parent
ROOT = HERE.parent
CLIFF = HERE / "cliff.svg"
END = "<!-- end generated -->"
MODES = ("linear", "symmetric", "kmeans")


def network(measured: Results) -> str:
    return (
        f"{measured.model['parameters']:,} parameters, {measured.model['quantizable_weights']:,} of them quantized; "
        f"float baseline {measured.metric.text(measured.float_score)} of {measured.data['samples']:,} held-out images."
    )


def grid(measured: Results) -> list[str]:
    """One table: a row for each width and mode packed by default, the formats side by side."""
    rows = [row for row in measured.cells if row.storage == "packed" and row.granularity != "oc16"]
    formats = list(dict.fromkeys(row.backend for row in rows))
    by_cell = {row.cell: row for row in rows}
    lines = [
        f"| scheme | {measured.metric.heading} | {' | '.join(f'{name} size' for name in formats)} "
        "| onnx latency | tflite latency |",
        "| --- | ---: |" + " ---: |" * (len(formats) + 2),
    ]
    for scheme in dict.fromkeys(row.scheme for row in rows):
        same = {name: by_cell[f"{name}/{scheme}"] for name in formats}
        lines.append(
            f"| {scheme} | {scores(same.values(), measured.metric)} | "
            + " | ".join(size(row.file_bytes) for row in same.values())
            + f" | {ratio(same.get('onnx'))} | {ratio(same.get('tflite'))} |"
        )
    return lines


def cliffs(measured: Results) -> list[str]:
    metric = measured.metric
    lines = [f"Where {metric.name} first {metric.worsens} {metric.beyond(measured.cliffs[0].margin)} the baseline:", ""]
    for mode in MODES:
        named = {c.backend: "none" if c.bits is None else f"{c.bits} bits" for c in packed(measured) if c.mode == mode}
        lines.append(f"- {mode}: " + ", ".join(f"{backend} {bits}" for backend, bits in named.items()))
    return lines


def packed(measured: Results) -> list[Cliff]:
    return [cliff for cliff in measured.cliffs if cliff.storage == "packed" and cliff.granularity != "oc16"]


def demo(measured: Results) -> list[str]:
    return [network(measured), "", *grid(measured), "", *cliffs(measured)]


def thesis(measured: Results) -> list[str]:
    return [network(measured), "", *beside_the_thesis(measured), "", *grid(measured), "", *cliffs(measured)]


def beside_the_thesis(measured: Results) -> list[str]:
    """Its two networks and ours. It quantized Core ML neuralnetwork files; so is ours in this table."""
    by_cell = {row.cell: row for row in measured.cells}

    def ours(scheme: str) -> str:
        row = by_cell[f"coreml-mlmodel/{scheme}"]
        return f"{size(row.file_bytes)}, {scores([row], measured.metric)} {measured.metric.unit}"

    fallen = {c.mode: c.bits for c in packed(measured) if c.backend == "coreml-mlmodel"}
    return [
        "| network and data | fp32 | 8 bits | 4 bits | cliff |",
        "| --- | ---: | ---: | ---: | --- |",
        "| the thesis: its network on CIFAR-10 | 9.1 MB | not given | 1.3 MB | 2 bits |",
        "| the thesis: its network on ImageNette | 24.7 MB | 6.3 MB | not given | 4 bits |",
        *(
            f"| ours on digits over photographs, {mode} (size, {measured.metric.name}) "
            f"| {ours('fp32')} | {ours(f'w8-{mode}')} | {ours(f'w4-{mode}')} | {fallen[mode]} bits |"
            for mode in MODES
        ),
    ]


def choices(measured: Results) -> list[str]:
    """Size and latency of packed, native and oc16 storage, for the widths that were measured."""
    by_cell = {row.cell: row for row in measured.cells}
    lines = [
        "The same weights packed, in the next width that each runtime reads by itself (`@native`), and with one scale "
        "or table for 16 channels (`oc16`): size and latency against fp32.",
        "",
        "| cell | packed | `@native` | `-oc16` |",
        "| --- | ---: | ---: | ---: |",
    ]
    for backend in dict.fromkeys(row.backend for row in measured.cells):
        if backend == "coreml-mlmodel":  # native at every width, and no groups of channels
            continue
        for bits in (5, 4, 3):
            for mode in ("linear", "kmeans"):
                name = f"{backend}/w{bits}-{mode}"
                shown = [both(by_cell.get(name + suffix)) for suffix in ("", "@native", "-oc16")]
                lines.append(f"| {name} | {' | '.join(text or 'not in the recipe' for text in shown)} |")
    return lines


def both(row: Row | None) -> str:
    if row is None:
        return ""
    if row.status != results.OK:
        return row.status
    latency = "" if row.latency_ratio is None else f", {ratio(row)}"
    wide = "" if row.stored_bits == row.bits else f", {row.stored_bits} bits"
    return f"{size(row.file_bytes)}{wide}{latency}"


def scores(rows: Iterable[Row], metric: Metric) -> str:
    """One figure where all formats agree, else the range."""
    values = sorted({metric.number(row.score) for row in rows if row.score is not None})
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"


def ratio(row: Row | None) -> str:
    return "-" if row is None or row.latency_ratio is None else f"{row.latency_ratio:.1f}x"


def speed() -> list[str]:
    """Latency of packed files over float ones, a row for each mode, from the tables of the benchmarks."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    lines = ["| packed / float | mode | 1 thread | 2 threads |", "| --- | --- | ---: | ---: |"]
    for name, shown, columns in (
        ("onnx_packed", "ONNX, 32x32", ["ratio"]),
        ("tflite_packed", "TFLite, 224x224", ["to float, 1 thread", "to float, 2 threads"]),
    ):
        rows = list(_rows(text.partition(f"<!-- {name} -->")[2].partition("<!-- end -->")[0]))
        for mode in MODES:
            spans = [_span([row for row in rows if row["mode"] == mode], column) for column in columns]
            lines.append(f"| {shown} | {mode} | {' | '.join([*spans, 'not measured'][:2])} |")
    lines += ["", "Each is the range over the widths from 8 bits to 1."]
    return lines


def _rows(section: str) -> Iterator[dict[str, str]]:
    """The rows of the table that begins with `bits`."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    start = next(number for number, line in enumerate(cells) if line[0] == "bits")
    for line in cells[start + 2 :]:
        yield dict(zip(cells[start], line, strict=True))


def _span(rows: list[dict[str, str]], column: str) -> str:
    ratios = sorted(float(row[column]) for row in rows)
    assert len(ratios) == 8
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}"


def versions(measured: Results) -> list[str]:
    """The versions with which the demo's files were built and run, and those that are admitted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    admitted = {"python": project["requires-python"]}
    for line in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        name = re.match(r"[\w-]+", line)
        if name and "[" not in line:
            admitted[name[0]] = line.removeprefix(name[0])
    tools = {name: version for name, version in measured.tools.items() if name != "mobconv"}
    lines = ["| package | run with | admitted |", "| --- | --- | --- |"]
    return [*lines, *(f"| {name} | {version} | {admitted[name]} |" for name, version in tools.items())]


LISTING = (
    "mobconv compare fixtures/digits-mobilenet-v2.safetensors out/listing/coreml/fp32.mlpackage \\\n"
    "    --data fixtures/digits-test.parquet --layers 3"
)


def listing() -> list[str]:
    """The output of recipes/thesis-listing.yaml."""
    printed = (HERE / "listing.txt").read_text().rstrip()
    run = ["$ mobconv sweep recipes/thesis-listing.yaml -o out/listing", f"$ {LISTING}"]
    return ["```console", *run, *(line.rstrip() for line in printed.splitlines()), "```"]


def algorithms() -> list[str]:
    """The algorithms of the grammar."""
    lines = ["| algorithm | what it does | needs | modes |", "| --- | --- | --- | --- |"]
    for name, algorithm in ALGORITHMS.items():
        default = " (default)" if name == DEFAULT_ALGORITHM else ""
        modes = "all" if set(algorithm.modes) == set(Mode) else ", ".join(algorithm.modes)
        lines.append(f"| `{name}`{default} | {algorithm.summary} | {algorithm.needs} | {modes} |")
    return lines


def calibrated(plain: Results, fitted: Results) -> list[str]:
    """Without calibration data and with it: a row for each width of the second, the three modes side by side."""
    metric = fitted.metric
    lines = [
        f"| bits (float: {metric.text(fitted.float_score)}) | linear | symmetric | k-means |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for bits in sorted({row.bits for row in fitted.cells if row.mode}, reverse=True):
        changes = []
        for mode in MODES:
            before, after = (
                scores((row for row in each.cells if row.scheme == f"w{bits}-{mode}{suffix}"), metric)
                for each, suffix in ((plain, ""), (fitted, "-gptq"))
            )
            changes.append(f"{before} -> **{after}**")
        lines.append(f"| {bits} | {' | '.join(changes)} |")
    return lines


def cliff() -> str:
    """The plot of the thesis's network. It ends with a hash of its specification: fonts differ between machines."""
    path = HERE / "thesis-results.json"
    numbers = digest.digest(results.read(path), None, path)
    panel = numbers.accuracy[0]
    heading = gallery.title(f"{numbers.metric.title} against bits", numbers, panel)
    spec = charts.accuracy(numbers, panel, title=heading)
    drawn = {name: value for name, value in spec.items() if name != "$schema"}
    mark = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
    if CLIFF.exists() and f"<!-- {mark} -->" in CLIFF.read_text():
        return CLIFF.read_text()
    return drawing.svg(spec).rstrip() + f"\n<!-- {mark} -->\n"


def blocks() -> dict[Path, dict[str, list[str]]]:
    """The lines between the markers of each file."""
    small, large = (results.read(HERE / f"{name}-results.json") for name in ("demo", "thesis"))
    fitted = results.read(HERE / "cliff-results.json")
    return {
        ROOT / "README.md": {"demo": demo(small), "calibrated": calibrated(large, fitted), "listing": listing()},
        ROOT / "CONTRIBUTING.md": {"house": house.house()},
        HERE / "bad-conversion.md": {"listing": listing()},
        HERE / "calibration.md": {"calibrated": calibrated(large, fitted)},
        HERE / "costs.md": {"choices": choices(large), "speed": speed()},
        HERE / "modes.md": {"algorithms": algorithms(), "cliffs": cliffs(large)},
        HERE / "support.md": {"versions": versions(small)},
        HERE / "thesis.md": {"thesis": thesis(large)},
    }


def schemas() -> dict[Path, str]:
    formats = {name: entry for name, entry in backends.formats().items() if name in backends.BUILT_IN}
    written = {"recipe": recipe.json_schema(formats, list(TASKS)), "budget": budget.json_schema()}
    return {
        HERE / "schema" / f"{name}.schema.json": json.dumps(each, indent=1) + "\n" for name, each in written.items()
    }


def filled(path: Path, written: dict[str, list[str]]) -> str:
    """The file with these blocks replaced. Raises ValueError where it has no such block."""
    text = path.read_text()
    for name, lines in written.items():
        head, begin, rest = text.partition(f"<!-- generated: {name} -->")
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{path} has no <!-- generated: {name} --> ... {END}")
        text = f"{head}{begin}\n" + "\n".join(lines) + f"\n{END}{tail}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        wanted = {path: filled(path, written) for path, written in blocks().items()} | schemas() | {CLIFF: cliff()}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        print(f"{path.relative_to(ROOT)} is {'out of date' if options.check else 'rewritten'}", file=sys.stderr)
        if not options.check:
            path.write_text(wanted[path])
    return int(options.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
