"""Write the tables of the README from results files: figures there are generated, never typed.

python docs/readme_tables.py              rewrite README.md from docs/demo-results.json, docs/thesis-results.json and
                                          docs/listing.txt, which is what the command in LISTING printed; draw
                                          docs/cliff.svg
python docs/readme_tables.py --check      exit 1 when it would change
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mobconv import results
from mobconv.report import charts, digest, drawing, gallery, tables
from mobconv.results import Cliff, Results, Row

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
CLIFF = HERE / "cliff.svg"
END = "<!-- end generated -->"
MODES = ("linear", "symmetric", "kmeans")


def network(found: Results) -> str:
    return (
        f"{found.model['parameters']:,} parameters, {found.model['quantizable_weights']:,} of them quantized; "
        f"float baseline {found.float_top1 * 100:.2f} % of {found.data['images']:,} held-out images."
    )


def grid(found: Results) -> list[str]:
    """One table: a row for each width and mode packed by default, the formats side by side."""
    rows = [row for row in found.cells if row.storage == "packed" and row.granularity != "oc16"]
    backends = list(dict.fromkeys(row.backend for row in rows))
    by_cell = {row.cell: row for row in rows}
    lines = [
        f"| scheme | top-1 % | {' | '.join(f'{name} size' for name in backends)} | onnx latency | tflite latency |",
        "| --- | ---: |" + " ---: |" * (len(backends) + 2),
    ]
    for scheme in dict.fromkeys(row.scheme for row in rows):
        same = {name: by_cell[f"{name}/{scheme}"] for name in backends}
        lines.append(
            f"| {scheme} | {top1(same.values())} | "
            + " | ".join(tables.size(row.file_bytes) for row in same.values())
            + f" | {ratio(same.get('onnx'))} | {ratio(same.get('tflite'))} |"
        )
    return lines


def cliffs(found: Results) -> list[str]:
    lines = [f"Where top-1 first falls more than {found.cliffs[0].margin:g} points below the baseline:", ""]
    for mode in MODES:
        named = {c.backend: "none" if c.bits is None else f"{c.bits} bits" for c in packed(found) if c.mode == mode}
        lines.append(f"- {mode}: " + ", ".join(f"{backend} {bits}" for backend, bits in named.items()))
    return lines


def packed(found: Results) -> list[Cliff]:
    return [cliff for cliff in found.cliffs if cliff.storage == "packed" and cliff.granularity != "oc16"]


def demo(found: Results) -> list[str]:
    return [network(found), "", *grid(found), "", *cliffs(found)]


def thesis(found: Results) -> list[str]:
    return [network(found), "", *beside_the_thesis(found), "", *grid(found), "", *cliffs(found), "", *choices(found)]


def beside_the_thesis(found: Results) -> list[str]:
    """Its two networks and ours. It quantized Core ML neuralnetwork files; so is ours in this table."""
    by_cell = {row.cell: row for row in found.cells}

    def ours(scheme: str) -> str:
        row = by_cell[f"coreml-mlmodel/{scheme}"]
        return f"{tables.size(row.file_bytes)}, {top1([row])} %"

    fallen = {c.mode: c.bits for c in packed(found) if c.backend == "coreml-mlmodel"}
    return [
        "| network and data | fp32 | 8 bits | 4 bits | cliff |",
        "| --- | ---: | ---: | ---: | --- |",
        "| the thesis: its network on CIFAR-10 | 9.1 MB | not given | 1.3 MB | 2 bits |",
        "| the thesis: its network on ImageNette | 24.7 MB | 6.3 MB | not given | 4 bits |",
        *(
            f"| ours on digits over photographs, {mode} (size, top-1) "
            f"| {ours('fp32')} | {ours(f'w8-{mode}')} | {ours(f'w4-{mode}')} | {fallen[mode]} bits |"
            for mode in MODES
        ),
    ]


def choices(found: Results) -> list[str]:
    """What native storage and granularity oc16 change, for the widths that were measured."""
    by_cell = {row.cell: row for row in found.cells}
    lines = [
        "The same weights packed, in the next width that each runtime reads by itself (`@native`), and with one scale "
        "or table for 16 channels (`oc16`): size and latency against fp32.",
        "",
        "| cell | packed | `@native` | `-oc16` |",
        "| --- | ---: | ---: | ---: |",
    ]
    for backend in dict.fromkeys(row.backend for row in found.cells):
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
    return f"{tables.size(row.file_bytes)}{wide}{latency}"


def top1(rows: Iterable[Row]) -> str:
    """One figure where all formats agree, else the range."""
    values = sorted({f"{row.top1 * 100:.2f}" for row in rows if row.top1 is not None})
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"


def ratio(row: Row | None) -> str:
    return "-" if row is None or row.latency_ratio is None else f"{row.latency_ratio:.1f}x"


BLOCKS: dict[str, Callable[[Results], list[str]]] = {"demo": demo, "thesis": thesis}
LISTING = (
    "mobconv compare fixtures/digits-mobilenet-v2.safetensors out/listing/coreml/fp32.mlpackage \\\n"
    "    --data fixtures/digits-test.parquet --layers 3"
)


def listing() -> list[str]:
    """The run of recipes/thesis-listing.yaml, as it was printed."""
    printed = (HERE / "listing.txt").read_text().rstrip()
    run = ["$ mobconv sweep recipes/thesis-listing.yaml -o out/listing", f"$ {LISTING}"]
    return ["```console", *run, *(line.rstrip() for line in printed.splitlines()), "```"]


def cliff() -> str:
    """The plot of the thesis's network. It ends with a hash of its specification: fonts differ between machines."""
    path = HERE / "thesis-results.json"
    told = digest.digest(results.read(path), None, path)
    spec = charts.accuracy(told, told.accuracy[0], title=gallery.title("Top-1 against bits", told, told.accuracy[0]))
    drawn = {name: value for name, value in spec.items() if name != "$schema"}
    mark = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
    if CLIFF.exists() and f"<!-- {mark} -->" in CLIFF.read_text():
        return CLIFF.read_text()
    return drawing.svg(spec).rstrip() + f"\n<!-- {mark} -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = new = README.read_text()
    written = {name: write(results.read(HERE / f"{name}-results.json")) for name, write in BLOCKS.items()}
    for name, lines in {**written, "listing": listing()}.items():
        head, begin, rest = new.partition(f"<!-- generated: {name} -->")
        _, end, tail = rest.partition(END)
        if not begin or not end:
            print(f"README.md has no <!-- generated: {name} --> ... {END}", file=sys.stderr)
            return 1
        new = f"{head}{begin}\n" + "\n".join(lines) + f"\n{END}{tail}"
    drawn = cliff()
    if options.check:
        return int(new != text or not CLIFF.exists() or drawn != CLIFF.read_text())
    README.write_text(new)
    CLIFF.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
