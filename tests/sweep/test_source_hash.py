"""What a factory and mobconv are made of, told from files alone."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mobconv
from mobconv.sweep import source_hash


@pytest.fixture
def package(tmp_path):
    files = {
        "nets/__init__.py": "",
        "nets/models.py": "import json\nimport numpy as np\nfrom . import blocks\nfrom .deep.parts import head\n",
        "nets/blocks.py": "def block():\n    import helper\n",
        "nets/deep/__init__.py": "",
        "nets/deep/parts.py": "def head(): pass\n",
        "nets/other.py": "never = 'imported'\n",
        "helper.py": "x = 1\n",
        "broken.py": "def (:\n",
        "stranger.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_all_that_a_factory_imports_is_found(package):
    found = source_hash.of_factory("nets.models:my_net", package)
    own = {"nets", "nets.models", "nets.blocks", "nets.deep", "nets.deep.parts", "helper"}
    assert set(found) == own | {"numpy"}
    import numpy

    assert found["numpy"] == numpy.__version__
    assert "nets" not in sys.modules, "it was imported"


@pytest.mark.parametrize(
    "name", ["nets/models.py", "nets/blocks.py", "nets/deep/parts.py", "helper.py", "nets/__init__.py"]
)
def test_a_change_anywhere_in_it_is_seen(package, name):
    before = source_hash.of_factory("nets.models:my_net", package)
    (package / name).write_text((package / name).read_text() + "\n# changed\n")
    assert source_hash.of_factory("nets.models:my_net", package) != before


@pytest.mark.parametrize("name", ["nets/other.py", "stranger.py"])
def test_a_change_elsewhere_is_not(package, name):
    before = source_hash.of_factory("nets.models:my_net", package)
    (package / name).write_text("changed = True\n")
    assert source_hash.of_factory("nets.models:my_net", package) == before


def test_what_cannot_be_read_or_found_is_left_to_building_it(package):
    assert set(source_hash.of_factory("broken:net", package)) == {"broken"}
    assert source_hash.of_factory("not_there:net", package) == {}
    assert source_hash.of_factory("mobconv.zoo.mobilenet_v2:mobilenet_v2", package) == {}


def test_a_package_that_is_installed_is_followed_where_the_factory_is_its_own(package):
    found = source_hash.of_factory("safetensors.torch:load", package)
    assert "safetensors.torch" in found and "torch" in found and "torch.nn" not in found


def test_a_factory_that_only_the_recipes_folder_has(package, tmp_path_factory, monkeypatch):
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    assert source_hash.folder_of("nets.models:my_net", package) == package
    assert source_hash.folder_of("nets.gone:my_net", package) == here
    assert source_hash.folder_of("json:loads", package) == here
    (package / "safetensors.py").touch()  # what is installed wins, as it does where the recipe's folder has no part
    assert source_hash.folder_of("safetensors.torch:load", package) == here
    (here / "nets").mkdir()  # a folder of that name is no module of that name
    assert source_hash.folder_of("nets.models:my_net", package) == package
    (here / "nets" / "models.py").touch()
    assert source_hash.folder_of("nets.models:my_net", package) == here


def test_what_lies_above_a_sweep_has_no_part_in_it():
    """The packages of a key follow from imports; a process that imports all of them has none of the others."""
    shared = source_hash.shared_packages()
    code = f"""
import importlib, pathlib, sys
root = pathlib.Path({str(Path(mobconv.__file__).parent)!r})
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    if parts[0] in {shared!r}:
        importlib.import_module(".".join(("mobconv", *parts)).removesuffix(".__init__"))
print(sorted({{m.split(".")[1] for m in sys.modules if m.startswith("mobconv.")}}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{list(shared)}\n"
    assert not {"cli", "report", "compare", "gate", "testing"} & set(shared)
    assert {"sweep", "pipeline", "evaluate", "backends", "quantize", "schemes", "zoo"} <= set(shared)


CHANGES = [
    ("evaluate/tasks/classification.py", [None]),
    ("backends/base.py", [None]),
    ("backends/onnx/encode.py", ["onnx"]),
    ("backends/apple/executor.py", ["coreml", "coreml-mlmodel"]),
    ("zoo/mobilenet_v2.py", [None]),
    ("report/overview.py", []),
    ("compare/probe.py", []),
    ("cli/app.py", []),
    ("gate/judge.py", []),
]


def test_a_changed_file_is_in_the_hashes_of_its_package(tmp_path, subtests):
    package = tmp_path / "mobconv"
    shutil.copytree(Path(mobconv.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    names = [None, "onnx", "tflite", "coreml", "coreml-mlmodel"]
    code = f"from mobconv.sweep import source_hash; print([source_hash.of_mobconv(name) for name in {names}])"

    def hashes():
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        return dict(zip(names, ast.literal_eval(run.stdout), strict=True))

    before = hashes()
    for changed, seen in CHANGES:
        with subtests.test(changed):
            original = (package / changed).read_text()
            (package / changed).write_text(original + "# changed\n")
            after = hashes()
            (package / changed).write_text(original)
            assert [name for name in names if before[name] != after[name]] == seen


def test_each_backend_has_a_hash_of_its_own():
    names = [None, "onnx", "tflite", "coreml", "coreml-mlmodel"]
    found = {name: source_hash.of_mobconv(name) for name in names}
    assert len(set(found.values())) == len(names)
