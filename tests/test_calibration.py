"""Calibration data: which samples are chosen, what they may not be, and what rows and files say of them."""

import json
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support import CALIBRATION, DATA

from mobconv.data import arrays, chosen, labelled
from mobconv.data.chosen import CalibrationData
from mobconv.errors import InputError, UsageError
from mobconv.pipeline import calibration_data
from mobconv.pipeline.quantized import calibrates, same_scheme
from mobconv.recipe import LayerRule
from mobconv.recipe.layer_rules import scheme_for
from mobconv.schemes import ALGORITHMS, Algorithm, Mode, Needs, Scheme

SCHEME = "w4-kmeans-gptq"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
WHOLE = '{"mean": 0.5, "std": 0.5}'


def folder_of(path, pixels, names=None):
    """A folder of PNG files, without classes."""
    path.mkdir(parents=True)
    for number, each in enumerate(pixels):
        name = f"{number:03}.png" if names is None else f"{names[number]:03}.png"
        Image.fromarray(each).save(path / name)
    return str(path)


class TestChoice:
    def test_does_not_depend_on_the_order_of_files(self, tmp_path):
        there = folder_of(tmp_path / "there", PIXELS)
        shuffled = folder_of(tmp_path / "shuffled", PIXELS, np.random.default_rng(1).permutation(40))
        first, second = (chosen.images(CalibrationData(data, images=16)) for data in (there, shuffled))
        assert len(first) == 16 and np.array_equal(first.pixels, second.pixels) and first.sha256 == second.sha256
        assert {each.tobytes() for each in first.pixels} < {each.tobytes() for each in PIXELS}
        assert first.notes == ("16 of 40 images are chosen to calibrate on, by the seed 0",)

    def test_a_seed_is_another_choice_and_arrays_are_chosen_as_images_are(self, tmp_path):
        content = arrays.Arrays("set.npz", {"image": PIXELS}, {"label": np.arange(40)}, (), "")
        zero, one = (chosen.arrays(CalibrationData("set.npz", images=16, seed=seed), content) for seed in (0, 1))
        assert zero.sha256 != one.sha256 and len(zero) == len(one) == 16 and not zero.targets
        again = chosen.arrays(CalibrationData("set.npz", images=16), replace(content, inputs={"image": PIXELS[::-1]}))
        assert again.sha256 == zero.sha256
        # 16 of 40 by each seed: more than half would be no accident
        both = {each.tobytes() for each in zero.inputs["image"]} & {each.tobytes() for each in one.inputs["image"]}
        assert len(both) < 13

    def test_all_where_there_are_fewer(self, tmp_path):
        content = chosen.images(CalibrationData(folder_of(tmp_path / "set", PIXELS[:5])))
        assert len(content) == 5
        assert content.notes == (
            "all of its 5 images are taken to calibrate on, fewer than the 1,024 that are asked for",
        )

    def test_an_image_that_cannot_be_decoded(self, tmp_path):
        source = folder_of(tmp_path / "set", PIXELS[:6])
        (tmp_path / "set" / "999.png").write_bytes(b"no image")
        with pytest.raises(InputError, match=r"999.png cannot be decoded"):
            chosen.images(CalibrationData(source))
        content = chosen.images(CalibrationData(source), skip_bad=True)
        assert (len(content), content.skipped) == (6, 1)
        without = chosen.images(CalibrationData(folder_of(tmp_path / "good", PIXELS[:6])))
        assert {each.tobytes() for each in content.pixels} == {each.tobytes() for each in without.pixels}


class TestSplits:
    @pytest.fixture
    def hub(self, monkeypatch):
        """`datasets` itself is not reached: a data set of its own stands for what it would load."""
        made = datasets.Dataset.from_dict({"image": [Image.fromarray(each) for each in PIXELS[:6]]})
        made = made.cast_column("image", datasets.Image())
        splits = datasets.DatasetDict({"test": made.select([0]), "train": made.select([1, 2, 3]), "extra": made})
        monkeypatch.setattr("datasets.load_dataset", lambda name: splits)

    def test_of_the_hub(self, hub):
        assert chosen.images(CalibrationData("owner/name")).split == "train"
        content = chosen.images(CalibrationData("owner/name", split="extra"))
        assert (content.split, len(content)) == ("extra", 6)
        with pytest.raises(UsageError, match=r"no split 'trian' \(did you mean 'train'\?\): test, train, extra"):
            chosen.images(CalibrationData("owner/name", split="trian"))
        assert labelled.load("owner/name", with_labels=False).split == "test"

    def test_of_a_folder(self, tmp_path):
        for name, part in (("test", PIXELS[:2]), ("train", PIXELS[2:5]), ("calibration", PIXELS[5:9])):
            folder_of(tmp_path / "set" / name, part)
        source = str(tmp_path / "set")
        assert [chosen.images(CalibrationData(source, split=name)).split for name in (None, "train", "test")] == [
            "calibration",
            "train",
            "test",
        ]
        assert len(labelled.load(source, with_labels=False)) == 2

    def test_where_there_are_none(self):
        with pytest.raises(UsageError, match=r"digits-test.parquet has no splits: leave out .*'train'"):
            chosen.images(CalibrationData(str(DATA), split="train"))
        content = arrays.Arrays("set.npz", {"image": PIXELS}, {}, (), "")
        with pytest.raises(UsageError, match=r"set\.npz has no splits"):
            chosen.arrays(CalibrationData("set.npz", split="train"), content)


class TestLeaks:
    """Samples that are evaluated on too."""

    data = labelled.Images("test", PIXELS[:20], np.zeros(20, np.int64), (), "")

    def facts(self, samples, data=None, **wanted):
        def feed(part):
            pixels = part if isinstance(part, np.ndarray) else part["image"]
            return {"x": pixels.astype(np.float32)}

        stated = CalibrationData("folder/train", **wanted)
        return calibration_data.facts(stated, samples, feed, data or self.data, feed)

    def test_are_counted_and_refused(self):
        samples = replace(self.data, source="train", pixels=PIXELS[17:])
        with pytest.raises(UsageError, match=r"train: 3 of the 23 images to calibrate on are in .* test, too"):
            self.facts(samples)
        assert self.facts(replace(samples, pixels=PIXELS[20:])).shared == 0

    def test_are_seen_among_arrays_of_another_dtype(self):
        samples = arrays.Arrays("train.npz", {"image": PIXELS[15:].astype(np.float64)}, {}, (), "")
        with pytest.raises(UsageError, match="5 of the 25 samples"):
            self.facts(samples)

    def test_may_be_allowed_and_then_the_row_says_so(self):
        facts = self.facts(replace(self.data, pixels=PIXELS[17:]), allow_leak=True)
        assert facts.shared == 3
        assert facts.note.startswith("calibrated on 23 images of train (seed 0), of which 3 are in the evaluation data")
        assert facts.record == {"sha256": facts.sha256, "samples": 23, "seed": 0}


def test_which_cells_need_calibration_data(monkeypatch):
    needing, plain = Scheme.parse(SCHEME), Scheme.parse("w4-kmeans")
    assert needing.calibrated and not plain.calibrated and not Scheme.parse("fp16").calibrated
    names = ["a.weight", "b.weight"]
    assert calibrates(names, needing) and not calibrates(names, plain)
    # a rule that gives one weight such a scheme is enough
    assert calibrates(names, plain, lambda name, scheme: needing if name == "b.weight" else scheme)
    rules = [LayerRule(match="*", bits=8)]
    assert not calibrates(names, plain, lambda name, scheme: scheme_for(rules, name, scheme))
    for needs in Needs:
        monkeypatch.setitem(ALGORITHMS, "other", Algorithm("no.such.module", needs, tuple(Mode), "for this test"))
        assert calibrates(names, Scheme(4, Mode.KMEANS, algorithm="other"), same_scheme) == (needs is not Needs.WEIGHTS)


class TestExport:
    """Through the command line, on a network of two layers."""

    @pytest.fixture
    def tiny(self, cli):
        import user_nets

        torch.manual_seed(0)
        torch.save(user_nets.tiny().state_dict(), "net.pt")
        np.savez("test.npz", image=PIXELS[:20], label=np.zeros(20, np.int64))
        np.savez("train.npz", image=PIXELS[20:])
        np.savez("both.npz", image=PIXELS)
        return cli

    def command(self, scheme, *more):
        network = ["net.pt", "--model", "user_nets:tiny", "--input-shape", "1,3,8,8", "--preprocessing", WHOLE]
        return ["export", *network, "--to", "onnx", "--scheme", scheme, "-o", "out", *more]

    def record(self, scheme):
        from mobconv.pipeline.artifact import open_artifact

        with open_artifact(f"out/onnx/{scheme}.onnx") as artifact:
            return artifact.record

    @pytest.mark.slow
    def test_row_and_record_say_what_was_used(self, tiny):
        more = ["--calibrate", "train.npz", "--calibrate-images", "8", "--calibrate-seed", "3"]
        code, out, err = tiny(*self.command(SCHEME, *more, "--data", "test.npz", "--json"))
        assert code == 0, err
        assert "train.npz: 8 of 20 samples are chosen to calibrate on, by the seed 3" in err
        (row,) = json.loads(out)
        assert "calibrated on 8 images of train.npz (seed 3)" in row["note"] and row["algorithm"] == "gptq"
        used = self.record(SCHEME)["calibration"]
        assert (used["samples"], used["seed"], len(used["sha256"])) == (8, 3, 64)

    def test_other_cells_are_the_same_with_it_and_without(self, tiny):
        assert tiny(*self.command("w4-kmeans"))[0] == 0
        before = (tiny.folder / "out" / "onnx" / "w4-kmeans.onnx").read_bytes()
        code, _, err = tiny(*self.command("w4-kmeans", "--calibrate", "train.npz"))
        assert code == 0 and "train.npz: calibration data that no cell uses" in err
        assert (tiny.folder / "out" / "onnx" / "w4-kmeans.onnx").read_bytes() == before
        assert "calibration" not in self.record("w4-kmeans")

    @pytest.mark.slow
    def test_the_network_gets_the_samples_as_it_would_in_use(self, tiny, monkeypatch):
        """The feed that the algorithm is given: the chosen samples, preprocessed, by the name of the input."""
        from mobconv.pipeline import context

        real, seen = context.fit_network, {}

        def fit(program, scheme, scheme_for, feed, count, stage):
            seen.update(feed(slice(0, count)), count=count)
            return replace(real(program, scheme, scheme_for, feed, count, stage), note="kept mse: for this test")

        monkeypatch.setattr(context, "fit_network", fit)
        code, out, err = tiny(*self.command(SCHEME, "--calibrate", "train.npz", "--json"))
        assert code == 0, err
        assert json.loads(out)[0]["note"].endswith("(seed 0); kept mse: for this test")
        (inputs,) = (value for name, value in seen.items() if name != "count")
        wanted = (PIXELS[20:].astype(np.float32) / 255 - 0.5) / 0.5
        assert seen["count"] == 20 and inputs.shape == (20, 3, 8, 8) and inputs.dtype == np.float32
        assert np.allclose(np.sort(inputs.reshape(20, -1).sum(1)), np.sort(wanted.reshape(20, -1).sum(1)), atol=1e-3)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ([], [f"{SCHEME} needs calibration data", "--calibrate DATA"]),
            (["--calibrate-images", "8"], ["--calibrate-images", "--calibrate DATA"]),
            (["--allow-leak"], ["--allow-leak", "--calibrate DATA"]),
            (["--calibrate", "train.npz", "--calibrate-split", "train"], ["train.npz has no splits"]),
            (
                ["--calibrate", "both.npz", "--data", "test.npz"],
                ["both.npz: 20 of the 40 images", "test.npz", "--allow-leak"],
            ),
        ],
        ids=["none", "images without data", "leak without data", "split", "leak"],
    )
    def test_what_is_refused(self, tiny, more, words):
        self.refused(tiny, 2, *words, more=more)

    def refused(self, tiny, code, *words, more):
        """An exit code and a message of these words, and nothing is written."""
        got, out, err = tiny(*self.command(SCHEME, *more))
        assert (got, out) == (code, "") and [word for word in words if word not in err] == [], err
        assert [path for path in (tiny.folder / "out").rglob("*") if path.is_file()] == []

    def test_data_that_is_missing(self, tiny):
        self.refused(tiny, 3, "no-such.npz: no such file", more=["--calibrate", "no-such.npz"])

    @pytest.mark.slow
    def test_a_leak_that_is_allowed(self, tiny):
        more = ["--calibrate", "both.npz", "--data", "test.npz", "--allow-leak", "--json"]
        code, out, err = tiny(*self.command(SCHEME, *more))
        assert code == 0, err
        assert "of which 20 are in the evaluation data too" in json.loads(out)[0]["note"]

    def test_in_python(self, tiny):
        import user_nets

        import mobconv

        example = torch.zeros(1, 3, 8, 8)
        with pytest.raises(UsageError, match=r"needs calibration data.*calibrate='DATA'"):
            mobconv.export(user_nets.tiny().eval(), example, to="onnx", scheme=SCHEME)
        np.savez("floats.npz", image=PIXELS.astype(np.float32).transpose(0, 3, 1, 2))
        (row,) = mobconv.export(
            user_nets.tiny().eval(), example, to="onnx", scheme=SCHEME, calibrate="floats.npz", calibrate_images=4
        )
        assert "calibrated on 4 samples of floats.npz (seed 0)" in row.note


def test_a_recipe_without_calibration_data_is_refused_before_anything_is_written(cli):
    plan = {"checkpoint": "net.pt", "data": "set", "backends": ["onnx"], "schemes": ["fp32", "w2-linear-gptq"]}
    (cli.folder / "job.yaml").write_text(json.dumps(plan))
    cli.refuses(2, "job.yaml: w2-linear-gptq needs", "`calibration: {data: DATA}`", arguments=["sweep", "job.yaml"])
    assert not (cli.folder / "out").exists()


def test_the_data_of_a_recipe_is_beside_it(tmp_path):
    from mobconv import backends, recipe

    shutil.copy(CALIBRATION, tmp_path / "c.parquet")
    plan = {"checkpoint": "net.pt", "data": "set", "backends": ["onnx"], "schemes": ["w2-linear-gptq"]}
    (tmp_path / "job.yaml").write_text(json.dumps(plan | {"calibration": {"data": "c.parquet", "seed": 5}}))
    parsed = recipe.load(tmp_path / "job.yaml", backends.formats())
    assert recipe.calibration_of(parsed) == CalibrationData(str(tmp_path / "c.parquet"), None, 1024, 5, False)
