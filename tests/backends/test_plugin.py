"""A format that another package registers: known to every command, with nothing written about it in mobconv."""

import inspect
import json
import os
import subprocess
import sys

import pytest
from plugins.registered import registered
from support import CHECKPOINT, DATA

from mobconv import backends
from mobconv.backends.base import Auditable, Entry, Sliceable
from mobconv.errors import BackendError, UsageError
from mobconv.schemes import Cell, Compute
from mobconv.testing.backend_conformance import BackendConformance
from mobconv.testing.networks import convert, two_inputs


@pytest.fixture
def toy(tmp_path_factory):
    with registered("toyformat", tmp_path_factory.mktemp("site")) as package:
        yield package


def test_it_is_a_backend_like_ours(toy, tmp_path):
    assert backends.names() == [*backends.BUILT_IN, "toyformat"]
    assert backends.for_path(tmp_path / "net.toyformat") is backends.get("toyformat")
    assert backends.cell("toyformat/w4-kmeans") == Cell.parse("toyformat/w4-kmeans")
    assert backends.formats()["toyformat"].default_compute is Compute.FP32
    assert not isinstance(backends.get("toyformat"), Sliceable | Auditable)


def test_it_is_gone_when_its_package_is():
    with pytest.raises(UsageError, match="Unknown backend 'toyformat'"):
        backends.get("toyformat")


def test_a_default_of_its_own_decides_a_cells_compute_and_name(toy, monkeypatch):
    monkeypatch.setattr(type(backends.get("toyformat")), "default_compute", Compute.FP16)
    assert backends.cell("toyformat/w4-kmeans").compute is Compute.FP16
    assert backends.cell("toyformat/w4-kmeans@fp32").name == "toyformat/w4-kmeans@fp32"
    assert backends.cell("toyformat/w4-kmeans@fp16").name == "toyformat/w4-kmeans"


def test_a_package_that_does_not_load_is_named(tmp_path):
    with registered("toyformat", tmp_path) as package:
        sys.path.remove(str(package))
        try:
            with pytest.raises(BackendError, match=r"'toyformat'.*toyformat:backend: ModuleNotFoundError.*uninstall"):
                backends.get("toyformat")
        finally:
            sys.path.append(str(package))


def test_backends_lists_it(toy, cli):
    code, out, err = cli("backends", "--json")
    assert code == 0, err
    listed = {entry["backend"]: entry for entry in json.loads(out)}
    assert listed["toyformat"]["suffix"] == "toyformat" and listed["toyformat"]["missing"] is None
    assert listed["toyformat"]["stored_bits"]["kmeans"]["3"] == 3


def test_export_and_evaluate_it(toy, cli):
    code, _, err = cli("export", CHECKPOINT, "--to", "toyformat", "--scheme", "w4-kmeans", "-o", "out")
    assert code == 0, err
    path = cli.folder / "out" / "toyformat" / "w4-kmeans.toyformat"
    assert path.stat().st_size < 160_000
    code, out, err = cli("evaluate", path, "--data", DATA, "--images", "100", "--json")
    assert code == 0, err
    assert json.loads(out)["cell"] == "toyformat/w4-kmeans"


def test_a_process_of_its_own_finds_it(toy):
    """As after `pip install`: through its entry point alone."""
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", "from mobconv import backends; print(backends.get('toyformat').suffix)"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert run.stdout == "toyformat\n"


def without_record(real):
    return lambda template, weights, cell, path, record: real(template, weights, cell, path, "")


def slightly_off(real):
    return lambda *given: real(*given) * 1.001


def without_reasons(real):
    return lambda bits, requires="", reason="": real(bits, requires)


def leaving_a_file(real):
    def write(template, weights, cell, path, record):
        path.with_suffix(".half").touch()
        return real(template, weights, cell, path, record)

    return write


@pytest.mark.parametrize(
    ("test", "place", "fault"),
    [
        ("a_record_travels_and_counts_for_no_weight", "toyformat.files.write", without_record),
        ("weights_in_the_file_are_the_quantizers_bit_for_bit", "toyformat.files.decoded", slightly_off),
        ("a_failing_encoder_leaves_no_file_and_no_changed_one", "toyformat.files.write", leaving_a_file),
        ("support_has_a_width_or_a_reason_for_every_cell", "toyformat.Support", without_reasons),
    ],
)
def test_the_suite_finds_a_fault(toy, test, place, fault, tmp_path, monkeypatch):
    """A format that does one thing wrong fails the test of that thing, and passes it without the fault."""
    tested, folder = backends.get("toyformat"), tmp_path / "files"
    folder.mkdir()
    vectors = convert(tested, Entry(two_inputs()), tmp_path / "template", Compute.FP32)
    known = {"tested": tested, "vectors": vectors, "scheme": "w4-linear", "tmp_path": folder}
    run = getattr(BackendConformance(), f"test_{test}")
    arguments = {name: known[name] for name in inspect.signature(run).parameters}
    run(**arguments)
    for file in folder.iterdir():
        file.unlink()
    module, _, name = place.rpartition(".")
    monkeypatch.setattr(sys.modules[module], name, fault(getattr(sys.modules[module], name)))
    with pytest.raises(AssertionError):
        run(**arguments)
