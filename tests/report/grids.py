"""Results to report on: those of the docs, a thousand rows made of them, and values that are no one's friend."""

import copy
import json
from pathlib import Path

import numpy as np

from mobconv.schemes import Algorithm, Cell, Compute, Granularity, Mode, Scheme, Storage

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
        for algorithm in Algorithm:
            for granularity in Granularity:
                for storage in Storage:
                    shift += 1
                    for row in content["cells"]:
                        if row["mode"] is None or (row["mode"] == "kmeans" and algorithm is Algorithm.MINMAX):
                            continue
                        scheme = Scheme(row["bits"], Mode(row["mode"]), granularity, algorithm)
                        cell = Cell(row["backend"], scheme, storage, compute)
                        if cell.name in rows or len(rows) == 1000:
                            continue
                        other = copy.deepcopy(row)
                        other |= {"cell": cell.name, "scheme": scheme.name, "granularity": granularity.value}
                        other |= {"algorithm": algorithm.value, "storage": storage.value, "compute": compute.value}
                        if other["top1"] is not None:
                            other["top1"] = max(0.05, other["top1"] - 0.0005 * shift)
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


def write(folder, content, predicted=False):
    """results.json in a folder; predicted: with predictions.npz that give each row its top-1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    if predicted:
        images = content["data"]["images"]
        labels = np.arange(images) % 10
        held = {"labels": labels, "groups": np.arange(images) // 6, "float": right(labels, content["float_top1"])}
        held |= {row["cell"]: right(labels, row["top1"]) for row in content["cells"] if row["top1"] is not None}
        np.savez_compressed(folder / "predictions.npz", **{name: each.astype(np.int32) for name, each in held.items()})
    return folder


def right(labels, top1):
    """Predictions of that top-1; those of a lower one are right on a part of the same images."""
    found = labels.copy()
    wrong = np.random.default_rng(0).permutation(len(labels))[round(top1 * len(labels)) :]
    found[wrong] = (found[wrong] + 1) % 10
    return found
