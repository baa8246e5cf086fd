"""Image inputs and class labels of a saved ML Program, and of a neural network's description.

Core ML hands an image over as fp32 numbers of 0 to 255, (1, channels, height, width); scale and bias, where a
converter was given them, are operations of the program like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mobconv.backends.coreml import mil
from mobconv.backends.coreml.rewrite import main_block
from mobconv.backends.coreml.vendor import proto

# FeatureTypes.proto: ImageFeatureType.ColorSpace
SPACES = {10: "gray", 20: "rgb", 30: "bgr", 40: "gray"}
_NUMBERS = {"rgb": 20, "bgr": 30}
LABEL, SCORES = "classLabel", "classLabel_probs"  # as coremltools names a classifier's outputs


def colours(spec: Any) -> dict[str, str]:
    """Input -> 'rgb', 'bgr' or 'gray', of those inputs that are images; '' for another colour space."""
    kinds = ((held.name, held.type) for held in spec.description.input)
    return {name: SPACES.get(kind.imageType.colorSpace, "") for name, kind in kinds if kind.HasField("imageType")}


def normalises(op: Any, inputs: Collection[str]) -> bool:
    """Whether an operation of coremltools' own program is one that pixels.py, or an ImageType, put at its beginning."""
    first = {"real_div": "sub", "add": "mul"}.get(op.op_type)
    if first:
        return op.x.op is not None and op.x.op.op_type == first and normalises(op.x.op, inputs)
    return op.op_type in ("sub", "mul") and op.x.op is None and op.x.name in inputs


def declare(spec: Any, colour: str, labels: Sequence[str]) -> None:
    """Make the one input of a program an image, and with labels, its one output a classifier's."""
    main, block = spec.mlProgram.functions["main"], main_block(spec)
    describe_input(spec, colour, mil.shape_of(main.inputs[0].type))
    if labels and len(block.outputs) == 1:
        op = _classify(block.outputs[0], labels)
        block.operations.append(op)
        block.outputs[:] = [LABEL, SCORES]
        describe_classifier(spec)


def describe_input(spec: Any, colour: str, shape: Sequence[int]) -> None:
    """Say in the description that the one input, of shape (1, channels, height, width), is an image."""
    held = spec.description.input[0].type
    held.ClearField("multiArrayType")
    held.imageType.height, held.imageType.width = shape[2], shape[3]
    held.imageType.colorSpace = _NUMBERS[colour]


def describe_classifier(spec: Any, probabilities: str = SCORES) -> None:
    """Say in the description that the outputs are a label, and under this name a number for each label."""
    description = spec.description
    del description.output[:]
    label, scores = description.output.add(name=LABEL), description.output.add(name=probabilities)
    label.type.stringType.SetInParent()
    scores.type.dictionaryType.stringKeyType.SetInParent()
    description.predictedFeatureName, description.predictedProbabilitiesName = LABEL, probabilities


def _classify(scores: str, labels: Sequence[str]) -> Any:
    """classify(probabilities, classes) -> label and dictionary (MIL, iOS15/classify)."""
    types = proto().MIL_pb2
    op = types.Operation(type="classify")
    op.inputs["probabilities"].arguments.add(name=scores)
    value = op.inputs["classes"].arguments.add().value
    value.type.listType.type.tensorType.dataType = types.STRING
    value.type.listType.length.constant.size = len(labels)
    for text in labels:
        held = value.immediateValue.list.values.add()
        held.type.tensorType.dataType = types.STRING
        held.immediateValue.tensor.strings.values.append(text)
    label, found = op.outputs.add(name=LABEL), op.outputs.add(name=SCORES)
    label.type.tensorType.dataType = types.STRING
    found.type.dictionaryType.keyType.tensorType.dataType = types.STRING
    found.type.dictionaryType.valueType.tensorType.dataType = types.FLOAT64
    return op
