"""Data of arrays: what fits, what is refused by name, and files that are damaged or made to harm."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from support import Planted

from mobconv.backends.base import TensorSpec
from mobconv.data import arrays, stored
from mobconv.data.labelled import Images
from mobconv.errors import InputError, UsageError
from mobconv.evaluate import input_spec
from mobconv.pipeline import samples

X = np.arange(24, dtype=np.float64).reshape(4, 6)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write set.npz of these arrays and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(**content):
        np.savez("set.npz", **content)
        return "set.npz"

    return write


class TestNames:
    def test_inputs_and_targets_by_name(self, written):
        source = written(a=X, b=X.astype(np.int64), target_boxes=X, y=X[:, 0], groups=np.array([7, 7, 1, 2]))
        found = arrays.load(source, ["b", "a"])
        assert [*found.inputs] == ["b", "a"] and [*found.targets] == ["target_boxes", "y"] and len(found) == 4
        assert found.inputs["b"].dtype == np.int64 and found.groups.tolist() == [2, 2, 0, 1]

    @pytest.mark.parametrize("name", ["x", "input", "anything"])
    def test_a_single_input_has_any_name(self, written, name):
        found = arrays.load(written(**{name: X, "labels": np.arange(4), "names": np.array(["a", "b"])}), ["image"])
        assert np.array_equal(found.inputs["image"], X) and found.labels.tolist() == [0, 1, 2, 3]
        assert found.names == ("a", "b")

    def test_an_input_may_be_called_as_a_target(self, written):
        found = arrays.load(written(ids=X, mask=X, label=np.arange(4)), ["ids", "mask"])
        assert [*found.inputs] == ["ids", "mask"] and [*found.targets] == ["label"]

    @pytest.mark.parametrize("columns_first", [False, True])
    def test_an_npy_file_is_the_input(self, tmp_path, columns_first):
        np.save(tmp_path / "set.npy", np.asfortranarray(X) if columns_first else X)
        found = arrays.load(str(tmp_path / "set.npy"), ["tokens"], limit=3)
        assert np.array_equal(found.inputs["tokens"], X[:3]) and found.targets == {} and len(found.labels) == 0

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({"a": X}, r"no array for the input 'b' of the network; it has a"),
            ({"a": X, "B": X, "b": X}, r"array 'B' is neither an input of the network \(a, b\) nor a target"),
            ({"a": X, "b": X[:3]}, r"'b' has shape \(3, 6\), and 'a' has 4 samples"),
            ({"a": X, "b": X, "label": np.int64(3)}, r"'label' has shape \(\)"),
            ({"a": X, "b": np.where(X == 13, np.nan, X)}, "'b' has NaN in sample 2"),
            ({"a": X[:0], "b": X[:0]}, "no samples"),
            ({"a": X, "b": np.array(["u", "v", "w", "x"])}, "array 'b' is of <U1; numbers are needed"),
        ],
    )
    def test_what_does_not_fit(self, written, content, words):
        with pytest.raises(InputError, match=rf"set.npz: .*{words}"):
            arrays.load(written(**content), ["a", "b"])

    def test_the_hash_is_of_the_content(self, written):
        first = arrays.load(written(x=X, y=X[:, 0]), ["x"]).sha256
        assert arrays.load(written(y=X[:, 0], x=X), ["x"]).sha256 == first
        assert arrays.load(written(x=X, y=X[:, 1]), ["x"]).sha256 != first
        assert arrays.load(written(x=X.astype(np.float32), y=X[:, 0]), ["x"]).sha256 != first


class TestHarm:
    def test_nothing_is_unpickled(self, tmp_path):
        marker = tmp_path / "marker"
        np.savez(tmp_path / "set.npz", x=np.array([Planted(marker)] * 2, object))
        np.save(tmp_path / "set.npy", np.array([Planted(marker)], object))
        (tmp_path / "bare.npy").write_bytes(pickle.dumps(Planted(marker)))
        for name in ("set.npz", "set.npy", "bare.npy"):
            with pytest.raises(InputError, match=name):
                arrays.load(str(tmp_path / name), ["x"])
        assert not marker.exists()

    def header(self, shape, dtype="<f4"):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
        return stream.getvalue()

    @pytest.mark.parametrize("shape", [(1 << 40,), (1 << 31, 1 << 31), (-1,), (-4, -6), (5, 6)])
    def test_a_declared_size_is_checked_before_it_is_allocated(self, tmp_path, shape):
        content = self.header(shape) + X.astype("<f4").tobytes()
        (tmp_path / "set.npy").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
            archive.writestr("x.npy", content)
        for name in ("set.npy", "set.npz"):
            with pytest.raises(InputError, match="is declared, and there are"):
                arrays.load(str(tmp_path / name), ["x"])

    def test_a_zip_that_grows_is_not_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(arrays, "_memory", lambda: 1 << 20)
        np.savez_compressed(tmp_path / "set.npz", x=np.zeros((1 << 10, 1 << 10), np.float32))
        with pytest.raises(InputError, match="more than this machine's memory"):
            arrays.load(str(tmp_path / "set.npz"), ["x"])
        assert len(arrays.load(str(tmp_path / "set.npz"), ["x"], limit=9)) == 9

    @pytest.mark.parametrize("part", [0, 3, 40, 200])
    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    def test_files_that_are_cut_short(self, tmp_path, suffix, part):
        path = tmp_path / f"set.{suffix}"
        (np.save if suffix == "npy" else np.savez)(path, X)
        path.write_bytes(path.read_bytes()[:part])
        with pytest.raises(InputError, match=path.name):
            arrays.load(str(path), ["x"])

    def test_missing(self):
        with pytest.raises(InputError, match=r"gone.npz: no such file"):
            arrays.load("gone.npz", ["x"])


class TestImages:
    """Bytes (N, H, W, C) are images where the network takes images."""

    PIXELS = np.random.default_rng(0).integers(0, 255, (3, 5, 7, 3)).astype(np.uint8)

    def load(self, source, shape=(1, 3, 5, 7)):
        def preprocessing():
            raise UsageError("no mean and std")

        return samples.load(source, {"image": shape}, preprocessing)

    def test_bytes_are_images(self, written):
        masks = np.zeros((3, 5, 7), np.uint8)
        found = self.load(written(image=self.PIXELS, mask=masks))
        assert isinstance(found, Images) and np.array_equal(found.pixels, self.PIXELS)
        assert np.array_equal(found.targets["mask"], masks) and len(found.labels) == 0 and len(found) == 3

    def test_labels_are_those_of_images(self, written):
        found = self.load(written(image=self.PIXELS, labels=np.array([2, 0, 1])))
        assert found.labels.tolist() == [2, 0, 1]

    def test_other_arrays_go_in_as_they_are(self, written):
        floats = self.load(written(image=self.PIXELS.transpose(0, 3, 1, 2).astype(np.float32)))
        tokens = self.load(written(image=self.PIXELS[..., 0]), (1, 5, 7))
        assert isinstance(floats, arrays.Arrays) and isinstance(tokens, arrays.Arrays)

    def test_images_do_not_go_into_two_inputs(self):
        with pytest.raises(InputError, match=r"one input, and this one has a, b; give an .npz"):
            samples.load("folder", {"a": (1, 3, 5, 5), "b": (1, 4)}, lambda: None)


@pytest.mark.parametrize("groups", [None, np.array([0, 0, 1])])
def test_stored_samples_are_the_same(tmp_path, groups):
    """What a sweep's processes share."""
    pixels, labels = TestImages.PIXELS, np.array([1, 0, 1])
    outputs = {"y": np.ones((3, 2), np.float32)}
    images = Images("set", pixels, labels, ("a", "b"), "ff", groups, targets={"m": labels}, float_outputs=outputs)
    whole = arrays.Arrays("set.npz", {"a/b": pixels, "c": labels}, {"y": labels}, (), "00", groups)
    for number, each in enumerate((images, whole)):
        folder = tmp_path / str(number)
        assert not stored.exists(folder)
        stored.write(folder, each)
        found = stored.read(folder)
        assert stored.exists(folder) and type(found) is type(each) and len(found) == 3
        for name, value in vars(each).items():
            other = getattr(found, name)
            if isinstance(value, dict):
                assert [*other] == [*value] and all(np.array_equal(other[key], value[key]) for key in value)
            else:
                assert np.array_equal(other, value) if isinstance(value, np.ndarray) else other == value


class TestFeed:
    def spec(self, name, dtype="float32", shape=(1, 6)):
        return TensorSpec(name, shape, dtype)

    def test_each_input_in_its_type(self):
        feed = input_spec.array_feed([self.spec("b", "int32"), self.spec("a")], ["a", "b"], "net.onnx")
        found = feed({"a": X, "b": X.astype(np.int64)})
        assert [*found] == ["b", "a"] and found["b"].dtype == np.int32 and found["a"].dtype == np.float32

    @pytest.mark.parametrize("values", [np.array([[1 << 40]]), np.array([[0.5]]), np.array([[-(1 << 31) - 1]])])
    def test_numbers_that_an_input_cannot_hold(self, values):
        feed = input_spec.array_feed([self.spec("ids", "int32", (1, 1))], ["tokens"], "net.tflite")
        assert feed({"tokens": np.array([[7.0]])})["ids"].tolist() == [[7]]
        with pytest.raises(InputError, match=r"net.tflite: input 'ids' takes int32, and the data has values"):
            feed({"tokens": values})

    def test_names_of_several_inputs_belong_together(self):
        with pytest.raises(InputError, match=r"net.onnx takes a, c, and the data has a, b: no 'c'"):
            input_spec.array_feed([self.spec("a"), self.spec("c")], ["a", "b"], "net.onnx")

    def test_shapes_are_checked(self):
        data = arrays.Arrays("set.npz", {"a": X}, {}, (), "")
        input_spec.check_arrays(data, {"a": (1, 6)}, "net")
        input_spec.check_arrays(data, {"a": (-1, -1)}, "net")
        with pytest.raises(InputError, match=r"samples of 'a' have shape \(6,\), and net takes \(7,\)"):
            input_spec.check_arrays(data, {"a": (1, 7)}, "net")
