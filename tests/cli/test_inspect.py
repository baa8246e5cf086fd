"""`mobconv inspect` as people and scripts call it."""

import json
import shutil

import pytest
import vendor_files as vendor

from mobconv import backends
from mobconv.backends.base import Auditable
from mobconv.cli import render
from mobconv.common import files

CELLS = {"onnx": "w4-kmeans", "tflite": "w4-linear", "coreml": "w4-linear@fp16", "coreml-mlmodel": "w4-kmeans"}
SUFFIXES = [backends.get(name).suffix for name in CELLS]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    return {name: vendor.ours(f"{name}/{scheme}", folder)[0] for name, scheme in CELLS.items()}


@pytest.mark.parametrize("name", list(CELLS))
def test_text(cli, made, name):
    code, out, err = cli("inspect", made[name])
    assert code == 0 and err == ""
    size = files.size(made[name])
    assert f"({size:,} bytes)" in out and f"mobconv, as {name}/{CELLS[name]}" in out
    assert "takes   image: 1 x 3 x 8 x 8 float" in out and "gives   logits: 1 x 10 float" in out
    assert "5 tensors" in out and "asked 4 bits:" in out and "effective bits, as in a sweep: " in out
    (last,) = [line.split() for line in out.splitlines() if line.startswith("size on disk")]
    assert last[3] == f"{size:,}"


@pytest.mark.parametrize("name", list(CELLS))
def test_json_has_it_all_and_adds_up(cli, made, name):
    code, out, _ = cli("inspect", made[name], "--json")
    found = json.loads(out)
    assert code == 0 and found["cell"] == f"{name}/{CELLS[name]}" and found["not_run"] is None
    assert found["inputs"][0]["shape"] == [1, 3, 8, 8] and found["outputs"][0]["name"] == "logits"
    parts = sum(found["tensors"][i][key] for i in range(5) for key in found["tensors"][i] if key.endswith("_bytes"))
    assert parts == sum(tensor["bytes"] for tensor in found["tensors"]) == found["weight_bytes"]
    assert parts + sum(line["bytes"] for line in found["rest"]) == found["file_bytes"] == files.size(made[name])
    assert {tensor["asked"] for tensor in found["tensors"]} == {4}
    order = [tensor["bytes"] for tensor in found["tensors"]]
    assert order == sorted(order, reverse=True)


def test_what_was_asked_can_be_said(cli, made):
    code, out, _ = cli("inspect", made["onnx"], "--asked", 2, "--json")
    found = json.loads(out)
    assert code == 0 and {tensor["reason"] for tensor in found["tensors"]} == {
        "the file was exported as onnx/w4-kmeans"
    }
    for value in ("0", "33", "four"):
        cli.refuses(2, "--asked", arguments=["inspect", made["onnx"], "--asked", value])


def test_a_native_file_says_why_it_is_wider(cli, made):
    path, _ = vendor.ours("tflite/w4-linear@native", made["tflite"].parents[1])
    _, out, _ = cli("inspect", path)
    assert "[1] native: INT4 and INT2 constants exist" in out and "* stored in more bits than were asked" in out


def test_a_foreign_file(cli, made, tmp_path):
    plain, _ = vendor.ours("onnx/fp32", made["onnx"].parents[1])
    path = vendor.quantize_dynamic(plain, tmp_path / "a.onnx")
    code, out, _ = cli("inspect", path)
    assert (
        code == 0
        and "another tool, from mobconv's onnx/fp32" in out
        and "stored: 5 (100 % of the weights) in 8 bits" in out
    )
    _, out, _ = cli("inspect", path, "--asked", 4)
    assert "asked 4 bits: 0 of 5 tensors" in out and "[1] bits asked 4, but a code takes 8" in out


@pytest.mark.parametrize("width", [80, 100, 160])
def test_lines_fit(cli, made, monkeypatch, width):
    """The table's; sentences fold where the terminal wants."""
    monkeypatch.setattr(render, "_PLAIN_WIDTH", width)
    _, out, _ = cli("inspect", made["tflite"])
    start = next(i for i, line in enumerate(out.splitlines()) if line.startswith("tensor"))
    table = out.splitlines()[start - 1 : start + 7]
    assert max(map(len, table)) <= width and "5 tensors" in table[-1]
    if width >= 100:
        assert "…" not in "".join(table) and "32.00" not in out


def test_a_file_that_cannot_be_run_is_audited_all_the_same(cli, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    edge = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [0.0] * 16)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Unheard", ["m"], ["y"])]
    graph = helper.make_graph(nodes, "g", edge[:1], edge[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "a.onnx")
    code, out, _ = cli("inspect", tmp_path / "a.onnx")
    assert code == 0 and "not run" in out and "Unheard" in out and "matmul" in out


class TestBadInput:
    """Exit code 3 and one message."""

    def test_missing_and_of_no_known_kind(self, cli):
        cli.refuses(3, "gone.onnx: no such file", arguments=["inspect", "gone.onnx"])
        (cli.folder / "net.pb").write_bytes(b"x")
        cli.refuses(3, "net.pb", ".onnx, .tflite, .mlpackage", arguments=["inspect", "net.pb"])

    @pytest.mark.parametrize("content", [b"", bytes(64), b"<html>404</html>", b"PK\x03\x04" + bytes(60)])
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_garbage(self, cli, suffix, content):
        (cli.folder / f"net.{suffix}").write_bytes(content)
        code, out, err = cli("inspect", f"net.{suffix}")
        assert code == 3 and f"net.{suffix}" in err and "Traceback" not in err and out == ""

    @pytest.mark.parametrize("name", list(CELLS))
    def test_cut_short(self, cli, made, name):
        source, path = made[name], cli.folder / made[name].name
        if source.is_dir():
            shutil.copytree(source, path)
            target = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        else:
            target = path
        data = (target if source.is_dir() else source).read_bytes()
        target.write_bytes(data[: len(data) // 2])
        code, out, err = cli("inspect", path)
        assert code == 3 and path.name in err and "Traceback" not in err and out == ""

    @pytest.mark.parametrize("suffix", ["onnx", "tflite", "mlmodel"])
    def test_of_another_format(self, cli, made, suffix):
        other = made["tflite" if suffix != "tflite" else "onnx"]
        shutil.copy(other, cli.folder / f"net.{suffix}")
        code, out, err = cli("inspect", f"net.{suffix}")
        assert code == 3 and "Traceback" not in err and out == ""

    def test_a_damaged_record(self, cli, made):
        import onnx

        model = onnx.load(made["onnx"])
        model.metadata_props[0].value = "{"
        onnx.save(model, cli.folder / "net.onnx")
        code, _, err = cli("inspect", "net.onnx")
        assert code == 3 and "record is damaged" in err


class Registered:
    """A third party's backend from before there were audits."""

    name, suffix = "theirs", "onnx"

    def missing(self):
        return None


def test_a_backend_without_audits(cli, made, monkeypatch):
    monkeypatch.setattr(backends, "for_path", lambda path: Registered())
    cli.refuses(4, "theirs does not account for its files", "`size_audit`", arguments=["inspect", made["onnx"]])


def test_a_backend_that_is_not_installed(cli, made, monkeypatch):
    monkeypatch.setattr(type(backends.get("onnx")), "missing", lambda self: "onnx not installed: pip install it")
    cli.refuses(4, "pip install it", arguments=["inspect", made["onnx"]])


def test_every_backend_has_audits():
    assert all(isinstance(backends.get(name), Auditable) for name in backends.BUILT_IN)
