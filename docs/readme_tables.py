"""Write the tables of the README from a results file: figures there are generated, never typed.

python docs/readme_tables.py docs/demo-results.json            rewrite README.md
python docs/readme_tables.py docs/demo-results.json --check    exit 1 when it would change
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mobconv import results
from mobconv.report import tables
from mobconv.results import Results, Row

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- generated: demo -->", "<!-- end generated -->"
MODES = ("linear", "symmetric", "kmeans")


def block(found: Results) -> str:
    """One table: a row for each width and mode, the formats side by side."""
    backends = list(dict.fromkeys(row.backend for row in found.cells))
    by_cell = {row.cell: row for row in found.cells}
    lines = [
        f"{found.model['parameters']:,} parameters, {found.model['quantizable_weights']:,} of them quantized; "
        f"float baseline {found.float_top1 * 100:.2f} % of {found.data['images']:,} held-out images.",
        "",
        f"| scheme | top-1 % | {' | '.join(f'{name} size' for name in backends)} | onnx latency | tflite latency |",
        "| --- | ---: |" + " ---: |" * (len(backends) + 2),
    ]
    schemes = list(dict.fromkeys(row.scheme for row in found.cells))
    for scheme in schemes:
        rows = {name: by_cell[f"{name}/{scheme}"] for name in backends}
        lines.append(
            f"| {scheme} | {_top1(list(rows.values()))} | "
            + " | ".join(tables.size(row.file_bytes) for row in rows.values())
            + f" | {_ratio(rows.get('onnx'))} | {_ratio(rows.get('tflite'))} |"
        )
    lines += ["", "Where top-1 first falls more than " + f"{found.cliffs[0].margin:g} points below the baseline:", ""]
    for mode in MODES:
        named = {c.backend: "none" if c.bits is None else f"{c.bits} bits" for c in found.cliffs if c.mode == mode}
        lines.append(f"- {mode}: " + ", ".join(f"{backend} {bits}" for backend, bits in named.items()))
    return "\n".join(lines)


def _top1(rows: list[Row]) -> str:
    """One figure where all formats agree, else the range."""
    values = sorted({f"{row.top1 * 100:.2f}" for row in rows if row.top1 is not None})
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _ratio(row: Row | None) -> str:
    return "-" if row is None or row.latency_ratio is None else f"{row.latency_ratio:.1f}x"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = README.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        print(f"README.md has no {BEGIN} ... {END}", file=sys.stderr)
        return 1
    new = f"{head}{BEGIN}\n{block(results.read(options.results))}\n{END}{tail}"
    if options.check:
        return int(new != text)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
