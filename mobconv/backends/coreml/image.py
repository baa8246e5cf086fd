"""Image input and class labels of a saved ML Program.

Core ML gives a program an image as fp32 numbers of 0 to 255, (1, channels, height, width); scale and bias, where a
converter was given them, are ordinary operations of the program.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mobconv.backends.apple.description import LABEL, SCORES, describe_classifier, describe_input
from mobconv.backends.apple.vendor import proto
from mobconv.backends.coreml import mil
from mobconv.backends.coreml.rewrite import main_block


def normalises(op: Any, inputs: Collection[str]) -> bool:
    """Whether an operation of coremltools' program normalises pixels, from `image_input` or an ImageType."""
    first = {"real_div": "sub", "add": "mul"}.get(op.op_type)
    if first:
        return op.x.op is not None and op.x.op.op_type == first and normalises(op.x.op, inputs)
    return op.op_type in ("sub", "mul") and op.x.op is None and op.x.name in inputs


def declare(spec: Any, colour: str, labels: Sequence[str]) -> None:
    """Make the one input of a program an image and, where there are labels, its one output that of a classifier."""
    main, block = spec.mlProgram.functions["main"], main_block(spec)
    describe_input(spec, colour, mil.shape_of(main.inputs[0].type))
    if labels and len(block.outputs) == 1:
        op = _classify(block.outputs[0], labels)
        block.operations.append(op)
        block.outputs[:] = [LABEL, SCORES]
        describe_classifier(spec)


def _classify(scores: str, labels: Sequence[str]) -> Any:
    """classify(probabilities, classes) -> label and dictionary (MIL, iOS15/classify)."""
    types = proto().MIL_pb2
    op = types.Operation(type="classify")
    op.inputs["probabilities"].arguments.add(name=scores)
    value = op.inputs["classes"].arguments.add().value
    value.type.listType.type.tensorType.dataType = types.STRING
    value.type.listType.length.constant.size = len(labels)
    for text in labels:
        entry = value.immediateValue.list.values.add()
        entry.type.tensorType.dataType = types.STRING
        entry.immediateValue.tensor.strings.values.append(text)
    label, dictionary = op.outputs.add(name=LABEL), op.outputs.add(name=SCORES)
    label.type.tensorType.dataType = types.STRING
    dictionary.type.dictionaryType.keyType.tensorType.dataType = types.STRING
    dictionary.type.dictionaryType.valueType.tensorType.dataType = types.FLOAT64
    return op
