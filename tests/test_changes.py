"""Two results compared: verdicts against what was planted, and when images cannot be paired."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobconv import results
from mobconv.errors import InputError
from mobconv.results import diff
from mobconv.results.diff import BETTER, NOT_COMPARED, ONLY_AFTER, ONLY_BEFORE, SAME, WITHIN_NOISE, WORSE, Side, compare

DEMO = Path(__file__).parents[1] / "docs" / "demo-results.json"
LABELS = np.arange(2000) % 10
GROUPS = np.arange(2000) // 5


def side(path="a/results.json", drops=(), predicted=True, fresh=0, data=None):
    """The demo with some cells' top-1 lowered by so many points; fresh: images that change without a drop."""
    found = results.read(DEMO)
    lowered = dict(drops)
    found.cells = [
        row if row.cell not in lowered else replace(row, top1=round(row.top1 - lowered[row.cell] / 100, 6))
        for row in found.cells
    ]
    found.data = found.data | (data or {})
    held = None
    if predicted:
        held = {"labels": LABELS, "groups": GROUPS, "float": predictions(found.float_top1, 0)}
        held |= {row.cell: predictions(row.top1, fresh) for row in found.cells}
    return Side(Path(path), found, held)


def predictions(top1, fresh):
    order = np.random.default_rng(0).permutation(2000)
    if fresh:  # as many right ones, others
        order = np.roll(order, fresh)
    found = LABELS.copy()
    found[order[round(top1 * 2000) :]] += 1
    return found % 10


def verdicts(found):
    return {each.cell: each.outcome for each in found.cells}


@pytest.mark.parametrize("predicted", [True, False])
def test_what_was_planted_is_found_and_the_rest_is_noise(predicted):
    before = side(drops={"tflite/w4-kmeans": 20}, predicted=predicted)
    after = side("b/results.json", drops={"onnx/w8-linear": 10}, predicted=predicted, fresh=20)
    found = compare(before, after)
    told = verdicts(found)
    assert told.pop("onnx/w8-linear") == WORSE and told.pop("tflite/w4-kmeans") == BETTER
    # without predictions they are the same files with the same top-1
    rest = WITHIN_NOISE if predicted else SAME
    assert set(told.values()) == {rest} and len(told) == 76
    assert [each.outcome for each in found.cells[:3]] == [WORSE, BETTER, rest]
    assert found.cells[0].lost.points == pytest.approx(10) and found.cells[0].lost.paired is predicted
    assert found.paired is predicted and found.groups == (400 if predicted else None)
    assert any("no predictions.npz beside A and B" in note for note in found.notes) is not predicted


def test_paired_sees_what_unpaired_cannot():
    after = {"onnx/w8-linear": 0.35}  # 7 images of 2,000: p 0.016, and 26 comparisons
    assert verdicts(compare(side(), side(drops=after)))["onnx/w8-linear"] == WITHIN_NOISE
    after = {"onnx/w8-linear": 0.7}
    assert verdicts(compare(side(), side(drops=after)))["onnx/w8-linear"] == WORSE
    assert verdicts(compare(side(predicted=False), side(drops=after)))["onnx/w8-linear"] == WITHIN_NOISE


def test_equal_predictions_are_the_same_and_equal_figures_are_noise():
    before, after = side(), side()
    row = after.results.cells[0]
    after.predictions[row.cell] = predictions(row.top1, fresh=1)
    after.results.cells[1] = replace(after.results.cells[1], sha256="of another file")
    found = verdicts(compare(before, after))
    assert found.pop(row.cell) == WITHIN_NOISE and {*found.values()} == {SAME}


def test_without_predictions_only_the_same_file_on_the_same_images_is_the_same():
    before, after = (side(predicted=False) for _ in range(2))
    row = after.results.cells[0] = replace(after.results.cells[0], sha256="of another file")
    told = compare(before, after)
    found = verdicts(told)
    assert found.pop(row.cell) == WITHIN_NOISE and {*found.values()} == {SAME}
    for each in (told, *told.of(SAME)):  # nothing changed, so there is no noise
        assert (each.lost.points, each.lost.low, each.lost.high, each.lost.p) == (0, 0, 0, 1)
    assert told.of(WITHIN_NOISE)[0].lost.low < -1 < 1 < told.of(WITHIN_NOISE)[0].lost.high
    retrained = side(predicted=False)
    retrained.results.model["sha256"] = "of another checkpoint"
    assert compare(before, retrained).lost.low < -1
    others = side(predicted=False, data={"sha256": "of other images"})
    assert {*verdicts(compare(before, others)).values()} == {WITHIN_NOISE}


def test_p_is_adjusted_for_as_many_comparisons_as_there_are():
    """Formats of one scheme with equal figures count once: p of the smallest is times their number."""
    found = compare(side(), side(drops={f"{name}/w8-linear": 1 for name in ("onnx", "tflite", "coreml")}))
    assert found.tests == 26
    worst = found.cells[0]
    assert worst.cell.endswith("w8-linear") and worst.p == pytest.approx(min(1, 26 * worst.lost.p))


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_promised():
    # 40 pairs of results that differ by chance alone, 26 comparisons each: by Holm at most 2 expected with any alarm.
    # Poisson of 2 is above 8 once in 4,000
    alarms = 0
    for seed in range(40):
        before, after = side(), side()
        rng = np.random.default_rng(seed)
        for scheme in {row.scheme for row in before.results.cells}:
            wrong = np.where(rng.random(2000) < 0.04, 1, 0), np.where(rng.random(2000) < 0.04, 1, 0)
            for each, flip in zip((before, after), wrong, strict=True):
                for row in each.results.cells:
                    if row.scheme == scheme:
                        row.top1 = float((flip == 0).mean())
                        each.predictions[row.cell] = (LABELS + flip) % 10
        alarms += any(outcome != WITHIN_NOISE for outcome in verdicts(compare(before, after)).values())
    assert alarms <= 8


def test_cells_of_one_side_and_cells_that_failed():
    before, after = side(), side()
    before.results.cells.pop()
    gone = after.results.cells.pop(0)
    after.results.cells[0] = replace(after.results.cells[0], status="failed", reason="no kernel", top1=None)
    told = compare(before, after)
    assert verdicts(told)[gone.cell] == ONLY_BEFORE
    assert [each.outcome for each in told.cells][:3] == [NOT_COMPARED, ONLY_BEFORE, ONLY_AFTER]
    assert told.cells[0].note == "A ok, B failed: no kernel"


def test_other_images_are_not_paired_and_that_is_said():
    found = compare(side(), side(data={"sha256": "0" * 64}))
    assert not found.paired and any(note.startswith("OTHER IMAGES") for note in found.notes)


def test_other_labels_of_the_same_data_are_refused():
    after = side()
    after.predictions["labels"] = (LABELS + 1) % 10
    with pytest.raises(InputError, match="other labels for the same data"):
        compare(side(), after)


def test_other_checkpoints_are_told():
    after = side()
    after.results.model["sha256"] = "1" * 64
    assert "of the same name and other content" in compare(side(), after).notes[0]
    assert compare(side(), side()).notes == ()


def test_notes_of_either_side_are_told():
    after = side()
    after.results.notes.append("no more than guessing")
    assert compare(side(), after).notes == ("B: no more than guessing",)


def test_the_order_names_every_outcome():
    names = (WORSE, NOT_COMPARED, BETTER, ONLY_BEFORE, ONLY_AFTER, WITHIN_NOISE, SAME)
    assert sorted(diff.ORDER) == sorted(names)
