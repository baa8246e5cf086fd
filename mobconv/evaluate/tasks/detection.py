"""Detection: boxes with scores and classes, judged by mean average precision (mAP) as COCO defines it.

| array              | shape     | content                                                                           |
|--------------------|-----------|-----------------------------------------------------------------------------------|
| output `boxes`     | (N, D, 4) | x1, y1, x2, y2 in the units of the targets                                        |
| output `scores`    | (N, D)    | larger is surer                                                                   |
| output `classes`   | (N, D)    | from 0; -1 for a place without a box                                              |
| `target_boxes`     | (N, M, 4) | as `boxes`                                                                        |
| `target_classes`   | (N, M)    | as `classes`                                                                      |

A network whose outputs are others needs a `postprocess`, which makes these of them (see users.py). Source: the
definition of pycocotools' COCOeval for boxes of all areas, at most 100 a sample, without crowds: detections of a class
are matched by falling score, each with the free box of largest IoU; precision is made monotonic and read at 101
recalls; AP is averaged over classes with boxes, and over IoU thresholds of 50 to 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError, setting
from mobconv.evaluate.tasks.base import Metric, Outputs
from mobconv.evaluate.tasks.measured import Measure, MeasuredTask

OUTPUTS, TARGETS = ("boxes", "scores", "classes"), ("target_boxes", "target_classes")
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # detections of a sample that count, the surest
_ROUNDS = 250  # resamples: each sorts out thousands of detections
_SURE, _OVERLAP = 0.5, 0.5  # of detections that two files are compared by


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in all samples, by falling score.

    samples  that each is in, (n,); right: whether it matches a box, at each threshold, (thresholds, n)
    boxes    of the class in each sample, (N,)
    """

    samples: NDArray[np.int64]
    right: NDArray[np.bool_]
    boxes: NDArray[np.int64]


def iou(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) and others (m, 4) -> (n, m); 0 for boxes without area."""
    one, two = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.clip(np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]), 0, None)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(axis=-1) for each in (one, two)]
    both = sides.prod(axis=-1)
    union = areas[0] + areas[1] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(union), where=union > 0))


def matched(overlaps: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Whether each detection, surest first, matches a box that no surer one has: overlaps (n, m) -> (n,)."""
    free = np.ones(overlaps.shape[1], bool)
    right = np.zeros(len(overlaps), bool)
    for number, row in enumerate(overlaps):
        candidates = np.where(free, row, -1.0)
        best = int(candidates.argmax()) if len(candidates) else 0
        if len(candidates) and candidates[best] >= threshold:
            right[number], free[best] = True, False
    return right


def _matches(thresholds: NDArray[np.float64], outputs: Outputs, data: Samples) -> list[ClassMatches]:
    boxes, scores, classes = (outputs[name] for name in OUTPUTS)
    wanted_boxes, wanted_classes = (data.targets[name] for name in TARGETS)
    matches = []
    surest = np.argsort(-scores, axis=1, kind="stable")[:, :_MOST]
    boxes = np.take_along_axis(boxes, surest[..., None], axis=1)
    scores, classes = (np.take_along_axis(each, surest, axis=1) for each in (scores, classes))
    for number in np.unique(wanted_classes[wanted_classes >= 0]):
        samples, values, right = [], [], []
        for sample in range(len(scores)):
            mine = classes[sample] == number
            if mine.any():
                overlaps = iou(boxes[sample][mine], wanted_boxes[sample][wanted_classes[sample] == number])
                right.append(np.stack([matched(overlaps, threshold) for threshold in thresholds]))
                samples.append(np.full(int(mine.sum()), sample))
                values.append(scores[sample][mine])
        count = (wanted_classes == number).sum(axis=1)
        if not samples:
            matches.append(ClassMatches(np.zeros(0, np.int64), np.zeros((len(thresholds), 0), bool), count))
            continue
        order = np.argsort(-np.concatenate(values), kind="stable")
        matches.append(ClassMatches(np.concatenate(samples)[order], np.concatenate(right, axis=1)[:, order], count))
    return matches


def _mean_average_precision(matches: list[ClassMatches], counts: NDArray[np.int64]) -> float:
    """In percent; 0 where no sample has a box."""
    averages = []
    for each in matches:
        boxes = int(counts @ each.boxes)
        if not boxes:
            continue
        weights = counts[each.samples]
        right = np.cumsum(each.right * weights, axis=1)
        seen = np.maximum(np.cumsum(weights), 1)
        precision = np.maximum.accumulate((right / seen)[:, ::-1], axis=1)[:, ::-1]
        for recall, envelope in zip(right / boxes, precision, strict=True):
            places = np.searchsorted(recall, _RECALLS, side="left")
            there = places < len(envelope)
            averages.append(float(envelope[places[there]].sum() / len(_RECALLS)))
    return float(100 * np.mean(averages)) if averages else 0.0


def _map(name: str, thresholds: NDArray[np.float64]) -> Measure:
    metric = Metric(name, "%", "points")
    return Measure(metric, partial(_matches, thresholds), _mean_average_precision, rounds=_ROUNDS)


class Detection(MeasuredTask):
    """Boxes, scores and classes of each sample."""

    name = "detection"
    measures = (_map("mAP@50-95", _THRESHOLDS), _map("mAP@50", _THRESHOLDS[:1]))

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError where outputs or targets are missing, or have other shapes."""
        if missing := [name for name in OUTPUTS if name not in outputs]:
            raise InputError(
                f"detection needs outputs {', '.join(OUTPUTS)}, and there are {', '.join(outputs)}: no {missing[0]!r}; "
                f"{setting('postprocess', 'package.module:function')} makes them of a sample's outputs"
            )
        if missing := [name for name in TARGETS if name not in data.targets]:
            raise InputError(f"{data.source}: detection needs arrays {', '.join(TARGETS)}: no {missing[0]!r}")
        for arrays, names in ((outputs, OUTPUTS), (data.targets, TARGETS)):
            places = arrays[names[-1]].shape
            wanted = dict.fromkeys(names[1:], places) | {names[0]: (*places, 4)}
            for name, shape in wanted.items():
                if len(places) != 2 or arrays[name].shape != shape:
                    raise InputError(
                        f"{data.source}: {name} has shape {arrays[name].shape}; {shape} goes with {places}"
                    )
        super().check({name: outputs[name] for name in OUTPUTS}, data)

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """Fraction of samples whose boxes of a score of at least 0.5 are the same: class, and IoU of at least 0.5."""
        return float(np.mean([_alike(outputs, reference, sample) for sample in range(len(outputs["scores"]))]))


def _alike(outputs: Outputs, reference: Outputs, sample: int) -> bool:
    sides = []
    for each in (outputs, reference):
        boxes, scores, classes = (each[name][sample] for name in OUTPUTS)
        sure = (scores >= _SURE) & (classes >= 0)
        sides.append((boxes[sure], classes[sure]))
    (boxes, classes), (others, wanted) = sides
    if len(boxes) != len(others):
        return False
    same_class = classes[:, None] == wanted[None]
    return bool(matched(np.where(same_class, iou(boxes, others), 0.0), _OVERLAP).all())


task = Detection()
