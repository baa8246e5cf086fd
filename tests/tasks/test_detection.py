"""mAP against a reference that is written out here in plain loops, and cases by hand.

Neither torchmetrics nor pycocotools is installed. The reference follows COCO's definition independently: samples are
repeated where a resample repeats them, detections are walked one by one, and precision is looked up for each recall.
"""

import numpy as np
import pytest

from mobconv.data.arrays import Arrays
from mobconv.errors import InputError
from mobconv.evaluate import tasks
from mobconv.evaluate.tasks.detection import iou
from mobconv.stats import resampling


def overlap(one, other):
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def average_precision(samples, number, threshold):
    """AP of one class on samples (detections [(score, class, box)], boxes [(class, box)]); None without boxes."""
    entries, total = [], 0
    for detections, boxes in samples:
        wanted = [box for kind, box in boxes if kind == number]
        total += len(wanted)
        taken = set()
        surest = sorted(detections, key=lambda each: -each[0])[:100]
        for score, kind, box in surest:
            if kind != number:
                continue
            best, place = threshold, None
            for index, other in enumerate(wanted):
                if index not in taken and overlap(box, other) >= best and (place is None or overlap(box, other) > best):
                    best, place = overlap(box, other), index
            if place is not None:
                taken.add(place)
            entries.append((score, place is not None))
    if not total:
        return None
    entries.sort(key=lambda entry: -entry[0])
    points, right = [], 0
    for rank, (_, is_right) in enumerate(entries, 1):
        right += is_right
        points.append((right / total, right / rank))
    precisions = []
    for step in range(101):
        reached = [precision for recall, precision in points if recall >= np.linspace(0, 1, 101)[step]]
        precisions.append(max(reached, default=0.0))
    return sum(precisions) / 101


def reference(samples, thresholds):
    classes = sorted({kind for _, boxes in samples for kind, _ in boxes})
    values = [average_precision(samples, kind, threshold) for kind in classes for threshold in thresholds]
    return 100 * sum(value for value in values if value is not None) / len([v for v in values if v is not None])


def drawn(rng, count=14, most=6, classes=3):
    """Random boxes, and detections near them, near others, and anywhere."""
    samples = []
    for _ in range(count):
        boxes, detections = [], []
        for _ in range(rng.integers(0, most)):
            corner, size = rng.uniform(0, 60, 2), rng.uniform(8, 30, 2)
            box, kind = np.concatenate([corner, corner + size]), int(rng.integers(classes))
            boxes.append((kind, box))
            for _ in range(rng.integers(0, 3)):
                seen = kind if rng.random() < 0.8 else int(rng.integers(classes))
                detections.append((float(rng.random()), seen, box + rng.normal(0, 2.5, 4)))
        for _ in range(rng.integers(0, 3)):
            corner = rng.uniform(0, 60, 2)
            detections.append((float(rng.random()), int(rng.integers(classes)), np.concatenate([corner, corner + 20])))
        samples.append((detections, boxes))
    return samples


def packed(samples):
    """Outputs and data of samples, padded."""
    most = max(len(detections) for detections, _ in samples)
    limit = max(1, *(len(boxes) for _, boxes in samples))
    count = len(samples)
    outputs = {
        "boxes": np.zeros((count, most, 4)),
        "scores": np.zeros((count, most)),
        "classes": np.full((count, most), -1),
    }
    targets = {"target_boxes": np.zeros((count, limit, 4)), "target_classes": np.full((count, limit), -1)}
    for number, (detections, boxes) in enumerate(samples):
        for place, (score, kind, box) in enumerate(detections):
            outputs["scores"][number, place], outputs["classes"][number, place] = score, kind
            outputs["boxes"][number, place] = box
        for place, (kind, box) in enumerate(boxes):
            targets["target_classes"][number, place], targets["target_boxes"][number, place] = kind, box
    return outputs, Arrays("set.npz", {"x": np.zeros((count, 1))}, targets, (), "")


def figures(samples):
    outputs, data = packed(samples)
    task = tasks.get("detection")
    task.check(outputs, data)
    return {task.metric.name: task.aggregate(task.scores(outputs, data))} | task.more(outputs, data)


@pytest.mark.parametrize("seed", range(6))
def test_against_the_reference(seed):
    samples = drawn(np.random.default_rng(seed))
    found = figures(samples)
    assert found["mAP@50-95"] == pytest.approx(reference(samples, np.linspace(0.5, 0.95, 10)), abs=1e-6)
    assert found["mAP@50"] == pytest.approx(reference(samples, [0.5]), abs=1e-6)
    assert 5 < found["mAP@50-95"] < found["mAP@50"] < 95


def test_resamples_are_of_repeated_samples():
    samples = drawn(np.random.default_rng(9), 8)
    outputs, data = packed(samples)
    task = tasks.get("detection", "mAP@50")
    scores = task.scores(outputs, data)
    for counts, score in list(zip(resampling.draws(8, None, 250), scores[1:], strict=True))[:15]:
        repeated = [samples[place] for place in np.repeat(np.arange(8), counts)]
        assert score == pytest.approx(reference(repeated, [0.5]), abs=1e-6)


BOX = np.array([0.0, 0.0, 10.0, 10.0])
FAR = BOX + 50


@pytest.mark.parametrize(
    ("detections", "boxes", "wanted"),
    [
        ([(0.9, 0, BOX)], [(0, BOX)], (100, 100)),
        ([(0.9, 1, BOX)], [(0, BOX)], (0, 0)),  # of another class
        ([(0.9, 0, BOX), (0.8, 0, BOX)], [(0, BOX)], (100, 100)),  # the second is wrong, behind all that is right
        ([(0.9, 0, FAR), (0.8, 0, BOX)], [(0, BOX)], (50, 50)),  # a wrong one first: precision 1/2
        ([(0.9, 0, BOX)], [(0, BOX), (0, FAR)], (100 * 51 / 101, 100 * 51 / 101)),  # recalls of 0 to 0.50
        ([(0.9, 0, [0, 0, 10, 7.2])], [(0, BOX)], (100, 50)),  # IoU 0.72: right at 0.50 to 0.70, 5 of 10 thresholds
        ([], [(0, BOX)], (0, 0)),
    ],
)
def test_by_hand(detections, boxes, wanted):
    found = figures([(detections, boxes), ([(0.1, 5, BOX)], [])])
    assert (found["mAP@50"], found["mAP@50-95"]) == pytest.approx(wanted)


def test_iou_by_hand():
    found = iou(np.array([BOX, [5, 0, 15, 10], FAR, [3, 3, 3, 3]]), np.array([BOX]))
    assert found[:, 0] == pytest.approx([1, 1 / 3, 0, 0])


def test_of_a_sample_the_surest_hundred_count():
    wrong = [(0.9, 0, FAR)] * 100
    assert figures([([*wrong, (0.5, 0, BOX)], [(0, BOX)])])["mAP@50"] == 0
    assert figures([([*wrong[1:], (0.5, 0, BOX)], [(0, BOX)])])["mAP@50"] == pytest.approx(1)


def test_agreement_compares_sure_boxes():
    one, _ = packed([([(0.9, 0, BOX), (0.2, 0, FAR)], [(0, BOX)]), ([(0.9, 1, FAR), (0.1, 1, FAR)], [(1, FAR)])])
    other, _ = packed([([(0.8, 0, BOX + 1), (0.4, 1, FAR)], []), ([(0.9, 0, FAR), (0.1, 1, FAR)], [])])
    task = tasks.get("detection")
    assert task.agreement(one, one) == 1 and task.agreement(one, other) == 0.5


def test_what_is_missing_is_said():
    outputs, data = packed([([(0.9, 0, BOX)], [(0, BOX)])])
    with pytest.raises(InputError, match=r"no 'classes'.*postprocess"):
        tasks.get("detection").check({"boxes": outputs["boxes"], "scores": outputs["scores"]}, data)
    with pytest.raises(InputError, match="needs arrays target_boxes, target_classes: no 'target_boxes'"):
        tasks.get("detection").check(outputs, Arrays("set.npz", data.inputs, {}, (), ""))
    with pytest.raises(InputError, match=r"scores has shape \(1, 2\); \(1, 1\)"):
        tasks.get("detection").check(outputs | {"scores": np.zeros((1, 2))}, data)
