"""Recipes: one YAML file a job, refused where it says something mobconv does not know."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from pydantic.fields import FieldInfo

from mobconv.data.preprocessing import Preprocessing, raw
from mobconv.errors import InputError, UsageError, did_you_mean
from mobconv.schemes import BITS, Cell, Scheme, grammar


def expand(text: str) -> list[str]:
    """Braces as in a shell: ``w{8..6}-{linear,kmeans}`` gives six names. Nesting is not needed."""
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None:
        return [text]
    inner = found[1]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if span:
        first, last = int(span[1]), int(span[2])
        step = 1 if last >= first else -1
        choices = [str(number) for number in range(first, last + step, step)]
    else:
        choices = inner.split(",")
    return [whole for choice in choices for whole in expand(text[: found.start()] + choice + text[found.end() :])]


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def one_or_many(item: dict[str, Any]) -> WithJsonSchema:
    """In the JSON Schema: one item, or a list of them."""
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]})


_QUOTE = 'Braces are YAML\'s own unless they are quoted: "{}"'
Names = Annotated[list[str], BeforeValidator(_one_or_many)]
# braces expand to names that a pattern cannot foresee
_SCHEME = {"type": "string", "pattern": rf"^{grammar()}$|\{{.*\}}"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Strict):
    """What holds for some layers in place of the cell's scheme: another width, or float."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["bits"], "properties": {"bits": {"type": "integer"}}},
                {"required": ["keep"], "properties": {"keep": {"type": "string"}}},
            ]
        }
    )

    match: str = Field(description="glob over parameter names, such as features.0.*")
    bits: int | None = Field(
        default=None,
        description="another width, 1 to 8, in the cell's own mode",
        json_schema_extra={"minimum": BITS[0], "maximum": BITS[-1]},
    )
    keep: str | None = Field(
        default=None,
        description="`fp32` or `fp16`: these layers stay float",
        json_schema_extra={"enum": ["fp32", "fp16", None]},
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Rule:
        if (self.bits is None) == (self.keep is None):
            raise ValueError("a rule says either `bits` or `keep`")
        if self.bits is not None and self.bits not in BITS:
            raise ValueError(f"bits {self.bits}: widths are 1 to 8")
        if self.keep not in (None, "fp32", "fp16"):
            raise ValueError(f"keep {self.keep!r}: layers stay fp32 or fp16")
        return self

    def apply(self, scheme: Scheme) -> Scheme:
        """The scheme of a layer that this rule matches, in a cell of `scheme`."""
        if scheme.mode is None:
            return scheme
        if self.keep is not None:
            return Scheme.parse(self.keep)
        assert self.bits is not None
        return Scheme(self.bits, scheme.mode, scheme.granularity, scheme.algorithm)


def _raw(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value != "raw":
        raise ValueError(f"{value!r}: keys mean and std, or `raw` for pixels of 0 to 255 as they are")
    held = raw()
    return {"mean": held.mean, "std": held.std, "range": held.range}


class PreprocessingSpec(_Strict):
    """What happens to pixels before the network; see mobconv.preprocessing."""

    mean: list[float] | float = Field(description="one a channel or one for all, in the units of `range`")
    std: list[float] | float = Field(description="one a channel or one for all, in the units of `range`")
    range: list[float] = Field(default=[0.0, 1.0], description="what pixels of 0 and 255 are mapped onto first")
    colour: Literal["rgb", "bgr"] = Field(default="rgb", description="order of the network's channels")
    size: list[int] | None = Field(default=None, description="height and width that images are cut to")
    resize: int | None = Field(default=None, description="length of the shorter side before that")
    interpolation: Literal["bilinear", "bicubic", "nearest"] = Field(
        default="bilinear", description="how images are resized"
    )


def _number(value: Any) -> Any:
    """Numbers as people write them: 2/255 too."""
    over = str(value).split("/") if isinstance(value, str) else []
    try:
        return float(over[0]) / float(over[1]) if len(over) == 2 else value
    except (ValueError, ZeroDivisionError):
        return value


class ImageTypeSpec(_Strict):
    """What coremltools' ImageType is given: the file sees scale * pixel + bias."""

    scale: Annotated[
        float,
        BeforeValidator(_number),
        WithJsonSchema(
            {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[-+.\deE\s]+(/[-+.\deE\s]+)?$"}]}
        ),
    ] = Field(description="of all channels, such as 2/255")
    bias: list[float] = Field(description="of each channel")


class Recipe(_Strict):
    """A sweep: which network, on which data, into which cells."""

    checkpoint: Path = Field(description="trained weights; relative to the recipe's folder")
    model: str | None = Field(default=None, description="package.module:factory, where the file does not say")
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the factory")
    input_shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, min_length=2, description="shape of one input, batch 1"
    )
    preprocessing: Annotated[PreprocessingSpec | None, BeforeValidator(_raw)] = Field(
        default=None,
        description="what happens to pixels before the network, where the checkpoint does not say; `raw`: they are "
        "taken as they are, 0 to 255",
    )
    data: str = Field(description="parquet file or image folder (relative to the recipe's folder), or hub name")
    images: int | None = Field(default=None, ge=1, description="take the first so many images; default all")
    input: Literal["image", "image-uint8", "tensor"] = Field(
        default="image",
        description="what the files take: pixels of 0 to 255, normalised inside, or the network's own tensor",
    )
    image_type: ImageTypeSpec | None = Field(
        default=None,
        description="scale and bias for coremltools' own ImageType, in place of the network's preprocessing: to see "
        "what a conversion script's figures cost (backend coreml only)",
    )
    backends: Annotated[Names, one_or_many({"type": "string"})] = Field(
        min_length=1, description="formats to write: onnx, tflite, coreml, coreml-mlmodel"
    )
    schemes: Annotated[Names, one_or_many(_SCHEME)] = Field(
        min_length=1,
        description="how weights are stored: fp32, fp16 or w<bits>-<mode>[-<granularity>][-<algorithm>], with @native "
        "and @fp16; braces expand, as in w{8..1}-{linear,kmeans}",
    )
    layers: list[Rule] = Field(default_factory=list, description="the last rule that matches a layer holds")
    margin: float = Field(default=5.0, ge=0, description="points of top-1 below the float baseline that make a cliff")
    threads: int = Field(default=0, ge=0, description="threads of the runtimes; 0 for all cores")

    def cells(self, only: Sequence[str] = ()) -> list[Cell]:
        """All cells, backend by backend; `only`: globs over cell names. Raises UsageError."""
        schemes = list(dict.fromkeys(name for pattern in self.schemes for name in expand(pattern)))
        cells = []
        for backend in self.backends:
            for name in schemes:
                cells.append(Cell.parse(f"{backend}/{name}"))
        cells = list({cell.name: cell for cell in cells}.values())
        for pattern in only:
            if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in cells):
                near = did_you_mean(pattern, [cell.name for cell in cells])
                raise UsageError(f"--only {pattern!r} matches none of the recipe's {len(cells)} cells{near}")
        return [cell for cell in cells if not only or any(fnmatch.fnmatchcase(cell.name, p) for p in only)]

    def scheme_for(self, name: str, scheme: Scheme) -> Scheme:
        """The scheme of one layer of a cell, by the last rule that matches it."""
        matching = [rule for rule in self.layers if fnmatch.fnmatchcase(name, rule.match)]
        return matching[-1].apply(scheme) if matching else scheme

    def check_layers(self, names: Sequence[str]) -> None:
        """Raise UsageError for a rule that matches no layer, and for a scheme that the rules leave to no layer."""
        for rule in self.layers:
            if not any(fnmatch.fnmatchcase(name, rule.match) for name in names):
                near = did_you_mean(rule.match, names)
                raise UsageError(
                    f"layers: match {rule.match!r} fits none of the network's {len(names)} weights{near}\n"
                    + "\n".join(f"  {name}" for name in names)
                )
        for scheme in dict.fromkeys(cell.scheme for cell in self.cells()):
            if self.layers and names and all(self.scheme_for(name, scheme) != scheme for name in names):
                raise UsageError(
                    f"layers: the rules leave none of the network's {len(names)} weights at {scheme.name}, so no file "
                    "would be what its name says; take the scheme out of `schemes`, or let the rules match less"
                )


# what messages about checkpoints and data call by the names of options
_OPTIONS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"--input-shape (\d[\d,]*\d)", lambda found: f"`input_shape: [{found[1].replace(',', ', ')}]`"),
    (r"--model ([\w.]+:\w+)", r"`model: \1`"),
    (r"--model-arg\b", "`arguments`"),
    (r"--(model|preprocessing)\b", r"`\1`"),
    (r"--input-shape\b", "`input_shape`"),
)


def in_keys(text: str) -> str:
    """A message that speaks of the command line's options, as one about a recipe."""
    for option, key in _OPTIONS:
        text = re.sub(option, key, text)
    return text


@contextmanager
def in_its_words() -> Iterator[None]:
    """Errors of what a recipe asks for speak of its keys."""
    try:
        yield
    except (UsageError, InputError) as error:
        raise type(error)(in_keys(str(error))) from error


def json_schema(backends: Sequence[str]) -> dict[str, Any]:
    """The JSON Schema of recipes that may name these backends, for editors.

    It refuses no recipe that `load` takes, and as much of what `load` refuses as a schema can say.
    """
    schema = Recipe.model_json_schema()
    name = {"enum": list(backends)}
    schema["properties"]["backends"]["anyOf"] = [name, {"type": "array", "items": name, "minItems": 1}]
    schema["properties"]["preprocessing"]["anyOf"].insert(0, {"enum": ["raw"]})
    only = {"anyOf": [{"const": "coreml"}, {"const": ["coreml"]}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "mobconv recipe",
        "if": {"required": ["image_type"], "properties": {"image_type": {"type": "object"}}},
        "then": {"properties": {"backends": only}},
    }


def load(path: Path, backends: Sequence[str]) -> Recipe:
    """Read a recipe that may name these backends.

    Raises InputError when it cannot be read, UsageError when it is wrong.
    """
    try:
        text = path.read_text()
        content, repeated = yaml.safe_load(text), list(_all_twice(yaml.compose(text, yaml.SafeLoader)))
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}{_unquoted(error)}") from error
    if repeated:
        raise UsageError(f"{path}: {'; '.join(repeated)}")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path}: a recipe is a list of `key: value` lines, beginning with checkpoint and data")
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}:\n" + "\n".join(_complaints(error))) from error
    try:
        cells = recipe.cells()
        for name in recipe.backends:
            if name not in backends:
                raise UsageError(f"{name!r} is no backend: {', '.join(backends)}{did_you_mean(name, backends)}")
        preprocessing_of(recipe)
        if recipe.image_type is not None and recipe.backends != ["coreml"]:
            raise UsageError("image_type is given to coremltools: backends must be coreml alone")
    except (UsageError, InputError) as error:
        raise UsageError(f"{path}: {error}") from error
    assert cells
    base = path.parent
    data = recipe.data if not (base / recipe.data).exists() else str(base / recipe.data)
    return recipe.model_copy(update={"checkpoint": base / recipe.checkpoint, "data": data})


def twice(node: yaml.Node | None) -> Iterator[str]:
    """Keys of a mapping that stand twice: YAML takes the last in silence."""
    seen: dict[str, int] = {}
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            yield f"{name}: given twice, in lines {seen[name]} and {line}"
        seen[name] = line


def _all_twice(node: yaml.Node | None) -> Iterator[str]:
    """The same in all that a node holds."""
    yield from twice(node)
    if isinstance(node, yaml.CollectionNode):
        for each in node.value:
            yield from _all_twice(each[1] if isinstance(each, tuple) else each)


def _unquoted(error: yaml.YAMLError) -> str:
    """What to do about braces in a list and globs, which YAML takes for its own; or ''."""
    mark = getattr(error, "problem_mark", None)
    lines = mark.buffer.splitlines()[mark.line :] if mark is not None and mark.buffer else []
    if lines and "alias" in str(error) and "*" in lines[0]:
        return "\na glob goes in quotes"
    found = re.search(r"[\w-]+\{[^{}]*\}[\w{},.-]*", lines[0]) if lines else None
    return f"\n{_QUOTE.format(found[0])}" if found else ""


def _complaints(error: ValidationError) -> list[str]:
    lines = []
    for found in error.errors():
        where = ".".join(str(part) for part in found["loc"])
        if found["type"] == "extra_forbidden":
            known = _fields(found["loc"])
            near = did_you_mean(str(found["loc"][-1]), known) or f" (there are {', '.join(known)})"
            lines.append(f"  {where}: no such key{near}")
        elif found["type"] == "missing":
            told = _fields(found["loc"])[str(found["loc"][-1])].description
            lines.append(f"  {where}: missing{f' ({told})' if told else ''}")
        elif found["type"] == "list_type" and found["loc"] == ("layers",):
            lines.append('  layers: a list of rules, as - {match: "classifier.*", bits: 8}')
        elif found["type"] == "list_type" and where == "input_shape":
            lines.append("  input_shape: a list of whole numbers, as [1, 3, 224, 224]")
        elif found["type"] in ("string_type", "list_type") and isinstance(found["input"], dict):
            held = "{" + ",".join(map(str, found["input"])) + "}"
            lines.append(f"  {where}: {found['msg']}. {_QUOTE.format(held)}")
        else:
            lines.append(f"  {where}: {found['msg'].removeprefix('Value error, ')}")
    return lines


def _fields(place: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """The keys known where a complaint is about: at the top, or in one of the parts."""
    parts: dict[int | str, type[_Strict]] = {
        "layers": Rule,
        "preprocessing": PreprocessingSpec,
        "image_type": ImageTypeSpec,
    }
    return (parts.get(place[0], Recipe) if len(place) > 1 else Recipe).model_fields


def preprocessing_of(recipe: Recipe) -> Preprocessing | None:
    """The recipe's own preprocessing, if it has one."""
    if recipe.preprocessing is None:
        return None
    return Preprocessing.from_json(recipe.preprocessing.model_dump())
