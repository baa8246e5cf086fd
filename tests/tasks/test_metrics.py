"""Each metric against scikit-learn or a reference written for the test, and what its resamples are.

torchmetrics is not installed here; where it defines a metric as scikit-learn does, that is the reference.
"""

import numpy as np
import pytest
from sklearn import metrics as sk

from mobconv.data.arrays import Arrays
from mobconv.errors import InputError, UsageError
from mobconv.evaluate import tasks
from mobconv.stats import paired, resampling

CLOSE = {"rel": 1e-6, "abs": 1e-6}


def arrays(groups=None, float_outputs=None, **targets):
    count = len(next(iter(targets.values()))) if targets else len(next(iter(float_outputs.values())))
    inputs = {"x": np.zeros((count, 1), np.float32)}
    return Arrays("set.npz", inputs, targets, (), "", groups, float_outputs)


def figures(name, outputs, data):
    """All metrics of a task by name."""
    task = tasks.get(name)
    task.check(outputs, data)
    return {task.metric.name: task.aggregate(task.scores(outputs, data))} | task.more(outputs, data)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class TestClassification:
    def outputs(self, rng, count=300, classes=8):
        labels = rng.integers(0, classes - 1, count)  # the last class is never a label
        logits = rng.normal(size=(count, classes)).astype(np.float32)
        logits[np.arange(count), labels] += 1.5
        return {"logits": logits}, labels

    def test_against_scikit_learn(self, rng):
        outputs, labels = self.outputs(rng)
        logits = outputs["logits"]
        found = figures("classification", outputs, arrays(label=labels))
        assert found["top-1"] == pytest.approx(100 * sk.accuracy_score(labels, logits.argmax(1)), **CLOSE)
        top5 = sk.top_k_accuracy_score(labels, logits, k=5, labels=np.arange(8))
        assert found["top-5"] == pytest.approx(100 * top5, **CLOSE)
        assert found["F1"] == pytest.approx(100 * sk.f1_score(labels, logits.argmax(1), average="macro"), **CLOSE)

    def test_not_a_number_is_a_miss_of_f1(self):
        logits = np.array([[2, 1], [np.nan, np.nan], [0, 1]], np.float32)
        found = figures("classification", {"y": logits}, arrays(label=np.array([0, 0, 1])))
        assert found["F1"] == pytest.approx(100 * (2 / 3 + 1) / 2)

    def test_resampled_f1_is_that_of_the_drawn_samples(self, rng):
        outputs, labels = self.outputs(rng, 60)
        task = tasks.get("classification", "f1")
        scores = task.scores(outputs, arrays(label=labels))
        assert scores.shape == (1 + task.metric.resamples,) == (1001,)
        predicted = outputs["logits"].argmax(1)
        for counts, score in list(zip(resampling.draws(60, None), scores[1:], strict=True))[:20]:
            places = np.repeat(np.arange(60), counts)
            assert score == pytest.approx(100 * sk.f1_score(labels[places], predicted[places], average="macro"))

    def test_another_metric_of_the_task(self, rng):
        outputs, labels = self.outputs(rng)
        task = tasks.get("classification", "Top-5")
        assert task.metric.name == "top-5" and "top-1" in task.more(outputs, arrays(label=labels))
        with pytest.raises(UsageError, match="top-1, top-5, F1"):
            tasks.get("classification", "f2")

    def test_without_labels(self, rng):
        outputs, _ = self.outputs(rng)
        with pytest.raises(InputError, match=r"no labels.*fidelity"):
            figures("classification", outputs, arrays(target=np.zeros((300, 2))))


class TestRegression:
    @pytest.mark.parametrize("shape", [(1,), (3,), (2, 4)])
    def test_against_scikit_learn(self, rng, shape):
        target = rng.normal(size=(50, *shape)).astype(np.float32)
        output = (target + rng.normal(size=target.shape)).astype(np.float32)
        found = figures("regression", {"y": output}, arrays(target=target))
        flat = target.ravel(), output.ravel()
        assert found["MAE"] == pytest.approx(sk.mean_absolute_error(*flat), **CLOSE)
        assert found["RMSE"] == pytest.approx(sk.root_mean_squared_error(*flat), **CLOSE)

    def test_lengths_of_one_do_not_matter(self, rng):
        output = rng.normal(size=(9, 1)).astype(np.float32)
        assert figures("regression", {"y": output}, arrays(y=output[:, 0] + 1))["MAE"] == pytest.approx(1)

    def test_shapes_that_do_not_fit(self):
        with pytest.raises(InputError, match=r"target has shape \(4, 2\), and output 'y' has \(4, 3\)"):
            figures("regression", {"y": np.zeros((4, 3))}, arrays(target=np.zeros((4, 2))))

    def test_not_a_number_is_refused(self):
        output = np.array([[0.0], [np.nan], [np.inf]], np.float32)
        with pytest.raises(InputError, match="NaN or infinity in 2 of 3 samples, the first is 1"):
            figures("regression", {"y": output}, arrays(target=np.zeros(3)))

    def test_the_interval_is_of_the_root_and_not_of_a_mean(self, rng):
        """Percentiles of RMSE on resamples, worked out here from squares of errors."""
        target = rng.normal(size=200)
        before, after = (target + rng.normal(0, spread, 200) for spread in (1.0, 1.3))
        task = tasks.get("regression", "RMSE")
        sides = [task.scores({"y": side[:, None]}, arrays(target=target)) for side in (before, after)]
        found = task.metric.difference(*sides)
        squares = [(side - target) ** 2 for side in (before, after)]
        roots = [
            np.sqrt(np.mean(squares[1][drawn])) - np.sqrt(np.mean(squares[0][drawn]))
            for counts in resampling.draws(200, None)
            for drawn in [np.repeat(np.arange(200), counts)]
        ]
        assert found.loss == pytest.approx(np.sqrt(squares[1].mean()) - np.sqrt(squares[0].mean()))
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(roots, [2.5, 97.5])))
        assert found.low > 0 and not found.within_noise and found.p < 0.05


def test_agreement_of_numbers_is_within_a_hundredth_of_the_largest():
    wanted = {"y": np.array([[1.0, 9.0], [1.0, 10.0], [2.0, 3.0]])}
    outputs = {"y": wanted["y"] + np.array([[0.0, 0.09], [-0.09, 0.0], [0.0, 0.11]])}
    assert tasks.get("regression").agreement(outputs, wanted) == pytest.approx(2 / 3)
    assert tasks.get("fidelity").agreement(outputs, wanted) == 1, "taken for classes"


class TestSegmentation:
    def test_against_scikit_learn(self, rng):
        masks = rng.integers(0, 4, (12, 9, 7))
        logits = rng.normal(size=(12, 5, 9, 7)).astype(np.float32)
        logits[:, :4] += 1.0 * (np.arange(4)[None, :, None, None] == masks[:, None])
        found = figures("segmentation", {"map": logits}, arrays(mask=masks))
        flat = masks.ravel(), logits.argmax(1).ravel()
        assert found["mIoU"] == pytest.approx(100 * sk.jaccard_score(*flat, average="macro"), **CLOSE)
        assert found["pixel-accuracy"] == pytest.approx(100 * sk.accuracy_score(*flat), **CLOSE)

    def test_pixels_of_255_count_for_nothing(self, rng):
        masks = rng.integers(0, 3, (6, 8, 8)).astype(np.uint8)
        logits = rng.normal(size=(6, 3, 8, 8)).astype(np.float32)
        masks[rng.random(masks.shape) < 0.3] = 255
        seen = masks != 255
        found = figures("segmentation", {"map": logits}, arrays(masks=masks))
        flat = masks[seen], logits.argmax(1)[seen]
        assert found["mIoU"] == pytest.approx(100 * sk.jaccard_score(*flat, average="macro"), **CLOSE)
        assert found["pixel-accuracy"] == pytest.approx(100 * sk.accuracy_score(*flat), **CLOSE)

    def test_resamples_draw_images(self, rng):
        masks = rng.integers(0, 3, (10, 4, 4))
        logits = rng.normal(size=(10, 3, 4, 4)).astype(np.float32)
        task = tasks.get("segmentation")
        scores = task.scores({"map": logits}, arrays(mask=masks))
        counts = next(resampling.draws(10, None))
        places = np.repeat(np.arange(10), counts)
        wanted = sk.jaccard_score(masks[places].ravel(), logits[places].argmax(1).ravel(), average="macro")
        assert scores[1] == pytest.approx(100 * wanted)

    def test_masks_of_other_classes(self):
        with pytest.raises(InputError, match="classes 0 to 3, and output 'map' has 3"):
            masks = np.array([[[0, 3]]])
            figures("segmentation", {"map": np.zeros((1, 3, 1, 2))}, arrays(mask=masks))


class TestEmbedding:
    def test_against_scikit_learn(self, rng):
        wanted = rng.normal(size=(40, 16)).astype(np.float32)
        output = (wanted + 0.3 * rng.normal(size=wanted.shape)).astype(np.float32)
        labels = rng.integers(0, 5, 40)
        found = figures("embedding", {"e": output}, arrays(label=labels, float_outputs={"e": wanted}))
        cosines = sk.pairwise.paired_cosine_distances(output, wanted)
        assert found["cosine"] == pytest.approx(1 - cosines.mean(), abs=1e-6)
        similar = sk.pairwise.cosine_similarity(output)
        np.fill_diagonal(similar, -9)
        for count in (1, 5):
            near = [set(labels[np.argsort(-row)[:count]]) for row in similar]
            share = np.mean([label in there for label, there in zip(labels, near, strict=True)])
            assert found[f"recall@{count}"] == pytest.approx(100 * share)

    def test_without_labels_there_is_no_recall(self, rng):
        vectors = {"e": rng.normal(size=(7, 4)).astype(np.float32)}
        assert figures("embedding", vectors, arrays(float_outputs=vectors)) == {"cosine": pytest.approx(1)}
        with pytest.raises(InputError, match="recall@1 does not apply"):
            task = tasks.get("embedding", "recall@1")
            task.scores(vectors, arrays(float_outputs=vectors))


class TestFidelity:
    def test_by_hand(self):
        wanted = {"a": np.array([[3.0, 4.0], [0.0, 10.0]]), "b": np.array([[0.0], [0.0]])}
        outputs = {"x": np.array([[4.0, 3.0], [0.0, 10.0]]), "y": np.array([[0.0], [1.0]])}
        found = figures("fidelity", outputs, arrays(float_outputs=wanted))
        assert found["error"] == pytest.approx(100 * np.sqrt(3 / 125))
        assert found["SNR"] == pytest.approx(10 * np.log10(125 / 3))
        assert found["agreement"] == 50
        assert found["largest-error"] == pytest.approx(10)  # of an output that is 0: over the other's 10

    def test_equal_outputs_have_no_snr(self):
        same = {"y": np.ones((3, 2, 2))}
        assert figures("fidelity", same, arrays(float_outputs=same)) == {"error": 0.0, "largest-error": 0.0}

    def test_agreement_is_a_share_with_mcnemars_test(self):
        task = tasks.get("fidelity", "agreement")
        assert task.metric.full == 100 and task.metric.resamples == 0
        with pytest.raises(UsageError, match="error, agreement"):
            tasks.get("fidelity", "SNR")  # infinite for the float network


class TestResampling:
    def test_whole_groups_are_drawn(self):
        groups = np.array([5, 5, 9, 9, 9, 7])
        for counts in resampling.draws(6, groups, 50):
            assert counts[0] == counts[1] and counts[2] == counts[3] == counts[4]
            assert counts[0] + counts[2] + counts[5] == 3

    def test_the_draws_depend_on_the_samples_alone(self):
        first, again = ([*resampling.draws(9, None, rounds)] for rounds in (3, 5))
        assert np.array_equal(first, again[:3]) and len(again) == 5

    def test_a_mean_by_resamples_has_the_interval_of_the_paired_bootstrap(self, rng):
        before, after = rng.normal(size=300), rng.normal(0.2, 1, 300)
        resampled = [
            resampling.recomputed(lambda counts, side=side: float(counts @ side / counts.sum()), 300)
            for side in (before, after)
        ]
        found, known = paired.of_resamples(*resampled), paired.difference(before, after)
        assert found.loss == pytest.approx(known.loss)
        assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.02)

    def test_the_same_scores_have_no_difference(self):
        scores = np.linspace(0, 1, 21)
        found = paired.of_resamples(scores, scores)
        assert (found.loss, found.low, found.high, found.p, found.changed) == (0, 0, 0, 1, False)
        lower = paired.of_resamples(scores, scores + 1, higher_is_better=False)
        assert lower.loss == 1 and lower.low == pytest.approx(1) and lower.changed
