"""A second sweep makes what is missing or changed, and nothing else; and it says so."""

import json
import shutil

import numpy as np
import pytest
import torch
from killing import artifacts, outcome, partial, stamps
from safetensors.torch import save_file
from support import DATA

from mobconv import backends, results
from mobconv.common.files import sha256

PLAN = {
    "checkpoint": "net.safetensors",
    "model": "user_nets:tiny",
    "arguments": {"classes": 10},
    "input_shape": [1, 3, 32, 32],
    "preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3},
    "data": str(DATA),
    "images": 16,
    "threads": 1,
    "backends": ["onnx", "coreml-mlmodel"],
    "schemes": ["fp32", "w4-kmeans"],
}
ALL = ["onnx/fp32", "onnx/w4-kmeans", "coreml-mlmodel/fp32", "coreml-mlmodel/w4-kmeans"]
KEPT = "4 of 4 cells are as they were; nothing to make (--fresh rebuilds everything)"


def checkpoint(folder, seed=0):
    import user_nets

    torch.manual_seed(seed)
    save_file(user_nets.tiny(classes=10).state_dict(), folder / "net.safetensors")


class Folder:
    """A user's folder with a recipe, and what a sweep there encoded."""

    def __init__(self, cli, monkeypatch):
        from mobconv import backends

        self.cli, self.path, self.out = cli, cli.folder, cli.folder / "out"
        self.encoded, self.broken = [], {}
        for name in ("onnx", "coreml-mlmodel"):
            kind = type(backends.get(name))
            monkeypatch.setattr(kind, "encode", self._counting(kind.encode))

    def _counting(self, real):
        def encode(backend, template, model, cell, path, record=""):
            if record:  # else the float file of a template
                self.encoded.append(cell.name)
                if cell.name in self.broken:
                    raise RuntimeError(self.broken[cell.name])
            return real(backend, template, model, cell, path, record)

        return encode

    def sweep(self, *more, code=0, **changed):
        """Sweep -> the cells that were encoded, what was said, and the rows."""
        (self.path / "job.yaml").write_text(json.dumps(PLAN | changed))
        self.encoded.clear()
        got, _, err = self.cli("sweep", "job.yaml", "-o", "out", *more)
        assert got == code, err
        assert partial(self.out) == []
        found = results.read(self.out / "results.json")
        for row in found.cells:
            assert row.status != "ok" or sha256(self.out / row.path) == row.sha256
        return sorted(self.encoded, key=ALL.index), err, {row.cell: row for row in found.cells}

    def sweep_only_counted(self, changed):
        """Sweep a recipe whose cells are not those of the others."""
        (self.path / "job.yaml").write_text(json.dumps(PLAN | changed))
        self.encoded.clear()
        assert self.cli("sweep", "job.yaml", "-o", "out")[0] == 0


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder once swept, to be copied: (folder, ) made by the first test that asks."""
    return tmp_path_factory.mktemp("swept")


@pytest.fixture
def there(cli, monkeypatch, swept):
    """A folder with a whole sweep in it."""
    held = Folder(cli, monkeypatch)
    checkpoint(cli.folder)
    if not (swept / "out").exists():
        encoded, _, rows = held.sweep()
        assert encoded == ALL and list(rows) == ALL
        shutil.copytree(held.out, swept / "out")
    else:
        shutil.copytree(swept / "out", held.out)
    return held


def test_nothing_changed_nothing_made(there):
    before, files, held = outcome(there.out), stamps(there.out, ALL), (there.out / "results.json").stat().st_mtime_ns
    encoded, said, rows = there.sweep()
    assert encoded == [] and KEPT in said and list(rows) == ALL
    assert outcome(there.out) == before and stamps(there.out, ALL) == files
    assert (there.out / "results.json").stat().st_mtime_ns == held


LAYERS = [{"match": "0.weight", "bits": 8}]


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        ({"margin": 9}, []),
        ({"schemes": ["w4-kmeans", "fp32"], "backends": ["coreml-mlmodel", "onnx"]}, []),
        ({"layers": [{"match": "*", "bits": 4}]}, []),  # as they apply: w4 stays w4, and fp32 has no rules
        ({"layers": LAYERS, "backends": ["onnx"]}, ["onnx/w4-kmeans"]),
    ],
    ids=["margin", "order", "rules without effect", "rules"],
)
def test_what_a_recipe_changes_is_made_again(there, changed, made):
    there.sweep_only_counted(changed)
    assert there.encoded == made


def test_what_a_key_is_made_of(there):
    """Each of these is another cell; none is told by the others."""
    from dataclasses import replace

    from mobconv import recipe
    from mobconv.schemes import Cell
    from mobconv.sweep import Job, keys
    from mobconv.sweep.store import Store

    (there.path / "job.yaml").write_text(json.dumps(PLAN))
    job = Job.of(recipe.load(there.path / "job.yaml", backends.formats()))
    baseline = Store(there.out).baseline(keys.inputs(job).baseline)
    assert baseline is not None and baseline.sites == ["0.weight", "5.weight"]

    def key(seen=baseline, name="onnx/w4-kmeans", **changed):
        (there.path / "job.yaml").write_text(json.dumps(PLAN | changed))
        job = Job.of(recipe.load(there.path / "job.yaml", backends.formats()))
        return keys.cell(keys.inputs(job), seen, job, Cell.parse(name))

    assert key() == key() == key(margin=9) == key(schemes=["w4-kmeans"])
    options = {"coreml": {"image_type": {"scale": "2/255", "bias": [-1, -1, -1]}}}
    found = [
        key(),
        key(name="onnx/w4-linear"),
        key(name="coreml-mlmodel/w4-kmeans"),
        key(seen=replace(baseline, data_sha256="of other images")),
        key(arguments={"classes": 10, "width": 8}),
        key(model="user_nets:other"),
        key(input_shape=[1, 3, 16, 16]),
        key(preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3}),
        key(layers=LAYERS),
        key(input="tensor"),
        key(name="coreml/w4-kmeans", backends=["coreml"]),
        key(name="coreml/w4-kmeans", backends=["coreml"], options=options),
        key(threads=2),
    ]
    content = bytearray((there.path / "net.safetensors").read_bytes())
    content[-1] ^= 1
    (there.path / "net.safetensors").write_bytes(content)
    found.append(key())
    (there.path / "user_nets.py").write_text((there.path / "user_nets.py").read_text() + "# changed")
    found.append(key())
    assert len(set(found)) == len(found)


def test_tools_and_our_own_code_are_in_a_key(there, monkeypatch):
    from mobconv import backends
    from mobconv.sweep import keys, source_hash

    (there.path / "job.yaml").write_text(json.dumps(PLAN))

    def sweep(backend):
        there.sweep_only_counted({"backends": [backend]})
        return there.encoded

    kind = type(backends.get("onnx"))
    real = kind.versions
    monkeypatch.setattr(kind, "versions", lambda self: real(self) | {"onnxruntime": "99"})
    assert sweep("coreml-mlmodel") == [] and sweep("onnx") == ["onnx/fp32", "onnx/w4-kmeans"]
    monkeypatch.setattr(kind, "versions", real)
    real_hash = source_hash.of_mobconv
    monkeypatch.setattr(source_hash, "of_mobconv", lambda name=None: "edited" if name == "onnx" else real_hash(name))
    assert sweep("coreml-mlmodel") == [] and sweep("onnx") == ["onnx/fp32", "onnx/w4-kmeans"]
    real_tools = keys._versions
    monkeypatch.setattr(keys, "_versions", lambda *names: real_tools(*names) | {"torch": "99"})
    assert sweep("onnx") == ["onnx/fp32", "onnx/w4-kmeans"]


def test_another_weight_and_other_code_leave_no_old_row(there):
    import sys

    old = outcome(there.out)
    checkpoint(there.path, seed=1)
    encoded, said, rows = there.sweep()
    assert encoded == ALL and "as they were" not in said
    digest = sha256(there.path / "net.safetensors")
    assert json.loads((there.out / "results.json").read_text())["model"]["sha256"] == digest
    assert all(rows[cell].sha256 != old[1][cell] for cell in ALL)
    code = there.path / "user_nets.py"
    code.write_text(code.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    sys.modules.pop("user_nets")  # a second command is another process
    shutil.rmtree(there.path / "__pycache__", ignore_errors=True)
    encoded, _, rows = there.sweep()
    assert encoded == ALL


def test_an_altered_or_missing_artifact_is_made_again(there):
    before, held = outcome(there.out), artifacts(there.out)
    content = bytearray(held["onnx/fp32"].read_bytes())
    content[-1] ^= 1
    held["onnx/fp32"].write_bytes(content)
    held["coreml-mlmodel/w4-kmeans"].unlink()
    encoded, said, _ = there.sweep()
    assert encoded == ["onnx/fp32", "coreml-mlmodel/w4-kmeans"]
    assert "2 of 4 cells are as they were; 2 to make" in said and "[3/4]" in said and "[4/4]" in said
    assert outcome(there.out) == before


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", None], ids=["empty", "torn", "missing"])
def test_a_record_that_is_not_whole_counts_for_nothing(there, damage):
    path = there.out / ".cells" / "onnx" / "fp32.npz"
    path.unlink() if damage is None else path.write_bytes(damage)
    before = outcome(there.out)
    assert there.sweep()[0] == ["onnx/fp32"]
    assert outcome(there.out) == before


def test_only_keeps_the_rows_of_other_cells_that_still_hold(there):
    before = outcome(there.out)
    artifacts(there.out)["onnx/w4-kmeans"].write_bytes(b"not it")
    encoded, said, rows = there.sweep("--only", "coreml-mlmodel/*")
    assert encoded == [] and "2 of 2 cells are as they were" in said
    assert list(rows) == [cell for cell in ALL if cell != "onnx/w4-kmeans"]
    encoded, _, rows = there.sweep("--only", "onnx/*")
    assert encoded == ["onnx/w4-kmeans"] and list(rows) == ALL and outcome(there.out) == before


def test_fresh_with_only_keeps_the_rows_of_the_others(there):
    there.sweep()
    encoded, said, rows = there.sweep("--only", "onnx/w4-kmeans", "--fresh")
    assert encoded == ["onnx/w4-kmeans"] and "convert to onnx" in said
    assert list(rows) == ALL
    assert KEPT in there.sweep()[1]


def test_rows_that_no_longer_hold_are_told(there):
    there.sweep()
    encoded, said, rows = there.sweep("--only", "onnx/fp32", images=8)
    assert encoded == ["onnx/fp32"] and list(rows) == ["onnx/fp32"]
    assert "rows of 3 other cells are no longer valid and are left out: onnx/w4-kmeans, coreml-mlmodel/fp32" in said


def test_files_of_another_recipe_are_told(there):
    there.sweep()
    _, said, rows = there.sweep(schemes=["fp32", "w3-kmeans@native"], backends=["onnx"])
    assert "has 3 files of another recipe, in no row of this one: coreml-mlmodel/fp32, coreml-mlmodel/w4-kmeans" in said
    assert set(rows) == {"onnx/fp32", "onnx/w3-kmeans@native"}


def test_a_cell_that_cannot_be_leaves_nothing_to_make(there):
    plan = {"backends": ["onnx"], "schemes": ["fp32", "w4-kmeans@native"]}  # ONNX has no type for tables
    assert there.sweep(**plan)[2]["onnx/w4-kmeans@native"].status == "unsupported"
    assert "1 of 1 cells are as they were; nothing to make" in there.sweep(**plan)[1]


def test_fresh_makes_everything_anew(there):
    before = outcome(there.out)
    encoded, said, _ = there.sweep("--fresh")
    assert encoded == ALL and "as they were" not in said and outcome(there.out) == before


def test_cells_that_failed_are_tried_again_and_others_are_not(there):
    there.broken["onnx/w4-kmeans"] = "no room"
    artifacts(there.out)["onnx/w4-kmeans"].unlink()
    encoded, _, rows = there.sweep(code=5)
    assert encoded == ["onnx/w4-kmeans"] and rows["onnx/w4-kmeans"].reason == "RuntimeError: no room"
    # not asked for, it is still a row that failed
    _, _, rows = there.sweep("--only", "coreml-mlmodel/*")
    assert rows["onnx/w4-kmeans"].status == "failed" and len(rows) == 4
    there.broken.clear()
    encoded, said, rows = there.sweep()
    assert encoded == ["onnx/w4-kmeans"] and "3 of 4 cells are as they were; 1 to make" in said
    assert {row.status for row in rows.values()} == {"ok"}


def test_results_are_withdrawn_before_their_files_change(there, monkeypatch):
    """Stopped midway, a folder does not say what its older results said of files that are others by now."""
    from mobconv.sweep.store import Store

    real = Store.put

    def put(store, cell, record, made=None):
        assert not (there.out / "results.json").exists()
        real(store, cell, record, made)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "put", put)
    checkpoint(there.path, seed=1)
    (there.path / "job.yaml").write_text(json.dumps(PLAN))
    code, _, err = there.cli("sweep", "job.yaml", "-o", "out")
    assert code == 130 and "0 of 4 cells are done, and kept; the same command goes on from there" in err
    assert not (there.out / "results.json").exists()
    monkeypatch.setattr(Store, "put", real)
    encoded, said, _ = there.sweep()
    assert (
        encoded == [cell for cell in ALL if cell != "onnx/fp32"] and "1 of 4 cells are as they were; 3 to make" in said
    )


def test_what_a_killed_writer_left_goes_and_what_is_the_users_stays(there):
    left = [
        ".results.json.4711.partial",
        "onnx/.w4-kmeans.onnx.4711.partial",
        "coreml/.fp32.mlpackage.partial-4711/Manifest.json",
        "coreml/.fp32.mlpackage.old-4711/Manifest.json",
        ".templates/.onnx-fp32-0123.4711.partial/template.onnx",
        ".cells/onnx/.fp32.npz.4711.partial",
        ".cells/making/0123/w4-kmeans.onnx",
    ]
    mine = [".partial", "notes.partial", "onnx/mine.onnx", "mine/.x.4711.partial"]
    for name in (*left, *mine):
        (there.out / name).parent.mkdir(parents=True, exist_ok=True)
        (there.out / name).write_text("x")
    (there.path / "job.yaml").write_text(json.dumps(PLAN))
    code, _, _ = there.cli("sweep", "job.yaml", "-o", "out")
    assert code == 0
    assert [name for name in left if (there.out / name).exists()] == []
    assert [name for name in mine if not (there.out / name).exists()] == []


def test_a_folder_in_use_is_refused(there):
    from mobconv.common import locks

    (there.path / "job.yaml").write_text(json.dumps(PLAN))
    before = outcome(there.out)
    with locks.folder(there.out, "mobconv sweep"):
        code, _, err = there.cli("sweep", "job.yaml", "-o", "out", "--fresh")
        assert code == 6 and "in use by mobconv sweep, process" in err
    exported = there.path / "exported"
    exported.mkdir()
    export = (
        "export", "net.safetensors", "--model", "user_nets:tiny", "--model-arg", "classes=10", "--input-shape",
        "1,3,32,32", "--to", "onnx", "-o",
    )  # fmt: skip
    with locks.folder(exported, "mobconv export"):
        code, _, err = there.cli(*export, "exported")
        assert code == 6 and "in use by mobconv export, process" in err
    code, _, err = there.cli(*export, "out")
    assert code == 2 and "out is the folder of a sweep" in err
    assert outcome(there.out) == before and list(exported.iterdir()) == []


def test_a_whole_module_is_never_taken_for_the_same(there):
    """Its code is found by unpickling only: nothing tells whether it changed."""
    import user_nets

    torch.save(user_nets.tiny(classes=10), there.path / "whole.pt")
    changed = {"checkpoint": "whole.pt", "model": None, "arguments": {}, "backends": ["onnx"], "schemes": ["fp32"]}
    for _ in range(2):
        encoded, said, _ = there.sweep("--trust-pickle", **changed)
        assert encoded == ["onnx/fp32"] and "its code cannot be followed" in said


def test_a_factory_beside_the_recipe(there):
    """It is imported, and what it is made of is part of the key."""
    from mobconv import recipe
    from mobconv.sweep import Job, keys

    folder = there.path / "recipes"
    folder.mkdir()
    (there.path / "user_nets.py").rename(folder / "nets_beside.py")
    changed = {"checkpoint": "../net.safetensors", "model": "nets_beside:tiny", "backends": "onnx", "schemes": "fp32"}
    (folder / "job.yaml").write_text(json.dumps(PLAN | changed))
    code, _, err = there.cli("sweep", "recipes/job.yaml", "-o", "beside")
    assert code == 0, err

    def code_of():
        return keys.inputs(Job.of(recipe.load(folder / "job.yaml", backends.formats()), beside=folder)).code

    before = code_of()
    assert before == code_of()
    (folder / "nets_beside.py").write_text((folder / "nets_beside.py").read_text() + "# changed\n")
    assert code_of() != before


def test_scores_are_those_of_the_files(there):
    there.sweep("--only", "onnx/*")
    with np.load(there.out / "scores.npz") as archive:
        assert archive.files == ["groups", "float", *ALL]


def test_data_of_the_hub_is_told_by_its_pixels(there, monkeypatch):
    """It is loaded every time, since only that tells whether it changed; nothing else is done again."""
    from dataclasses import replace

    from mobconv.data import labelled

    real, other = labelled.load, []

    def load(source, *arguments):
        found = real(str(DATA), *arguments)
        return replace(found, source=source, sha256="other" if other else found.sha256)

    monkeypatch.setattr(labelled, "load", load)
    encoded, said, _ = there.sweep(data="someone/digits")
    assert encoded == [] and KEPT in said
    other.append(True)
    assert there.sweep(data="someone/digits")[0] == ALL


def test_a_baseline_that_only_guesses_is_said_each_time(there):
    _, err, _ = there.sweep()
    warning = "no more than guessing among 10 classes: mean and std"
    assert warning in err and warning in (there.out / "results.md").read_text()
    (note,) = json.loads((there.out / "results.json").read_text())["notes"]
    assert warning in note
