"""Segmentation: a class for each pixel, judged by the mean intersection over union (mIoU)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError
from mobconv.evaluate.tasks.base import Metric, Outputs, first_output, only_target
from mobconv.evaluate.tasks.measured import Measure, MeasuredTask

IGNORED = 255  # of a mask: a pixel that counts for nothing, as in Pascal VOC and Cityscapes


def predicted(output: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class of each pixel, (N, H, W), from numbers for each class, (N, classes, H, W)."""
    return np.asarray(output.argmax(axis=1), np.int64)


def _counts(outputs: Outputs, data: Samples) -> NDArray[np.float64]:
    """Pixels of intersection and of union of each sample and class, (N, classes, 2)."""
    output, masks = first_output(outputs), only_target(data).astype(np.int64)
    classes = output.shape[1]
    classified = predicted(output)
    sums = np.zeros((len(masks), classes, 2))
    for number, (one, mask) in enumerate(zip(classified, masks, strict=True)):
        seen = mask != IGNORED
        both = np.bincount(mask[seen & (one == mask)], minlength=classes)
        union = np.bincount(mask[seen], minlength=classes) + np.bincount(one[seen], minlength=classes) - both
        sums[number] = np.stack([both, union], axis=1)
    return sums


def _mean_iou(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Mean over the classes that are in a mask or a prediction, in percent."""
    both, union = np.tensordot(counts, sums, 1).T
    there = union > 0
    return float(100 * (both[there] / union[there]).mean()) if there.any() else 0.0


def _right(outputs: Outputs, data: Samples) -> NDArray[np.float64]:
    """Pixels that are right, and those that count, of each sample: (N, 2)."""
    masks = only_target(data).astype(np.int64)
    seen = masks != IGNORED
    right = seen & (predicted(first_output(outputs)) == masks)
    return np.stack([right.reshape(len(masks), -1).sum(axis=1), seen.reshape(len(masks), -1).sum(axis=1)], axis=1) * 1.0


def _share(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    right, seen = counts @ sums
    return float(100 * right / seen) if seen else 0.0


class Segmentation(MeasuredTask):
    """The first output is (N, classes, H, W), the only target masks (N, H, W) of classes from 0; 255 is left out.

    mIoU is over all pixels of all samples, as scikit-learn's jaccard_score of them with average='macro'.
    """

    name = "segmentation"
    measures = (
        Measure(Metric("mIoU", "%", "points"), _counts, _mean_iou),
        Measure(Metric("pixel-accuracy", "%", "points"), _right, _share),
    )

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError where output and masks do not fit, or a mask has a class that the output does not have."""
        name, output = next(iter(outputs.items()))
        masks = only_target(data)
        if output.ndim != 4 or masks.shape != (len(output), *output.shape[2:]) or masks.dtype.kind not in "biu":
            raise InputError(
                f"{data.source}: masks are {masks.dtype} of shape {masks.shape}, and output {name!r} is of "
                f"{output.shape}; segmentation compares (N, classes, height, width) with integers (N, height, width)"
            )
        used = masks[masks != IGNORED]
        if used.size and not 0 <= used.min() <= used.max() < output.shape[1]:
            raise InputError(
                f"{data.source}: masks have classes {used.min()} to {used.max()}, and output {name!r} has "
                f"{output.shape[1]}, 0 to {output.shape[1] - 1} ({IGNORED} is left out)"
            )
        super().check({name: output}, data)

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """Fraction of pixels with the same class."""
        return float((predicted(first_output(outputs)) == predicted(first_output(reference))).mean())


task = Segmentation()
