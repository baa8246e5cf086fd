"""The description of a Core ML model, which ML Programs and neural networks share: images, labels and our record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

RECORD_KEY = "mobconv"  # of the record, in the metadata
# FeatureTypes.proto: ImageFeatureType.ColorSpace
SPACES = {10: "gray", 20: "rgb", 30: "bgr", 40: "gray"}
_NUMBERS = {"gray": 10, "rgb": 20, "bgr": 30}
LABEL, SCORES = "classLabel", "classLabel_probs"  # as coremltools names a classifier's outputs


def record(spec: Any) -> str:
    """The text that `encode` put into the metadata; empty in a file of another maker."""
    return str(spec.description.metadata.userDefined.get(RECORD_KEY, ""))


def colours(spec: Any) -> dict[str, str]:
    """Inputs that are images -> 'rgb', 'bgr' or 'gray'; '' for another colour space."""
    types = ((feature.name, feature.type) for feature in spec.description.input)
    return {name: SPACES.get(kind.imageType.colorSpace, "") for name, kind in types if kind.HasField("imageType")}


def image_notes(spec: Any) -> Iterator[str]:
    """A line for each input that is an image, with its colour space and size."""
    for feature in spec.description.input:
        if feature.type.WhichOneof("Type") == "imageType":
            image = feature.type.imageType
            colour = type(image).ColorSpace.Name(image.colorSpace)
            yield f"input {feature.name!r} is an image: {colour}, {image.height} x {image.width}"


def describe_input(spec: Any, colour: str, shape: Sequence[int]) -> None:
    """Describe the one input, of shape (1, channels, height, width), as an image; of other channels it stays."""
    if colour not in _NUMBERS:
        return
    kind = spec.description.input[0].type
    kind.ClearField("multiArrayType")
    kind.imageType.height, kind.imageType.width = shape[2], shape[3]
    kind.imageType.colorSpace = _NUMBERS[colour]


def describe_classifier(spec: Any, probabilities: str = SCORES) -> None:
    """Describe the outputs as a label, and under the name `probabilities` a number for each label."""
    description = spec.description
    del description.output[:]
    label, scores = description.output.add(name=LABEL), description.output.add(name=probabilities)
    label.type.stringType.SetInParent()
    scores.type.dictionaryType.stringKeyType.SetInParent()
    description.predictedFeatureName, description.predictedProbabilitiesName = LABEL, probabilities
