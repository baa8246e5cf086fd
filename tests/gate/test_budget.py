"""A budget that could be misread is refused, and the message says where it is and what to write."""

import pytest

from mobconv.errors import InputError, UsageError
from mobconv.evaluate import tasks
from mobconv.evaluate.tasks import Metric
from mobconv.gate import budget
from mobconv.gate.limits import Growth, ScoreLimit, score, score_limit


def load(tmp_path, text):
    path = tmp_path / "budget.yaml"
    path.write_text(text)
    return budget.load(path)


def entry(tmp_path, *lines):
    text = "budgets:\n- cells: onnx/*\n" + "".join(f"  {line}\n" for line in lines)
    return load(tmp_path, text).entries[0]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10 B", 10),
        ("1.3 MB", 1_300_000),
        ("1.3MB", 1_300_000),
        ("0.29 kB", 290),  # in binary fractions it would be 289
        ("120 kB", 120_000),
        ("2 GB", 2_000_000_000),
        ("1 KiB", 1024),
        ("1.5 MiB", 1_572_864),
        ("1 GiB", 2**30),
        ("1.0005 kB", 1000),
    ],
)
def test_sizes(tmp_path, text, count):
    assert entry(tmp_path, f"max_bytes: {text}").rules == {"max_bytes": count}


def test_every_rule(tmp_path):
    found = entry(
        tmp_path,
        "max_growth: 2.5 %",
        "max_regression: 1",
        "max_latency_ratio: 1.5",
        "min_agreement: 99 %",
        "max_conversion_loss: 0.1",
        "max_drop: 0",
        "max_score: 0.31 px",
        "min_score: 95.5%",
        "max_bytes: 1 kB",
        "must_exist: true",
    )
    assert found.rules == {
        "must_exist": True,
        "max_bytes": 1000,
        "min_score": ScoreLimit("95.5", "%"),
        "max_score": ScoreLimit("0.31", "px"),
        "max_drop": 0.0,
        "max_conversion_loss": 0.1,
        "min_agreement": 99.0,
        "max_latency_ratio": 1.5,
        "max_regression": 1.0,
        "max_growth": Growth(2.5, "%"),
    }
    assert tuple(found.rules) == budget.RULES
    assert entry(tmp_path, "max_growth: 10 kB").rules == {"max_growth": Growth(10_000, "bytes")}
    assert entry(tmp_path, "max_growth: 0 %").max_growth == Growth(0, "%")


def test_a_rule_that_is_off(tmp_path):
    assert entry(tmp_path, "must_exist: false", "max_drop: 1").rules == {"max_drop": 1}


def test_cells(tmp_path):
    found = load(tmp_path, "budgets:\n- cells: ['onnx/w{4..3}-*', coreml/fp32]\n  max_drop: 1\n")
    assert found.entries[0].globs == ["onnx/w4-*", "onnx/w3-*", "coreml/fp32"]


def test_paths_are_relative_to_the_budget(tmp_path):
    (tmp_path / "ci").mkdir()
    text = "checkpoint: ../net.pt\nbaseline: lock.json\nbudgets:\n\n- {cells: '*', max_drop: 1}\n"
    found = load(tmp_path / "ci", text)
    assert found.checkpoint == tmp_path / "ci" / "../net.pt" and found.baseline == tmp_path / "ci" / "lock.json"
    assert found.lines == (5,)


ONE = "budgets:\n- cells: onnx/*\n  max_drop: 1\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_byte: 1 MB", ["max_byte: no such key", "did you mean 'max_bytes'?"]),
        ("min_drop: 1", ["min_drop: no such key", "did you mean 'max_drop'?"]),
        ("max_scores: 90 %", ["max_scores: no such key", "did you mean 'max_score'?"]),
        ("colour: red", ["colour: no such key", "there are cells, must_exist, max_bytes"]),
        ("max_bytes: 10", ["max_bytes: 10 has no unit: write 10 B, 10 kB or 10 MB"]),
        ("max_bytes: 1.3", ["max_bytes: 1.3 has no unit"]),
        ("max_bytes: '10'", ["max_bytes: 10 has no unit"]),
        ("max_bytes: 10 KB", ["unknown unit of size 'KB'", "did you mean 'kB' or 'KiB'?"]),
        ("max_bytes: 10 mb", ["unknown unit of size 'mb'", "did you mean 'MB' or 'MiB'?"]),
        ("max_bytes: 10 M", ["did you mean 'MB' or 'MiB'?"]),
        ("max_bytes: 10 bytes", ["did you mean 'B'?"]),
        ("max_bytes: 10 TB", ["choose one of B, kB, MB, GB, KiB, MiB, GiB"]),
        ("max_bytes: 10 %", ["max_bytes: 10 % of what?", "1.3 MB"]),
        ("max_bytes: -3 MB", ["max_bytes: -3 is negative"]),
        ("max_bytes: -3", ["max_bytes: -3 is negative"]),
        ("max_bytes: 0 B", ["max_bytes: no file has 0 bytes"]),
        ("max_bytes: 1,3 MB", ["max_bytes: '1,3 MB' is not understood", "1.3 MB"]),
        ("max_bytes: big", ["max_bytes: 'big' is not understood"]),
        ("max_bytes: true", ["max_bytes: True is not understood"]),
        ("max_bytes:", ["max_bytes: no value; such as 1.3 MB"]),
        ("max_bytes: [1 MB]", ["max_bytes: ['1 MB'] is not understood"]),
        (
            "max_drop: 2 %",
            ["max_drop: 2 % is a percentage, but a loss is a bare number in the metric's", "write 2"],
        ),
        ("max_drop: 2 points", ["max_drop: '2 points'", "write 2"]),
        ("max_drop: '2'", ["without unit or quotes: write 2"]),
        ("max_drop: -1", ["max_drop: -1 is negative"]),
        ("max_drop: .nan", ["max_drop: nan cannot be a limit"]),
        ("max_drop: .inf", ["max_drop: inf cannot be a limit"]),
        (f"max_drop: 1{'0' * 400}", ["cannot be a limit"]),
        ("max_drop: yes", ["max_drop: True is not understood; write it like 1.5"]),
        ("max_drop:", ["max_drop: no value"]),
        ("max_conversion_loss: 1 %", ["max_conversion_loss: 1 % is a percentage", "points"]),
        ("max_regression: 1 %", ["max_regression: 1 % is a percentage", "points"]),
        ("min_score:", ["min_score: no value; such as 95 % or 0.31"]),
        ("min_score: high", ["min_score: 'high' is not understood; write it like 95 % or 0.31"]),
        ("min_score: 95, %", ["min_score: '95, %' is not understood"]),
        ("max_score: .nan", ["max_score: nan cannot be a limit"]),
        ("max_score: yes", ["max_score: True is not understood"]),
        ("min_agreement: 0.99", ["min_agreement: 0.99 has no sign: write 99 %"]),
        ("min_agreement: 101 %", ["min_agreement: 101 % is more than 100 %"]),
        ("max_latency_ratio: 1.5x", ["max_latency_ratio: '1.5x'", "write 1.5"]),
        ("max_latency_ratio: 150 %", ["max_latency_ratio: 150 %", "write 1.5"]),
        ("max_latency_ratio: 0", ["max_latency_ratio: no file has a latency of 0"]),
        ("max_growth: 5", ["max_growth: 5 has no unit: write 5 % or 5 kB"]),
        ("max_growth: -5 %", ["max_growth: -5 is negative"]),
        ("max_growth: 5 KB", ["max_growth: unknown unit of size 'KB'"]),
        ("must_exist: 'true'", ["must_exist: 'true' is neither true nor false"]),
        ("max_drop: 1\n  max_drop: 2", ["max_drop: given twice, in lines 6 and 7"]),
    ],
)
def test_mistakes_in_an_entry(tmp_path, line, words):
    with pytest.raises(UsageError) as found:
        load(tmp_path, f"{ONE}\n- cells: tflite/*\n  {line}\n")
    for word in ("budget.yaml:\n  entry 2 (line 5), ", *words):
        assert word in str(found.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["a budget is a list under `budgets:`"]),
        ("- cells: '*'\n", ["a budget is a list under `budgets:`"]),
        ("bugdets: []\n", ["bugdets: no such key (did you mean 'budgets'?)", "budgets: missing"]),
        ("budgets: []\n", ["budgets: not a list: `cells: GLOB`"]),
        ("budgets:\n", ["budgets: not a list"]),
        ("budgets: {cells: '*', max_drop: 1}\n", ["budgets: not a list"]),
        ("budgets:\n- onnx/*\n", ["entry 1 (line 2): an entry is `cells: GLOB` and its rules"]),
        ("budgets:\n- max_drop: 1\n", ["entry 1 (line 2), cells: missing (glob over names of cells"]),
        ("budgets:\n- cells: onnx/*\n", ["entry 1 (line 2): no rule in it; there are must_exist, max_bytes"]),
        ("budgets:\n- {cells: [], max_drop: 1}\n", ["entry 1 (line 2), cells: a glob over names of cells"]),
        ("budgets:\n- {cells: 4, max_drop: 1}\n", ["entry 1 (line 2), cells: a glob"]),
        ("budgets:\n- {cells: [a, 4], max_drop: 1}\n", ["entry 1 (line 2), cells: a glob"]),
        ("budgets:\n- {cells: [a, b, a], max_drop: 1}\n", ["entry 1 (line 2), cells: 'a' is given twice"]),
        ("budgets:\n- {cells: a, max_drop: 1, max_drop: 1}\n", ["max_drop: given twice, in lines 2 and 2"]),
        (
            ONE + "- {cells: 'onnx/*', max_drop: 2}\n",
            ["entry 2 (line 4), max_drop: 'onnx/*' has one", "entry 1 (line 2)"],
        ),
        (ONE + "budgets: []\n", ["budgets: given twice, in lines 1 and 4"]),
        (ONE + "checkpoint:\n", ["checkpoint: a path"]),
        (ONE + "baseline: 4\n", ["baseline: a path"]),
        (ONE + "chekpoint: a.pt\n", ["chekpoint: no such key (did you mean 'checkpoint'?)"]),
        ("budgets: [a\n", ["is not YAML", "line 2"]),
        ("budgets:\n- cells: */w4-*\n", ["is not YAML", 'goes in quotes: cells: "*/w4-*"']),
        ("budgets:\n- cells: *w4\n", ["is not YAML", "goes in quotes"]),
        ("budgets:\n- {cells: w?-linear, max_drop: 1}\n", ["is not YAML", "goes in quotes"]),
        ("budgets: !!python/object/apply:os.system ['touch ran']\n", ["is not YAML"]),
        ("budgets:\n- {cells: a, max_drop: 2026-99-99}\n", ["is not YAML"]),
        ("1: 2\n" + ONE, ["1: "]),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, words):
    with pytest.raises(UsageError) as found:
        load(tmp_path, text)
    for word in ("budget.yaml", *words):
        assert word in str(found.value)


def test_all_mistakes_are_shown_at_once(tmp_path):
    with pytest.raises(UsageError) as found:
        load(tmp_path, "budgets:\n- {cells: a, max_drop: 1 %}\n- {cells: b, max_bytes: 4}\n")
    assert "entry 1 (line 2), max_drop" in str(found.value) and "entry 2 (line 3), max_bytes" in str(found.value)


TOP_1 = tasks.get("classification").metric
MAE = Metric("MAE", "px", "px", higher_is_better=False)
SCORE = Metric("R2", "", "", decimals=4)


@pytest.mark.parametrize(
    ("metric", "value", "limit"),
    [
        (TOP_1, "95 %", 95.0),
        (TOP_1, "95.5%", 95.5),
        (MAE, "0.31 px", 0.31),
        (MAE, "0.31px", 0.31),
        (MAE, 0.31, 0.31),
        (MAE, 1, 1.0),
        (SCORE, 0.31, 0.31),
        (SCORE, "0.31", 0.31),
        (SCORE, -1.5, -1.5),
        (SCORE, "1e-3", 0.001),  # YAML's own floats have a point
        (Metric("share", "", "", full=1.0), 1, 1.0),
    ],
)
def test_scores_in_the_unit_of_the_metric(metric, value, limit):
    assert score_limit(score(value), metric) == limit


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        (TOP_1, 90, "90 has no sign: write 90 %"),
        (TOP_1, 0.9, r"0.9 has no sign: write 90 % \(or 0.9 %\)"),
        (TOP_1, 1, "1 may be 1 % or 100 %"),
        (TOP_1, 1.0, "1 may be 1 % or 100 %"),
        (TOP_1, "90 points", "'90 points' is not a percentage: write 90 %"),
        (TOP_1, "101 %", "101 % is more than 100 %"),
        (TOP_1, "-5 %", "-5 is negative"),
        (TOP_1, -5, "-5 is negative"),
        (MAE, "31 %", "'31 %': MAE is in px: write 31 px"),
        (MAE, "0.31 mm", "'0.31 mm': MAE is in px: write 0.31 px"),
        (MAE, "0.31", "'0.31': MAE is in px: write 0.31 px"),
        (SCORE, "0.31 px", "'0.31 px': R2 is a bare number, without unit or quotes: write 0.31"),
        (Metric("share", "", "", full=1.0), 1.5, "1.5 is more than 1"),
    ],
)
def test_scores_that_are_not_of_the_metric(metric, value, words):
    with pytest.raises(ValueError, match=words):
        score_limit(score(value), metric)


def test_the_same_rule_for_other_cells_is_fine(tmp_path):
    assert len(load(tmp_path, ONE + "- {cells: '*', max_drop: 2}\n- {cells: 'onnx/*', max_bytes: 1 B}\n").entries) == 3


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"gone.yaml: no such budget"):
        budget.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize("kind", ["folder", "binary"])
def test_unreadable(tmp_path, kind):
    path = tmp_path / "budget.yaml"
    path.mkdir() if kind == "folder" else path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"budget.yaml: cannot be read"):
        budget.load(path)
