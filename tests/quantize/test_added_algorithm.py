"""An algorithm is one file and one line: a toy one, added to a copy of the package, is known everywhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import toy_algorithm

MOBCONV = "from mobconv.cli.app import main; main()"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Run Python where `import mobconv` finds the copy; returns what it printed."""
    copy = toy_algorithm.add(tmp_path_factory.mktemp("copy"))

    def run(*arguments, code=0):
        environment = os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "200", "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_it_is_in_the_grammar(python):
    program = """
import mobconv, re
from mobconv.schemes import Scheme, grammar
assert Scheme.parse("w4-symmetric-clipped").algorithm == "clipped"
assert Scheme.parse("w4-symmetric-oc16-clipped").name == "w4-symmetric-oc16-clipped"
assert re.fullmatch(grammar(), "w4-symmetric-clipped@native") and not re.fullmatch(grammar(), "w4-linear-clipped")
print(mobconv.__file__)
"""
    assert Path(python("-c", program).strip()).parent.parent != Path(toy_algorithm.mobconv.__file__).parent.parent


def test_messages_and_help_name_it(python):
    export = ["-c", MOBCONV, "export", "net.pt", "--to", "onnx", "--scheme"]
    assert "for linear choose mse or minmax" in python(*export, "w4-linear-clipped", code=2)
    assert "did you mean 'clipped'?" in python(*export, "w4-symmetric-cliped", code=2)
    assert "clipped (symmetric only)" in re.sub(r"[\s│]+", " ", python("-c", MOBCONV, "export", "--help"))


def test_the_json_schema_of_recipes_accepts_it(python):
    schema = json.loads(python("-c", MOBCONV, "schema", "recipe"))["properties"]["schemes"]
    pattern = schema["anyOf"][0]["pattern"]
    assert re.search(pattern, "w4-symmetric-clipped") and not re.search(pattern, "w4-kmeans-clipped")
    assert "clipped (symmetric only)" in schema["description"]


def test_it_quantizes(python):
    program = """
import numpy as np
from mobconv.quantize import quantize
from mobconv.schemes import Scheme
values = np.array([[-1, 1, 0, 1], [1, 0.75, 0.75, 0.75]], np.float32)
weight = quantize("w", values, 0, Scheme.parse("w2-symmetric-clipped"))
print(weight.scale.tolist(), weight.codes.tolist())
"""
    # a scale of 1 fits every weight of the first row; in the second, 7/8 is nearer to most
    assert python("-c", program).strip() == "[1.0, 0.875] [[1, 3, 2, 3], [3, 3, 3, 3]]"


def test_it_conforms(python):
    """What every algorithm promises: by the tests of this folder, which find it in the copy's dict."""
    tests = Path(__file__).with_name("test_algorithm_conformance.py")
    printed = python("-m", "pytest", "-p", "no:cacheprovider", str(tests), "-k", toy_algorithm.NAME)
    assert int(re.search(r"(\d+) passed", printed)[1]) == 4 * 24 + 4 and "failed" not in printed
