"""Two results compared: planted differences are found, and images that cannot be paired are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobconv import results
from mobconv.errors import InputError
from mobconv.results import SampleScores, diff
from mobconv.results.diff import BETTER, NOT_COMPARED, ONLY_AFTER, ONLY_BEFORE, SAME, WITHIN_NOISE, WORSE, Side, compare

DEMO = Path(__file__).parents[1] / "docs" / "demo-results.json"
GROUPS = np.arange(2000) // 5


def side(path="a/results.json", drops=(), scored=True, fresh=0, data=None, groups=GROUPS):
    """The demo with some cells' scores lowered by these points; fresh: images that change without a drop."""
    found = results.read(DEMO)
    lowered = dict(drops)
    found.cells = [
        row if row.cell not in lowered else replace(row, score=round(row.score - lowered[row.cell], 4))
        for row in found.cells
    ]
    found.data = found.data | (data or {})
    return Side(Path(path), found, scores_of(found, fresh, groups, path) if scored else None)


def scores_of(found, fresh=0, groups=GROUPS, path="a/results.json", changed=()):
    """Scores of samples for each cell; changed: in place of those of some cells."""
    arrays = {"groups": groups, "float": samples(found.float_score, 0)}
    arrays |= {row.cell: samples(row.score, fresh) for row in found.cells if row.score is not None}
    return SampleScores(Path(path).with_name("scores.npz"), arrays | dict(changed))


def samples(score, fresh):
    """2,000 scores of 0 or 100 with this mean."""
    order = np.random.default_rng(0).permutation(2000)
    if fresh:  # as many right ones, others
        order = np.roll(order, fresh)
    scores = np.full(2000, 100.0)
    scores[order[round(score * 20) :]] = 0.0
    return scores


def verdicts(found):
    return {each.cell: each.outcome for each in found.cells}


@pytest.mark.parametrize("scored", [True, False])
def test_what_was_planted_is_found_and_the_rest_is_noise(scored):
    before = side(drops={"tflite/w4-kmeans": 20}, scored=scored)
    after = side("b/results.json", drops={"onnx/w8-linear": 10}, scored=scored, fresh=20)
    found = compare(before, after)
    outcomes = verdicts(found)
    assert outcomes.pop("onnx/w8-linear") == WORSE and outcomes.pop("tflite/w4-kmeans") == BETTER
    # without scores of samples they are the same files with the same score
    rest = WITHIN_NOISE if scored else SAME
    assert set(outcomes.values()) == {rest} and len(outcomes) == 76
    assert [each.outcome for each in found.cells[:3]] == [WORSE, BETTER, rest]
    assert found.cells[0].lost.loss == pytest.approx(10) and found.cells[0].lost.paired is scored
    assert found.paired is scored and found.groups == (400 if scored else None)
    assert any("no scores.npz beside A and B" in note for note in found.notes) is not scored


def test_paired_sees_what_unpaired_cannot():
    after = {"onnx/w8-linear": 0.35}  # 7 images of 2,000: p 0.016, and 26 comparisons
    assert verdicts(compare(side(), side(drops=after)))["onnx/w8-linear"] == WITHIN_NOISE
    after = {"onnx/w8-linear": 0.7}
    assert verdicts(compare(side(), side(drops=after)))["onnx/w8-linear"] == WORSE
    assert verdicts(compare(side(scored=False), side(drops=after)))["onnx/w8-linear"] == WITHIN_NOISE


def test_equal_scores_of_samples_are_the_same_and_equal_figures_are_noise():
    before, after = side(), side()
    row = after.results.cells[0]
    after = replace(after, scores=scores_of(after.results, changed={row.cell: samples(row.score, fresh=1)}))
    after.results.cells[1] = replace(after.results.cells[1], sha256="of another file")
    found = verdicts(compare(before, after))
    assert found.pop(row.cell) == WITHIN_NOISE and {*found.values()} == {SAME}


def test_without_scores_only_the_same_file_on_the_same_images_is_the_same():
    before, after = (side(scored=False) for _ in range(2))
    row = after.results.cells[0] = replace(after.results.cells[0], sha256="of another file")
    told = compare(before, after)
    found = verdicts(told)
    assert found.pop(row.cell) == WITHIN_NOISE and {*found.values()} == {SAME}
    for each in (told, *told.of(SAME)):  # nothing changed, so there is no noise
        assert (each.lost.loss, each.lost.low, each.lost.high, each.lost.p) == (0, 0, 0, 1)
    assert told.of(WITHIN_NOISE)[0].lost.low < -1 < 1 < told.of(WITHIN_NOISE)[0].lost.high
    retrained = side(scored=False)
    retrained.results.model["sha256"] = "of another checkpoint"
    assert compare(before, retrained).lost.low < -1
    others = side(scored=False, data={"sha256": "of other images"})
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
        changed = {}, {}
        for scheme in {row.scheme for row in before.results.cells}:
            for each, arrays in zip((before, after), changed, strict=True):
                scores = np.where(rng.random(2000) < 0.04, 0.0, 100.0)
                for row in each.results.cells:
                    if row.scheme == scheme:
                        row.score = float(scores.mean())
                        arrays[row.cell] = scores
        before, after = (
            replace(each, scores=scores_of(each.results, changed=arrays))
            for each, arrays in zip((before, after), changed, strict=True)
        )
        alarms += any(outcome != WITHIN_NOISE for outcome in verdicts(compare(before, after)).values())
    assert alarms <= 8


def test_cells_of_one_side_and_cells_that_failed():
    before, after = side(), side()
    before.results.cells.pop()
    gone = after.results.cells.pop(0)
    after.results.cells[0] = replace(after.results.cells[0], status="failed", reason="no kernel", score=None)
    told = compare(before, after)
    assert verdicts(told)[gone.cell] == ONLY_BEFORE
    assert [each.outcome for each in told.cells][:3] == [NOT_COMPARED, ONLY_BEFORE, ONLY_AFTER]
    assert told.cells[0].note == "A ok, B failed: no kernel"


def test_other_images_are_not_paired_and_a_note_says_so():
    found = compare(side(), side(data={"sha256": "0" * 64}))
    assert not found.paired and any(note.startswith("OTHER IMAGES") for note in found.notes)


def test_other_groups_of_the_same_data_are_refused():
    with pytest.raises(InputError, match="other groups for the same data"):
        compare(side(), side(groups=GROUPS[::-1]))


def test_another_metric_is_refused():
    after = side("b/results.json")
    after.results.task = {"name": "toy", "metric": after.results.task["metric"] | {"name": "F1"}}
    with pytest.raises(InputError, match=r"a/results.json is judged by top-1 % and b/results.json by F1 %: their"):
        compare(side(), after)


def test_other_checkpoints_are_named():
    after = side()
    after.results.model["sha256"] = "1" * 64
    assert "of the same name and other content" in compare(side(), after).notes[0]
    assert compare(side(), side()).notes == ()


def test_notes_of_either_side_are_shown():
    after = side()
    after.results.notes.append("no more than guessing")
    assert compare(side(), after).notes == ("B: no more than guessing",)


def test_the_order_names_every_outcome():
    names = (WORSE, NOT_COMPARED, BETTER, ONLY_BEFORE, ONLY_AFTER, WITHIN_NOISE, SAME)
    assert sorted(diff.ORDER) == sorted(names)
