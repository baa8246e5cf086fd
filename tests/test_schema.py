"""The schemas for editors: those of the models, right for every recipe here, and as strict as a schema can be."""

import json
import re

import jsonschema
import pytest
import yaml
from support import CHECKPOINT

from mobconv import backends, recipe
from mobconv.errors import UsageError
from mobconv.evaluate.tasks import TASKS
from mobconv.gate import budget
from mobconv.schemes import ALGORITHMS, BITS, Cell, Granularity, Mode, grammar
from mobconv.sweep.job import Job

ROOT = CHECKPOINT.parents[1]
SCHEMAS = {"recipe": recipe.json_schema(backends.formats(), list(TASKS)), "budget": budget.json_schema()}

RECIPE = {"checkpoint": "net.pt", "data": "images", "backends": ["onnx"], "schemes": ["fp32"]}
RIGHT_RECIPES = [
    {},
    {"backends": "onnx", "schemes": "w{8..1}-{linear,kmeans}{,-oc16}"},
    {"schemes": ["w4-kmeans@native@fp16", "{fp32,fp16}", "w3-linear-oc16-minmax@fp16"]},
    {
        "layers": [
            {"match": "a.*", "bits": 8},
            {"match": "b", "keep": "fp16"},
            {"match": "c", "bits": None, "keep": "fp32"},
        ]
    },
    {"backends": "coreml", "options": {"coreml": {"image_type": {"scale": "2/255", "bias": [1, 1, 1]}}}},
    {"backends": ["onnx", "coreml"], "options": {"coreml": {"image_type": None}}, "task": "classification"},
    {"model": None, "images": None, "options": {}, "input_shape": [1, 3, 8, 8], "arguments": {"classes": 10}},
    {"preprocessing": "raw"},
    {"schemes": "w2-kmeans-gptq", "calibration": {"data": "others", "split": "train", "images": 64, "seed": 3}},
    {"calibration": {"data": "others", "allow_leak": True}},
    {"calibration": None},
    {"preprocessing": {"mean": [0.5], "std": [0.5], "range": [0, 1], "size": [8, 8]}, "margin": 0, "threads": 2},
]
WRONG_RECIPES = [
    {"cheese": 1},
    {"checkpoint": None},
    {"backends": []},
    {"backends": ["onxx"]},
    {"schemes": []},
    {"schemes": ["w9-linear"]},
    {"schemes": ["w4"]},
    {"schemes": ["w4-kmean"]},
    {"schemes": ["fp8"]},
    {"schemes": ["w4-kmeans-minmax"]},
    {"schemes": ["w4-linear-minmax-oc16"]},
    {"schemes": ["w4-linear@native@native"]},
    {"schemes": ["w4-linear@fp8"]},
    {"input": "picture"},
    {"images": 0},
    {"input_shape": [3]},
    {"input_shape": [1, 0]},
    {"margin": -1},
    {"threads": -1},
    {"threads": 1.5},
    {"layers": [{"match": "a"}]},
    {"layers": [{"match": "a", "bits": 8, "keep": "fp32"}]},
    {"layers": [{"match": "a", "bits": 9}]},
    {"layers": [{"match": "a", "keep": "fp8"}]},
    {"layers": [{"bits": 8}]},
    {"preprocessing": {"mean": [0.5]}},
    {"preprocessing": "rwa"},
    {"preprocessing": {"mean": [0.5], "std": [0.5], "colour": "red"}},
    {"options": {"coreml": {"image_type": {"scale": "2/255", "bias": [1, 1, 1]}}}},  # of a format that is not written
    {"options": {"coreml": {}}},
    {"options": {"onnx": {"image_type": None}}},
    {"options": {"onxx": {}}},
    {"options": "coreml"},
    {"backends": "coreml", "options": {"coreml": {"image_tpye": {"scale": "2/255", "bias": [1, 1, 1]}}}},
    {"backends": "coreml", "options": {"coreml": {"image_type": {"scale": "much", "bias": [1, 1, 1]}}}},
    {"task": "clasification"},
    {"calibration": "others"},
    {"calibration": {"images": 64}},
    {"calibration": {"data": "others", "images": 0}},
    {"calibration": {"data": "others", "seed": -1}},
    {"calibration": {"data": "others", "labels": []}},
]
RIGHT_ENTRIES = [
    {"max_bytes": "1.3 MB", "min_score": "95 %", "max_drop": 0, "max_latency_ratio": 1.5, "max_growth": "0 %"},
    {"max_bytes": "160KiB", "min_agreement": "100.0%", "max_growth": "10 kB"},
    {"must_exist": True, "max_conversion_loss": 0.1, "max_regression": 1},
    {"max_score": "0.31 px"},
    {"max_score": 0.31},
    {"min_score": "-1.5e-3"},
]
WRONG_ENTRIES = [
    {},
    {"must_exist": False},
    {"must_exist": "yes"},
    {"max_size": "1 MB"},
    {"max_bytes": 160000},
    {"max_bytes": "160"},
    {"max_bytes": "160 kb"},
    {"max_bytes": "0 kB"},
    {"max_bytes": "-1 kB"},
    {"max_bytes": None},
    {"min_accuracy": "95 %"},
    {"min_score": "95, %"},
    {"min_score": "%"},
    {"max_score": True},
    {"max_score": "0.31 px each"},
    {"max_drop": "1 %"},
    {"max_drop": -1},
    {"max_drop": True},
    {"max_latency_ratio": 0},
    {"max_latency_ratio": "1.5x"},
    {"max_growth": 2},
    {"max_growth": "2 points"},
]


def complaint(kind, content):
    validator = jsonschema.Draft202012Validator(SCHEMAS[kind])
    return jsonschema.exceptions.best_match(validator.iter_errors(content))


def accepted(folder, kind, content):
    """Whether mobconv accepts the file."""
    (folder / "file.yaml").write_text(yaml.safe_dump(content))
    try:
        if kind == "recipe":
            Job.of(recipe.load(folder / "file.yaml", backends.formats(), list(TASKS)))
        else:
            budget.load(folder / "file.yaml")
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_published_schema_is_the_one_of_the_models(cli, kind):
    code, out, _ = cli("schema", kind)
    assert code == 0
    published = json.loads((ROOT / "docs" / "schema" / f"{kind}.schema.json").read_text())
    assert published == json.loads(out) == SCHEMAS[kind], "run: python docs/readme_tables.py"
    jsonschema.Draft202012Validator.check_schema(published)


def files():
    found = [("recipe", path) for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    assert found
    return [*found, ("budget", ROOT / "docs" / "budget.yaml")]


@pytest.mark.parametrize(("kind", "path"), files())
def test_files_here_are_right_by_it_and_name_it(kind, path):
    assert complaint(kind, yaml.safe_load(path.read_text())) is None
    first = path.read_text().partition("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    named = (path.parent / first.partition("=")[2]).resolve()
    assert named == ROOT / "docs" / "schema" / f"{kind}.schema.json"


@pytest.mark.parametrize(
    ("kind", "content"),
    [("recipe", RECIPE | more) for more in RIGHT_RECIPES]
    + [("budget", {"budgets": [{"cells": "onnx/*", **more}]}) for more in RIGHT_ENTRIES]
    + [("budget", {"checkpoint": "a.pt", "baseline": "b.json", "budgets": [{"cells": ["a", "b"], "max_drop": 1}]})],
)
def test_what_mobconv_takes_the_schema_takes(tmp_path, kind, content):
    assert accepted(tmp_path, kind, content)
    assert complaint(kind, content) is None


@pytest.mark.parametrize(
    ("kind", "content"),
    [("recipe", {key: value for key, value in (RECIPE | more).items() if value is not None}) for more in WRONG_RECIPES]
    + [("budget", {"budgets": [{"cells": "onnx/*", **more}]}) for more in WRONG_ENTRIES]
    + [
        ("budget", {"budgets": []}),
        ("budget", {"budgets": [{"max_drop": 1}]}),
        ("budget", {"budgets": [{"cells": [], "max_drop": 1}]}),
        ("budget", {"budget": [{"cells": "a", "max_drop": 1}]}),
        ("budget", {"baseline": "", "budgets": [{"cells": "a", "max_drop": 1}]}),
    ],
)
def test_what_mobconv_refuses_the_schema_refuses(tmp_path, kind, content):
    assert not accepted(tmp_path, kind, content)
    assert complaint(kind, content) is not None


def test_the_pattern_of_schemes_is_the_grammar():
    """Every name that can be put together of known parts: both take it, or both refuse it."""
    parts = [*Mode, *Granularity, *ALGORITHMS]
    heads = ["fp32", "fp16", "fp8", *(f"w{bits}" for bits in (0, *BITS, 9))]
    bodies = ["", *(f"-{a}" for a in parts), *(f"-{a}-{b}" for a in parts for b in parts)]
    bodies += [f"-{mode}-{a}-{b}" for mode in Mode for a in parts for b in parts]
    flags = ["", "@native", "@fp16", "@native@fp16", "@fp16@native", "@fp16@fp16"]
    flags += ["@fp32", "@native@fp32", "@fp32@native", "@fp32@fp32", "@fp16@fp32", "@fp32@native@fp16", "@packed"]
    names = [head + body + flag for head in heads for body in bodies for flag in flags]
    taken = [name for name in names if re.search(f"^{grammar()}$", name)]
    assert taken == [name for name in names if parses(f"onnx/{name}")]
    assert len(taken) > 500


def parses(name):
    try:
        Cell.parse(name)
    except UsageError:
        return False
    return True


def test_every_field_tells_what_it_is():
    for schema in SCHEMAS.values():
        for part in (schema, *schema["$defs"].values()):
            for name, field in part["properties"].items():
                assert len(field.get("description", "")) > 10, name
