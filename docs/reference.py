"""Generate the reference pages of the documentation from the code: commands, options, keys of recipes and budgets."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer

from mobconv import backends, recipe
from mobconv.cli.app import INTERRUPTED, TERMINATED, app
from mobconv.errors import MobconvError
from mobconv.evaluate.tasks import TASKS
from mobconv.gate import budget

# exit codes without an error class in errors.py
ENDINGS = {
    0: "fine; rows that say `unsupported` are",
    INTERRUPTED: "interrupted; whole files stay, partial ones are removed",
    TERMINATED: "terminated; the same",
}


def pages() -> dict[str, str]:
    """Markdown by name of a page below docs/."""
    return {"cli.md": command_line(), "recipe.md": recipes(), "budget.md": budgets()}


def command_line() -> str:
    group = typer.main.get_command(app)
    commands = group.commands
    lines = ["# Command line", "", *_table(("command", "what it does"))]
    lines += [f"| [`mobconv {name}`](#{name}) | {_cell(_first(command.help))} |" for name, command in commands.items()]
    lines += [f"| `mobconv {option.opts[0]}` | {_cell(option.help)} |" for option in group.params if option.help]
    lines += [
        "",
        "Messages go to stderr, results to stdout. `--json` prints results as JSON, where a command has it; `--help` "
        "prints the tables below.",
        "",
        "## Exit codes",
        "",
        *_table(("code", "meaning")),
        *(f"| {code} | {_cell(meaning)} |" for code, meaning in sorted(exit_codes().items())),
    ]
    for name, command in commands.items():
        lines += ["", *_command(name, command)]
    return "\n".join(lines) + "\n"


def exit_codes() -> dict[int, str]:
    kinds = {kind.exit_code: _first(inspect.getdoc(kind)) for kind in MobconvError.__subclasses__()}
    return {**kinds, **ENDINGS}


def _command(name: str, command: Any) -> list[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = " ".join(
        ["mobconv", name, *(_placeholder(each) for each in arguments)]
        + [f"{_longest(each)} {_value(each)}" for each in options if each.required]
        + (["[OPTIONS]"] if any(not each.required for each in options) else [])
    )
    lines = [f"## {name}", "", "```console", f"$ {usage}", "```", "", _safe(inspect.cleandoc(command.help or ""))]
    if command.params:
        lines += ["", *_table(("argument or option", "meaning"))]
        lines += [f"| `{_placeholder(each)}` | {_cell(each.help)} |" for each in arguments]
        lines += [f"| {_spelled(each)} | {_cell(each.help)}{_default(each)} |" for each in options]
    return lines


def _placeholder(argument: Any) -> str:
    text = argument.metavar or argument.name.upper()
    text += "..." if argument.nargs == -1 else ""
    return text if argument.required else f"[{text}]"


def _longest(option: Any) -> str:
    return str(max(option.opts, key=len))


def _value(option: Any) -> str:
    return "" if option.is_flag else str(option.metavar or option.name.upper().replace("_", "-"))


def _spelled(option: Any) -> str:
    names = "`, `".join([*option.opts, *option.secondary_opts])
    value = _value(option).replace("|", "\\|")
    return f"`{names}`" + (f" `{value}`" if value else "")


def _default(option: Any) -> str:
    if option.required:
        return " **Required.**"
    shown = option.default not in (None, "", False, ()) and not option.secondary_opts and not callable(option.default)
    return f" Default: `{option.default}`." if shown else ""


def recipes() -> str:
    schema = recipe.json_schema(backends.formats(), list(TASKS))
    names = {
        "PreprocessingSpec": "preprocessing",
        "LayerRule": "An entry of layers",
        "ImageTypeOption": "image_type, in the options of coreml",
    }
    lines = [
        "# Recipe",
        "",
        "A recipe is one YAML file, read by `mobconv sweep`. Unknown keys are refused. Editors with a YAML "
        "language server complete and check it by its "
        "[JSON Schema](schema/recipe.schema.json), where its first line is",
        "",
        "```yaml",
        "# yaml-language-server: $schema=PATH/TO/recipe.schema.json",
        "```",
        "",
        "`mobconv schema recipe > recipe.schema.json` writes the one of the installed version, with the backends "
        "that are registered there. Names and meanings of schemes: [Recipes and schemes](recipes.md).",
        "",
        *_keys(schema),
    ]
    for part, title in names.items():
        lines += ["", f"## {title}", "", schema["$defs"][part]["description"], "", *_keys(schema["$defs"][part])]
    return "\n".join(lines) + "\n"


def budgets() -> str:
    schema = budget.json_schema()
    lines = [
        "# Budget file",
        "",
        "A budget is one YAML file, read by `mobconv check`; [The gate](gate.md) says how rules are judged. Its "
        "[JSON Schema](schema/budget.schema.json), which `mobconv schema budget` prints, is for editors that complete "
        "and check YAML: name it in the first line, `# yaml-language-server: $schema=PATH/TO/budget.schema.json`.",
        "",
        *_keys(schema),
        "",
        "## An entry of budgets",
        "",
        schema["$defs"]["BudgetEntry"]["description"],
        "",
        *_keys(schema["$defs"]["BudgetEntry"]),
    ]
    return "\n".join(lines) + "\n"


def _keys(part: dict[str, Any]) -> list[str]:
    lines = _table(("key", "value", "meaning"))
    for name, field in part["properties"].items():
        meaning = _cell(field["description"])
        default = field.get("default")
        if name in part["required"]:
            meaning += " **Required.**"
        elif default not in (None, [], {}):
            meaning += f" Default: `{default}`."
        lines.append(f"| `{name}` | {_kind(field)} | {meaning} |")
    return lines


def _kind(field: dict[str, Any]) -> str:
    """A field's type in words."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"] if value is not None)
    if "anyOf" in field:
        kinds = [each for each in field["anyOf"] if each.get("type") != "null"]
        if len(kinds) == 2 and kinds[1].get("items") == kinds[0]:
            return f"{_kind(kinds[0])}; one or a list"
        return " or ".join(map(_kind, kinds))
    if "examples" in field:
        return "such as " + " or ".join(f"`{each}`" for each in field["examples"])
    if field.get("type") == "array":
        inner = _kind(field["items"])
        return "list of entries, see below" if inner.startswith("keys") else f"list of {inner}s"
    named = {"string": "text", "object": "keys and values", "boolean": "true or false", "": "keys, see below"}
    kind = field.get("type", "")  # a reference to a part has no type
    return named.get(kind, kind)


def _table(titles: tuple[str, ...]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]


def _first(text: str | None) -> str:
    """The first paragraph, on one line."""
    return re.sub(r"\s+", " ", (text or "").split("\n\n")[0]).strip()


def _cell(text: str | None) -> str:
    """A sentence, safe inside a table."""
    whole = re.sub(r"\s+", " ", text or "").strip()
    if re.match(r"[a-z]+\b(?![.:\d])", whole) and not whole.startswith("`"):
        whole = whole[:1].upper() + whole[1:]
    return _safe(whole).replace("|", "\\|") + ("" if whole.endswith((".", "?")) else ".")


def _safe(text: str) -> str:
    """Escape signs of Markdown outside of code."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)
