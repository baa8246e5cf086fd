"""The options of ML Programs in a recipe: `options: {coreml: {image_type: {scale: 2/255, bias: [1, 1, 1]}}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from mobconv.errors import UsageError, did_you_mean


def _fraction(value: Any) -> Any:
    """A number written as people write it, `2/255` too; anything else as it is."""
    parts = str(value).split("/") if isinstance(value, str) else []
    try:
        return float(parts[0]) / float(parts[1]) if len(parts) == 2 else value
    except (ValueError, ZeroDivisionError):
        return value


_NUMBER = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[-+.\deE\s]+(/[-+.\deE\s]+)?$"}]}


class ImageTypeOption(BaseModel):
    """Arguments of coremltools' own ImageType: the file computes the network on scale * pixel + bias."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[float, BeforeValidator(_fraction), WithJsonSchema(_NUMBER)] = Field(
        description="of all channels, such as 2/255"
    )
    bias: list[float] = Field(description="of each channel")


class CoreMLOptions(BaseModel):
    """Options of the backend coreml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_type: ImageTypeOption | None = Field(
        default=None,
        description="scale and bias for coremltools' own ImageType, in place of the network's preprocessing: to see "
        "what a conversion script's figures cost",
    )


def schema() -> dict[str, Any]:
    """JSON Schema of the options."""
    return CoreMLOptions.model_json_schema()


def checked(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """`Backend.options`: the options as plain values; None where none is set. Raises UsageError, a line for each."""
    try:
        options = CoreMLOptions.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for complaint in error.errors():
            where = ".".join(str(part) for part in complaint["loc"])
            if complaint["type"] == "extra_forbidden":
                known = list(ImageTypeOption.model_fields if len(complaint["loc"]) > 1 else CoreMLOptions.model_fields)
                near = did_you_mean(str(complaint["loc"][-1]), known) or f" (there are {', '.join(known)})"
                lines.append(f"  {where}: unknown option{near}")
            else:
                lines.append(f"  {where}: {complaint['msg'].removeprefix('Value error, ')}")
        raise UsageError("options of coreml:\n" + "\n".join(lines)) from error
    return options.model_dump(exclude_none=True) or None
