"""Recipe: every key with its type, default and description, from which schema and docs are generated."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, WithJsonSchema

from mobconv.data.chosen import COUNT, CalibrationData
from mobconv.data.preprocessing import NAMES, Interpolation, Preprocessing, named
from mobconv.errors import UsageError, did_you_mean, setting
from mobconv.recipe import layer_rules
from mobconv.recipe.braces import expand
from mobconv.recipe.layer_rules import LayerRule
from mobconv.recipe.strict import StrictModel
from mobconv.schemes import WEIGHTS_ONLY, Cell, Compute, Scheme, grammar, syntax


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def one_or_many(item: dict[str, Any]) -> WithJsonSchema:
    """Say in the JSON Schema: one item, or a list of at least one."""
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]})


Names = Annotated[list[str], BeforeValidator(_as_list)]
# names that braces expand to are not checked by the pattern
_SCHEME = {"type": "string", "pattern": rf"^{grammar()}$|\{{.*\}}"}


def _expanded_name(value: Any) -> Any:
    """The keys that a name such as `raw` stands for; anything else unchanged."""
    if not isinstance(value, str):
        return value
    if value not in NAMES:
        names = ", or ".join(f"`{name}` for {meaning}" for name, meaning in NAMES.items())
        raise ValueError(f"{value!r}: keys mean and std, or {names}")
    pixels = named(value)
    return {"mean": pixels.mean, "std": pixels.std, "range": pixels.range}


class PreprocessingSpec(StrictModel):
    """Normalisation and resizing of pixels before the network; see mobconv.data.preprocessing."""

    mean: list[float] | float = Field(description="for each channel or one for all, in the units of `range`")
    std: list[float] | float = Field(description="for each channel or one for all, in the units of `range`")
    range: list[float] = Field(default=[0.0, 1.0], description="what pixels of 0 and 255 are mapped onto first")
    colour: Literal["rgb", "bgr"] = Field(default="rgb", description="order of the network's channels")
    size: list[int] | None = Field(default=None, description="height and width that images are cropped to")
    resize: int | list[int] | None = Field(
        default=None,
        description="length of the shorter side before the crop; or [height, width], where proportions are not kept",
    )
    interpolation: Interpolation = Field(default="bilinear", description="how images are resized")


class CalibrationSpec(StrictModel):
    """Data that schemes with an algorithm such as gptq are fitted on; see mobconv.data.chosen."""

    data: str = Field(description="any reference that `data` may be, relative to the recipe's folder; labels unused")
    split: str | None = Field(
        default=None,
        description="of a data set of the hub, or of a folder of splits; default calibration, else train, validation",
    )
    images: int = Field(default=COUNT, ge=1, description="number of images chosen at random, all where there are fewer")
    seed: int = Field(default=0, ge=0, description="seed of the random choice")
    allow_leak: bool = Field(
        default=False, description="take images that are in the evaluation data too; the rows say how many"
    )


class Recipe(StrictModel):
    """A sweep: which network, on which data, into which cells."""

    checkpoint: str = Field(
        description="trained weights: a path, relative to the recipe's folder, or hf:NAME, timm:NAME, torchvision:NAME"
    )
    model: str | None = Field(
        default=None, description="package.module:factory that builds the network, where the file does not say"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the factory")
    weights: str | None = Field(
        default=None, description="file with the weights of a network by name, relative to the recipe's folder"
    )
    key: str | None = Field(
        default=None, description="which of several states in the file, such as model_ema; default: as trained"
    )
    input_shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, min_length=2, description="shape of one input, batch 1"
    )
    preprocessing: Annotated[PreprocessingSpec | None, BeforeValidator(_expanded_name)] = Field(
        default=None,
        description="what is done to pixels before the network, where the checkpoint does not say; `imagenet`: "
        "ImageNet's mean and std; `raw`: nothing, they stay 0 to 255",
    )
    labels: list[str] | str | None = Field(
        default=None,
        description="names of the classes, in the order of the outputs: a list, or a file (relative to the recipe's "
        "folder) with one a line or of JSON; default those of the checkpoint, else of the data; `none`: no names",
    )
    data: str = Field(
        description="parquet file, image folder, CSV file of paths and labels, or .npz of arrays (relative to the "
        "recipe's folder), or hub name"
    )
    skip_bad: bool = Field(default=False, description="leave out images that cannot be decoded, and count them")
    images: int | None = Field(default=None, ge=1, description="number of images, from the first on; default all")
    calibration: CalibrationSpec | None = Field(
        default=None, description="images, not those of `data`, for schemes that are fitted on calibration data"
    )
    task: str = Field(default="classification", description="what the outputs mean, and the metric they are judged by")
    metric: str | None = Field(
        default=None,
        description="one of the task's metrics in place of its first, or your own, package.module:name (see "
        "docs/tasks.md)",
    )
    higher_is_better: bool | None = Field(default=None, description="of a metric of your own that does not say it")
    postprocess: str | None = Field(
        default=None,
        description="package.module:function that makes the task's outputs of a sample's, such as boxes",
    )
    input: Literal["image", "image-uint8", "tensor"] = Field(
        default="image",
        description="input of the files: pixels of 0 to 255, normalised inside, or the network's own tensor",
    )
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="options of single formats, under their names"
    )
    backends: Annotated[Names, one_or_many({"type": "string"})] = Field(min_length=1, description="formats to write")
    schemes: Annotated[Names, one_or_many(_SCHEME)] = Field(
        min_length=1,
        description=f"how weights are stored: {syntax()}. Flags @native, and @fp16 or @fp32; braces expand, as in "
        f"w{{8..1}}-{{linear,kmeans}}. {WEIGHTS_ONLY}",
    )
    layers: list[LayerRule] = Field(
        default_factory=list, description="exceptions; the last rule that matches a layer applies"
    )
    margin: float = Field(default=5.0, ge=0, description="loss of the metric, in its unit, that makes a cliff")
    threads: int = Field(default=0, ge=0, description="threads of the runtimes; 0 for all cores")
    _computes: dict[str, Compute] = PrivateAttr(default_factory=dict)  # default of each format, by name

    def cells(self, only: Sequence[str] = ()) -> list[Cell]:
        """List all cells, backend by backend; `only`: globs over cell names. Raises UsageError."""
        schemes = list(dict.fromkeys(name for pattern in self.schemes for name in expand(pattern)))
        parsed = [
            Cell.parse(f"{backend}/{name}", self._computes.get(backend, Compute.FP32))
            for backend in self.backends
            for name in schemes
        ]
        cells = list({cell.name: cell for cell in parsed}.values())
        for pattern in only:
            if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in cells):
                near = did_you_mean(pattern, [cell.name for cell in cells])
                raise UsageError(f"{setting('only', pattern)} matches none of the recipe's {len(cells)} cells{near}")
        return [cell for cell in cells if not only or any(fnmatch.fnmatchcase(cell.name, glob) for glob in only)]

    def scheme_for(self, name: str, scheme: Scheme) -> Scheme:
        """Return the scheme of one layer of a cell, by the last rule that matches it."""
        return layer_rules.scheme_for(self.layers, name, scheme)

    def calibrates(self, scheme: Scheme) -> bool:
        """Whether a cell of a scheme may need calibration data: for the scheme, or by a layer rule."""
        ruled = (rule.apply(scheme) for rule in self.layers)
        return scheme.calibrated or any(each.calibrated for each in ruled)

    def check_layers(self, names: Sequence[str]) -> None:
        """Check the layer rules against the names of a network's weights. Raises UsageError, as layer_rules.check."""
        layer_rules.check(self.layers, names, (cell.scheme for cell in self.cells()))


def calibration_of(recipe: Recipe) -> CalibrationData | None:
    """Return the calibration data that a recipe states, or None."""
    return None if recipe.calibration is None else CalibrationData(**recipe.calibration.model_dump())


def preprocessing_of(recipe: Recipe) -> Preprocessing | None:
    """Return the preprocessing that a recipe states, or None. Raises InputError for numbers that make no sense."""
    if recipe.preprocessing is None:
        return None
    return Preprocessing.from_json(recipe.preprocessing.model_dump())
