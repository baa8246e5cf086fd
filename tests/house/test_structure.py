"""The structure of the package: what import-linter does not check."""

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grimp
import pytest

from mobconv import backends

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mobconv"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_the_root_has_at_most_eight_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("folder", ["mobconv", "docs", "benchmarks", "fixtures"])
def test_no_file_is_longer_than_400_lines(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_no_circle_of_modules():
    graph = grimp.build_graph("mobconv", cache_dir=None)
    modules = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    # a package imports the modules in it, and they its siblings: what counts is a circle among modules with code
    code = {name for name in modules if not any(other.startswith(f"{name}.") for other in modules)}
    try:
        graphlib.TopologicalSorter({name: modules[name] & code for name in code}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"circle of modules: {' -> '.join(error.args[1])}")


def names_of_formats(path: Path) -> list[str]:
    """Texts of a module that are a format's name, and its imports of a format's package."""
    tree = ast.parse(path.read_text())
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    imports = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    folders = {module.rpartition(".")[2] for module in backends.BUILT_IN.values()}
    named = [text for text in strings if text in backends.BUILT_IN or text.startswith("coreml")]
    return named + [name for name in imports if name.startswith("mobconv.backends.") and name.split(".")[2] in folders]


def test_no_module_outside_backends_names_a_format():
    outside = [path for path in SOURCES if PACKAGE / "backends" not in path.parents]
    assert {str(path): names for path in outside if (names := names_of_formats(path))} == {}


def test_names_of_formats_are_seen(tmp_path):
    (tmp_path / "module.py").write_text('from mobconv.backends.onnx import convert\nif name == "coreml":\n    pass\n')
    assert names_of_formats(tmp_path / "module.py") == ["coreml", "mobconv.backends.onnx"]


def test_every_class_has_a_name_of_its_own():
    classes = Counter(
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name: count for name, count in classes.items() if count > 1} == {}


def test_every_module_has_a_docstring():
    empty = [
        path for path in SOURCES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert empty == []


def test_top_1_is_named_nowhere_above_the_task():
    allowed = PACKAGE / "evaluate" / "tasks"
    pattern = re.compile(r"top[-_]?[15]\b", re.IGNORECASE)
    outside = [path for path in SOURCES if allowed not in path.parents]
    assert [str(path) for path in outside if pattern.search(path.read_text())] == []


def test_import_mobconv_loads_neither_torch_nor_a_vendor():
    heavy = ["torch", "onnx", "onnxruntime", "coremltools", "litert_torch", "numpy", "datasets"]
    script = f"import sys, mobconv; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
