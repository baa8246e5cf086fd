"""Data sets that are none, or are not the network's: a message that says which row."""

import datasets
import numpy as np
import pyarrow.parquet as parquet_of_pyarrow
import pytest
from PIL import Image
from support import CHECKPOINT, DATA

from mobconv.data import labelled
from mobconv.errors import InputError


def pictures(count=6, size=(32, 32), mode="RGB"):
    rng = np.random.default_rng(0)
    shape = (*size, 3) if mode == "RGB" else size
    return [Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode) for _ in range(count)]


def parquet(path, images=None, **columns):
    """A parquet file with a column of images, where there are any, and others as they are."""
    held = dict(columns)
    made = datasets.Dataset.from_dict({"image": images, **held} if images is not None else held)
    if images is not None:
        made = made.cast_column("image", datasets.Image())
    made.to_parquet(str(path))
    return path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """The fixture as an ONNX file, made once."""
    from mobconv.cli.app import run

    folder = tmp_path_factory.mktemp("artifact")
    assert run(["export", str(CHECKPOINT), "--to", "onnx", "--scheme", "w8-linear", "-o", str(folder)]) == 0
    return folder / "onnx" / "w8-linear.onnx"


def refused(cli, artifact, source, *words):
    cli.refuses(3, *words, arguments=["evaluate", artifact, "--data", source])


def test_no_labels(cli, artifact):
    parquet("set.parquet", pictures(), name=[str(i) for i in range(6)])
    refused(cli, artifact, "set.parquet", "set.parquet: no labels", "column `label`")


def test_no_images(cli, artifact):
    parquet("set.parquet", label=[0, 1])
    refused(cli, artifact, "set.parquet", "no column of images", "label")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, -1, 3, 4, 5], ["row 2 has label -1", "labels start at 0"]),
        ([0, 1, 2, 10, 4, 5], ["row 3 has label 10", "10 outputs", "(0 to 9)"]),
        ([0, 1, None, 3, 4, 5], ["row 2 has label None", "whole numbers"]),
        (["a", "b", "c", "d", "e", "f"], ["row 0 has label 'a'", "whole numbers"]),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.5], ["row 0 has label 0.0", "whole numbers"]),
    ],
)
def test_labels_out_of_range(cli, artifact, labels, words):
    parquet("set.parquet", pictures(), label=labels)
    refused(cli, artifact, "set.parquet", "set.parquet", *words)


def test_labels_beyond_the_network_stop_a_sweep_too(cli):
    parquet("set.parquet", pictures(), label=[0, 1, 2, 3, 4, 77])
    text = f"checkpoint: {CHECKPOINT}\ndata: set.parquet\nbackends: onnx\nschemes: fp32\n"
    (cli.folder / "job.yaml").write_text(text)
    cli.refuses(3, "row 5 has label 77", arguments=["sweep", "job.yaml", "-o", "out"])


def test_another_size(cli, artifact):
    parquet("set.parquet", pictures(size=(24, 40)), label=[0] * 6)
    refused(cli, artifact, "set.parquet", "images are 40x24", "takes 32x32", "resize")


def test_mixed_sizes(cli, artifact):
    parquet("set.parquet", [*pictures(3), *pictures(3, (16, 8))], label=[0] * 6)
    refused(cli, artifact, "set.parquet", "images of 32x32 and 8x16", "resize")


def test_a_table_without_rows(cli, artifact):
    """With a group of rows that is empty, as pyarrow and pandas write it."""
    parquet_of_pyarrow.write_table(parquet_of_pyarrow.read_table(DATA).slice(0, 0), "set.parquet")
    refused(cli, artifact, "set.parquet", "set.parquet: no images in it, the table has no rows")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "set.parquet is empty"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run `git lfs pull`"),
        ("<!DOCTYPE html><html>login</html>", "set.parquet is a web page"),
        ("image,label\n", "set.parquet is a text file (it begins with 'image,label'), not a parquet file"),
    ],
)
def test_no_parquet_file_at_all(cli, artifact, text, said):
    (cli.folder / "set.parquet").write_text(text)
    refused(cli, artifact, "set.parquet", said)


@pytest.mark.parametrize("kept", [100, 50_000])
def test_truncated_parquet(cli, artifact, kept):
    (cli.folder / "set.parquet").write_bytes(DATA.read_bytes()[:kept])
    refused(cli, artifact, "set.parquet", "set.parquet: cannot be read as a data set")


def test_broken_image(cli, artifact):
    held = {"image": [{"bytes": b"\x89PNG\r\n", "path": None}], "label": [0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(held, features=features).to_parquet("set.parquet")
    refused(cli, artifact, "set.parquet", "image 0 cannot be decoded")


def test_no_rows(cli, artifact):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict({"image": [], "label": []}, features=features).to_parquet("set.parquet")
    refused(cli, artifact, "set.parquet", "no images in it")


@pytest.mark.parametrize("source", ["gone.parquet", "gone/folder/deep", "./gone", "gone"])
def test_missing(cli, artifact, source):
    refused(cli, artifact, source, f"{source}: no such file or folder")


def test_another_kind_of_file(cli, artifact):
    (cli.folder / "set.txt").write_text("label\n0\n")
    refused(cli, artifact, "set.txt", "a .parquet file, a folder of images by class, a .csv file", "or a hub name")


def test_empty_folder(cli, artifact):
    (cli.folder / "images").mkdir()
    refused(cli, artifact, "images", "images: no images in it")


@pytest.mark.timeout(60)  # it does not wait for a network
def test_hub_without_network(cli, artifact, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(cli, artifact, "mobconv-tests/no-such-set", "no such file or folder here", "hub", "OfflineMode")


def test_an_image_folder_is_the_parquet(cli, artifact):
    """The same pixels give the same accuracy, and the same fingerprint where the order is the same."""
    import json

    rows = datasets.load_dataset("parquet", data_files=str(DATA), split="train", cache_dir=str(cli.folder / "c"))
    rows = rows.select(range(60)).sort("label")
    names = []
    for i, row in enumerate(rows):
        folder = cli.folder / "images" / f"class{row['label']}"
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{i:03}.png")
        names.append(folder.name)
    assert len(set(names)) == 10  # each class is there, so that folders are numbered as labels are
    rows.to_parquet("set.parquet")
    found = []
    for source in ("images", "set.parquet"):
        code, out, _ = cli("evaluate", artifact, "--data", source, "--json")
        assert code == 0
        found.append(json.loads(out))
    assert found[0]["samples"] == found[1]["samples"] == 60
    assert found[0]["score"] == found[1]["score"] > 80
    assert labelled.load("images").sha256 == labelled.load("set.parquet").sha256


def test_grayscale_becomes_rgb(cli):
    parquet("set.parquet", pictures(4, mode="L"), label=[0, 1, 2, 3])
    found = labelled.load("set.parquet")
    assert found.pixels.shape == (4, 32, 32, 3)
    assert np.array_equal(found.pixels[..., 0], found.pixels[..., 2])
    assert np.array_equal(found.pixels[0, ..., 0], np.asarray(pictures(1, mode="L")[0]))


def test_the_limit_takes_the_first(cli):
    parquet("set.parquet", pictures(), label=[3, 1, 2, 0, 0, 0])
    assert labelled.load("set.parquet", 2).labels.tolist() == [3, 1]
    assert len(labelled.load("set.parquet", 99)) == 6


def test_bytes_that_are_no_images(cli):
    parquet("set.parquet", pixels=[b"1", b"2"], label=[0, 1])
    with pytest.raises(InputError, match="image 0 cannot be decoded: not an image of PNG"):
        labelled.load("set.parquet")
