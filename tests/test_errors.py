"""Messages name a setting as the reader has it: an option, a key of a recipe, or a keyword argument."""

import ast
import pickle
import re
from pathlib import Path

import pytest

import mobconv
from mobconv.errors import KEYS, OPTIONS_ONLY, BackendError, InputError, UsageError, setting, worded
from mobconv.recipe import CalibrationSpec, Recipe

PACKAGE = Path(mobconv.__file__).parent


@pytest.mark.parametrize(
    ("name", "value", "python", "cli", "recipe"),
    [
        ("input_shape", None, "input_shape=", "--input-shape", "`input_shape`"),
        (
            "input_shape",
            (1, 3, 224, 224),
            "input_shape=(1, 3, 224, 224)",
            "--input-shape 1,3,224,224",
            "`input_shape: [1, 3, 224, 224]`",
        ),
        ("model", "nets:tiny", "model='nets:tiny'", "--model nets:tiny", "`model: nets:tiny`"),
        ("model", "my nets", "model='my nets'", "--model 'my nets'", '`model: "my nets"`'),
        ("model", "no", "model='no'", "--model no", '`model: "no"`'),
        ("arguments", None, "arguments=", "--model-arg", "`arguments`"),
        (
            "arguments",
            {"classes": 3, "kind": "s"},
            "arguments={'classes': 3, 'kind': 's'}",
            "--model-arg classes=3 --model-arg kind=s",
            "`arguments: {classes: 3, kind: s}`",
        ),
        (
            "preprocessing",
            {"mean": [0.5]},
            "preprocessing={'mean': [0.5]}",
            """--preprocessing '{"mean": [0.5]}'""",
            "`preprocessing: {mean: [0.5]}`",
        ),
        ("preprocessing", "raw", "preprocessing='raw'", "--preprocessing raw", "`preprocessing: raw`"),
        # a recipe has no such key: its command has the option
        ("trust_pickle", True, "trust_pickle=True", "--trust-pickle", "--trust-pickle"),
        ("artifacts", False, "artifacts=False", "--no-artifacts", "--no-artifacts"),
        ("higher_is_better", False, "higher_is_better=False", "--lower-is-better", "`higher_is_better: false`"),
        ("out", None, "out=", "-o", "-o"),
    ],
)
def test_a_setting_in_three_styles(name, value, python, cli, recipe):
    error = UsageError(f"net.pt: say {setting(name, value)}, please")
    assert str(error) == error.message() == f"net.pt: say {python}, please"
    assert error.message("cli") == f"net.pt: say {cli}, please"
    assert error.message("recipe") == f"net.pt: say {recipe}, please"
    assert error.settings == (name,) and error.setting == name


def test_settings_survive_another_error_and_another_process():
    inner = InputError(f"{setting('model')} or {setting('input_shape', [1, 3])}, {setting('model')}")
    outer = pickle.loads(pickle.dumps(BackendError(f"net.pt: {inner.text}")))
    assert outer.settings == ("model", "input_shape")
    assert outer.message("cli") == "net.pt: --model or --input-shape 1,3, --model"


def test_an_error_without_settings():
    error = InputError("net.pt is empty")
    assert error.settings == () and error.setting is None
    assert str(error) == error.message("cli") == error.message("recipe") == "net.pt is empty"
    assert str(InputError()) == ""
    assert worded("plain", "cli") == "plain"


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def test_every_setting_is_a_key_of_recipes_or_an_option_alone():
    named = {
        node.args[0].value
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setting"
        if isinstance(node.args[0], ast.Constant)
    }
    assert "input_shape" in named
    assert named <= set(Recipe.model_fields) | OPTIONS_ONLY | set(KEYS)
    keys = {*Recipe.model_fields, *(f"calibration.{name}" for name in CalibrationSpec.model_fields)}
    assert set(KEYS.values()) <= keys
    assert not OPTIONS_ONLY & set(Recipe.model_fields)


# mobconv/errors.py has the options' spelling; corrected_call.py puts a `mobconv export` command together, to be pasted
SPELLED = ("errors.py", "compare/corrected_call.py")
COMMAND = re.compile(r"\b(mobconv|dask|pip|git|hf) ")


def test_only_the_command_line_names_options():
    """Commands to paste, such as `mobconv report --cells`, are named in full."""
    for path in modules():
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith("cli/") or place in SPELLED:
            continue
        for line, text in messages(ast.parse(path.read_text())):
            option = re.search(r"(?<![\w-])--[a-z]", text)
            assert not option or COMMAND.search(text[: option.start()]), f"{place}:{line}: {text!r}"


def messages(tree):
    """String constants with their lines, a whole f-string as one; no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            skipped |= {id(part) for part in node.values}
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value
