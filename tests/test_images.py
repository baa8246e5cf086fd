"""Image files: what is decoded, how, and what is refused by name. Nothing in a data set opens another file."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from mobconv.data import labelled
from mobconv.data.images import decode
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def table(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)


class TestPixels:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
    def test_lossless_formats_give_their_pixels(self, kind):
        pixels = noise(5, 7, 3)
        assert np.array_equal(decode(encoded(Image.fromarray(pixels), kind)), pixels)

    def test_gray_and_colours(self):
        gray, colours = noise(5, 7), noise(5, 7, 3)
        assert np.array_equal(decode(encoded(Image.fromarray(gray)), 1)[..., 0], gray)
        assert np.array_equal(decode(encoded(Image.fromarray(gray)), 3), np.repeat(gray[..., None], 3, 2))
        luminance = decode(encoded(Image.fromarray(colours)), 1)[..., 0].astype(float)
        assert np.abs(luminance - colours @ [0.299, 0.587, 0.114]).max() <= 1  # ITU-R 601-2, rounded

    def test_four_channels(self):
        pixels = noise(5, 7, 4)
        assert np.array_equal(decode(encoded(Image.fromarray(pixels, "RGBA")), 4), pixels)
        assert np.array_equal(decode(encoded(Image.fromarray(pixels, "RGBA")), 3), pixels[..., :3])
        opaque = decode(encoded(Image.fromarray(pixels[..., :3].copy())), 4)
        assert np.array_equal(opaque[..., :3], pixels[..., :3]) and (opaque[..., 3] == 255).all()

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_sixteen_bits_are_scaled(self, kind, channels):
        """Pillow's own conversion clips them: all but the darkest become white."""
        pixels = noise(9, 8, dtype=np.uint16)
        expected = np.rint(pixels / 257)
        found = decode(encoded(Image.fromarray(pixels), kind), channels)
        assert found.shape == (9, 8, channels) and np.abs(found - expected[..., None]).max() == 0

    @pytest.mark.parametrize("pixels", [noise(4, 4).astype(np.float32), noise(4, 4).astype(np.int32)])
    def test_32_bits_are_refused_by_name(self, pixels):
        with pytest.raises(InputError, match=r"pixels of 32 bits.*8 or 16"):
            decode(encoded(Image.fromarray(pixels), "TIFF"))

    def test_a_camera_s_orientation_is_applied(self):
        image = Image.fromarray(noise(8, 16, 3))
        exif = image.getexif()
        exif[0x0112] = 6  # turned by a quarter
        assert decode(encoded(image, "JPEG", exif=exif)).shape == (16, 8, 3)

    def test_fit_sees_the_scaled_pixels(self):
        pixels = np.full((20, 30), 40_000, np.uint16)
        found = decode(encoded(Image.fromarray(pixels)), 1, Preprocessing((0.5,), (0.5,), size=(8, 8)).fit)
        assert found.shape == (8, 8, 1) and (found == 156).all()  # 40,000 / 257


class TestRefused:
    def test_formats_that_are_not_listed(self):
        """EPS starts Ghostscript, which runs what the file says."""
        text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
        with pytest.raises(InputError, match=r"not an image of PNG, JPEG.* or PPM"):
            decode(text)

    def test_the_size_is_looked_at_before_pixels_are(self, monkeypatch):
        """The header says so many; there are no pixels."""
        import struct
        import zlib

        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        def bomb(side):
            header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
            return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
        with pytest.raises(InputError, match="too large: 12000x12000"):
            decode(bomb(12_000))
        with pytest.raises(InputError, match="too large"):
            decode(bomb(60_000))

    def test_a_long_image_is_not_blown_up(self):
        strip = encoded(Image.fromarray(np.zeros((1, 60_000), np.uint8)))
        with pytest.raises(InputError, match="would be resized to"):
            decode(strip, 1, Preprocessing((0.5,), (0.5,), size=(224, 224)).fit)

    def test_five_channels(self):
        with pytest.raises(InputError, match="1 to 4 channels, and the network takes 5"):
            decode(encoded(Image.fromarray(noise(4, 4, 3))), 5)


class TestRowsOpenNothing:
    @pytest.mark.parametrize("path", ["secret.png", "/etc/hostname", "http://127.0.0.1:9/x.png", "https://h.invalid/x"])
    def test_rows_with_a_path_alone(self, cli, monkeypatch, path):
        """As a data set that somebody sent would have them: a file of this machine, or an address."""
        Image.fromarray(noise(8, 8, 3)).save("secret.png")
        path = str(Path(path).absolute()) if path == "secret.png" else path
        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        table("set.parquet", image=pyarrow.array([{"bytes": None, "path": path}], kind), label=[0])
        monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a connection"))
        with pytest.raises(InputError, match=r"no bytes of an image, only the path .*no other file is opened"):
            labelled.load("set.parquet")

    def test_plain_bytes(self, cli):
        pixels = noise(3, 8, 8, 3)
        content = [encoded(Image.fromarray(each)) for each in pixels]
        table("set.parquet", label=[2, 0, 1], name=[b"a", b"b", b"c"], image=content)
        data = labelled.load("set.parquet")
        assert np.array_equal(data.pixels, pixels) and data.labels.tolist() == [2, 0, 1]
        table("set.parquet", label=[2, 0, 1], a=content, b=content)
        with pytest.raises(InputError, match="several columns of bytes, a, b; name that of the images `image`"):
            labelled.load("set.parquet")

    @pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "a/../../outside.png"])
    def test_a_list_stays_in_its_folder(self, cli, name):
        (cli.folder / "set").mkdir()
        Image.fromarray(noise(8, 8, 3)).save("outside.png")
        (cli.folder / "set" / "list.csv").write_text(f"path,label\n{name},0\n")
        with pytest.raises(InputError, match=r"row 0 names .*not below set/"):
            labelled.load("set/list.csv")


class TestFolders:
    @staticmethod
    def images(folder, count=2, size=(8, 8, 3), seed=0):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(noise(*size, seed=seed + number)).save(folder / f"{number}.png")

    def test_classes_are_folders_at_any_depth(self, cli):
        self.images(cli.folder / "set" / "b" / "deep" / "er")
        self.images(cli.folder / "set" / "a", 1)
        self.images(cli.folder / "set" / ".cache")
        data = labelled.load("set")
        assert data.names == ("a", "b") and data.labels.tolist() == [0, 1, 1] and data.split == ""

    def test_the_split_that_was_read_is_said(self, cli):
        self.images(cli.folder / "set" / "train" / "cat", 3)
        self.images(cli.folder / "set" / "val" / "cat", 2)
        data = labelled.load("set")
        assert len(data) == 2 and data.split == "val" and "'val' is read; there is also 'train'" in data.notes[0]
        self.images(cli.folder / "set" / "test" / "cat", 1)
        assert labelled.load("set").split == "test"

    def test_a_class_called_test_is_a_class(self, cli):
        for name in ("cat", "test"):
            self.images(cli.folder / "set" / name)
        assert labelled.load("set").names == ("cat", "test")

    def test_an_empty_folder_keeps_its_place(self, cli):
        (cli.folder / "set" / "ant").mkdir(parents=True)
        self.images(cli.folder / "set" / "bee")
        data = labelled.load("set")
        assert data.names == ("ant", "bee") and data.labels.tolist() == [1, 1]

    def test_other_files_are_counted(self, cli):
        self.images(cli.folder / "set" / "a")
        (cli.folder / "set" / "a" / "photo.heic").write_bytes(b"x")
        self.images(cli.folder / "set", 1)
        notes = " ".join(labelled.load("set").notes)
        assert "left out 1 file of no image format that is read, such as set/a/photo.heic" in notes
        assert "left out 1 image in no folder of a class, such as set/0.png" in notes

    def test_images_without_folders(self, cli):
        self.images(cli.folder / "set")
        with pytest.raises(InputError, match="no labels: its 2 images are in no folder of a class"):
            labelled.load("set")

    def test_links_in_a_circle_end(self, cli):
        self.images(cli.folder / "set" / "a")
        (cli.folder / "set" / "a" / "again").symlink_to(cli.folder / "set" / "a")
        assert len(labelled.load("set")) == 2

    @pytest.mark.parametrize("place", ["folder", "list"])
    def test_a_bad_image_is_named_and_may_be_left_out(self, cli, place):
        self.images(cli.folder / "set" / "a", 3)
        self.images(cli.folder / "set" / "b", 1, seed=9)
        (cli.folder / "set" / "a" / "1.png").write_bytes(b"\x89PNG\r\n")
        (cli.folder / "set" / "list.csv").write_text("path,label\na/0.png,0\na/1.png,0\na/2.png,0\nb/0.png,1\n")
        source = "set" if place == "folder" else "set/list.csv"
        with pytest.raises(InputError) as error:
            labelled.load(source)
        assert "set/a/1.png cannot be decoded" in error.value.text and "--skip-bad" in error.value.message("cli")
        data = labelled.load(source, skip_bad=True)
        assert data.skipped == 1 and data.labels.tolist() == [0, 0, 1] and data.pixels.shape == (3, 8, 8, 3)
        assert np.array_equal(data.pixels[1], noise(8, 8, 3, seed=2))
        assert any("left out 1 image of 4, such as set/a/1.png" in note for note in data.notes)

    def test_nothing_but_bad_images(self, cli):
        (cli.folder / "set" / "a").mkdir(parents=True)
        (cli.folder / "set" / "a" / "0.png").write_bytes(b"x")
        with pytest.raises(InputError, match=r"no images in it that can be decoded.*0\.png"):
            labelled.load("set", skip_bad=True)


class TestLists:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_paths_and_names_of_classes(self, cli, delimiter):
        TestFolders.images(cli.folder / "pictures", 3)
        rows = ["filename,class,patient", "pictures/0.png,dog,x", "pictures/1.png,cat,y", "pictures/2.png,dog,x"]
        (cli.folder / "list.csv").write_text("\n".join(row.replace(",", delimiter) for row in rows))
        data = labelled.load("list.csv")
        assert data.names == ("cat", "dog") and data.labels.tolist() == [1, 0, 1]
        assert data.groups.tolist() == [0, 1, 0]

    def test_numbers_are_numbers(self, cli):
        TestFolders.images(cli.folder, 2)
        (cli.folder / "list.csv").write_text("\ufeffpath,label\r\n0.png,10\r\n1.png,9\r\n", encoding="utf-8")
        data = labelled.load("list.csv")
        assert data.names == () and data.labels.tolist() == [10, 9]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("0.png,1\n", "no rows; it needs a first line"),
            ("name,label\n0.png,1\n", "no column of paths"),
            ("path,size\n0.png,1\n", "no column of labels"),
            ("path,label\n0.png\n", "row 0 has no path or no label"),
            ("path,label\n0.png,-1\n", "row 0 has label -1"),
            ("path,label\ngone.png,1\n", "gone.png cannot be decoded: No such file"),
        ],
    )
    def test_what_is_no_list(self, cli, text, words):
        TestFolders.images(cli.folder, 1)
        (cli.folder / "list.csv").write_text(text)
        with pytest.raises(InputError, match=words):
            labelled.load("list.csv")


def test_a_set_that_memory_cannot_hold(cli, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    TestFolders.images(cli.folder / "set" / "a", 3)
    with pytest.raises(InputError, match=r"3 images of 8x8 would take .* of memory"):
        labelled.load("set")


def test_the_hub_gives_bytes_and_says_its_split(monkeypatch):
    """`datasets` itself is not reached: a data set of its own stands for what it would load."""
    rows = {"image": [{"bytes": encoded(Image.fromarray(noise(8, 8, 3))), "path": None}] * 2, "label": [1, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    made = datasets.Dataset.from_dict(rows, features=features)
    splits = datasets.DatasetDict({"train": made, "validation": made.select([0])})
    monkeypatch.setattr("datasets.load_dataset", lambda name: splits)
    data = labelled.load("owner/name")
    assert data.split == "validation" and data.labels.tolist() == [1] and data.names == ("cat", "dog")
    assert "'validation' is read; there is also 'train'" in data.notes[0]
    away = {"image": [{"bytes": None, "path": "/etc/hostname"}], "label": [0]}
    outside = datasets.DatasetDict({"test": datasets.Dataset.from_dict(away, features=features)})
    monkeypatch.setattr("datasets.load_dataset", lambda name: outside)
    with pytest.raises(InputError, match="only a path, and no other file is opened"):
        labelled.load("owner/name")


def test_class_names_without_decoding(cli):
    (cli.folder / "set" / "dog").mkdir(parents=True)
    (cli.folder / "set" / "dog" / "0.png").write_bytes(b"not decoded")
    assert labelled.class_names("set") == ("dog",)
    features = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    made = pyarrow.table({"image": [b"x"], "label": [0]})
    parquet.write_table(made.replace_schema_metadata({"huggingface": json.dumps(features)}), "set.parquet")
    assert labelled.class_names("set.parquet") == ("a", "b")
