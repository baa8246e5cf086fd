"""Results to report on: those of the docs, a thousand rows made of them, and hostile values."""

import copy
import json
from pathlib import Path

import numpy as np

from mobconv.schemes import ALGORITHMS, Cell, Compute, Granularity, Mode, Scheme, Storage

DOCS = Path(__file__).parents[2] / "docs"
DEMO, THESIS = DOCS / "demo-results.json", DOCS / "thesis-results.json"
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'&amp;"


def load(path=THESIS):
    return json.loads(path.read_text())


def thousand():
    """The thesis's rows again under other granularities, algorithms and precisions, until there are 1,000."""
    content = load()
    rows = {row["cell"]: row for row in content["cells"]}
    shift = 0
    for compute in Compute:
        for algorithm, entry in ALGORITHMS.items():
            for granularity in Granularity:
                for storage in Storage:
                    shift += 1
                    for row in content["cells"]:
                        if row["mode"] not in entry.modes:
                            continue
                        scheme = Scheme(row["bits"], Mode(row["mode"]), granularity, algorithm)
                        cell = Cell(row["backend"], scheme, storage, compute)
                        if cell.name in rows or len(rows) == 1000:
                            continue
                        other = copy.deepcopy(row)
                        other |= {"cell": cell.name, "scheme": scheme.name, "granularity": granularity.value}
                        other |= {"algorithm": algorithm, "storage": storage.value, "compute": compute.value}
                        if other["score"] is not None:
                            other["score"] = max(5.0, other["score"] - 0.05 * shift)
                            other["file_bytes"] += 997 * shift
                        rows[cell.name] = other
    assert len(rows) == 1000
    content["cells"] = list(rows.values())
    return content


def hostile():
    """A real grid whose every text is a try to break out of the page; a row of each status has it in each place."""
    content = load(DEMO)
    content["cells"] = [row for row in content["cells"] if row["backend"] == "onnx"]
    content["model"]["path"] = content["data"]["source"] = HOSTILE
    content["tools"][HOSTILE] = HOSTILE
    content["notes"] = [HOSTILE]
    names = ("backend", "scheme", "mode", "granularity", "algorithm", "storage", "compute", "reason", "note")
    for row, status in zip(content["cells"][5:8], ("ok", "unsupported", "failed"), strict=True):
        row.update(dict.fromkeys((*names, "requires", "verified", "path", "sha256"), HOSTILE))
        row.update(cell=f"onnx/{HOSTILE}{status}", status=status)
    content["cliffs"][0] |= {"backend": HOSTILE, "mode": HOSTILE, "granularity": HOSTILE}
    return content


def write(folder, content, scored=False):
    """results.json in a folder; scored: with a scores.npz that gives each row its score."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    if scored:
        samples = content["data"]["samples"]
        arrays = {"groups": np.arange(samples, dtype=np.int32) // 6, "float": right(samples, content["float_score"])}
        arrays |= {row["cell"]: right(samples, row["score"]) for row in content["cells"] if row["score"] is not None}
        np.savez_compressed(folder / "scores.npz", **arrays)
    return folder


def right(samples, score):
    """Scores of 0 and 100 with this mean; a lower one is right on a part of the same images."""
    scores = np.full(samples, 100, np.float32)
    scores[np.random.default_rng(0).permutation(samples)[round(score / 100 * samples) :]] = 0
    return scores
