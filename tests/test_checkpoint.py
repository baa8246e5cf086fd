"""Every kind of file that is no checkpoint: a message, exit code 3 or 2, no traceback, nothing written."""

import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import CHECKPOINT, Planted, export, rewrite

from mobconv.data.preprocessing import Preprocessing, raw
from mobconv.errors import InputError
from mobconv.model import checkpoint

TINY = ("--model", "user_nets:tiny", "--input-shape", "1,3,8,8")


@pytest.fixture
def tiny(cli):
    """A state dict of user_nets:tiny."""
    import user_nets

    torch.manual_seed(0)
    return user_nets.tiny().state_dict()


def with_metadata(path, **changes):
    """The trained fixture, its metadata changed."""
    with safe_open(CHECKPOINT, "pt") as held:
        metadata = json.loads(held.metadata()["mobconv"])
    metadata.update(changes)
    content = {name: value for name, value in metadata.items() if value is not None}
    save_file(load_file(CHECKPOINT), path, {"mobconv": json.dumps(content)})
    return path


class TestBrokenFiles:
    def test_missing(self, cli):
        cli.refuses(3, "gone.safetensors", "no such file", arguments=export("gone.safetensors"))

    def test_folder(self, cli):
        (cli.folder / "run1").mkdir()
        cli.refuses(3, "run1 is a folder without the config.json", "a checkpoint is one file", arguments=export("run1"))

    @pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.pt2"])
    def test_empty(self, cli, name):
        (cli.folder / name).touch()
        cli.refuses(3, f"{name} is empty", arguments=export(name))

    @pytest.mark.parametrize(
        ("kept", "said"),
        [
            (4, "unknown kind of checkpoint, or a damaged file; known are a safetensors file"),
            (1000, "a damaged safetensors file"),
            (300_000, "a damaged safetensors file"),
        ],
    )
    def test_truncated_safetensors(self, cli, kept, said):
        (cli.folder / "net.safetensors").write_bytes(CHECKPOINT.read_bytes()[:kept])
        cli.refuses(3, "net.safetensors", said, arguments=export("net.safetensors"))

    @pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
    def test_truncated_zip(self, cli, tiny, part):
        torch.save(tiny, "net.pt")
        content = (cli.folder / "net.pt").read_bytes()
        (cli.folder / "net.pt").write_bytes(content[: int(len(content) * part)])
        cli.refuses(3, "net.pt", "truncated or damaged", "download it again", arguments=export("net.pt", *TINY))

    def test_damaged_pickle_in_a_whole_zip(self, cli, tiny):
        torch.save(tiny, "net.pt")
        rewrite("net.pt", "net.pt", {"net/data.pkl": b"\x80\x02}q\x00(X\x08"})
        cli.refuses(3, "net.pt", "truncated, or not a file that torch.load reads", arguments=export("net.pt", *TINY))

    @pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "safetensors", "pt2"])
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run `git lfs pull`"),
            ("\n<html>404 not found</html>", "is a web page"),
            (
                "checkpoint: a.pt\ndata: b.parquet\n",
                "is a text file (it begins with 'checkpoint: a.pt'), not a checkpoint",
            ),
            ("é" * 5000, "is a text file"),
        ],
        ids=["lfs", "html", "yaml", "utf-8"],
    )
    def test_text(self, cli, suffix, text, said):
        """`checkpoint: ...` also is the start of a pickle, of an op that imports `heckpoint: ...`."""
        (cli.folder / f"net.{suffix}").write_text(text, encoding="utf-8")
        told = cli.refuses(3, f"net.{suffix}", said, arguments=export(f"net.{suffix}", *TINY))
        assert "--trust-pickle" not in told

    def test_bytes_that_are_no_checkpoint(self, cli):
        (cli.folder / "net.pth").write_bytes(b"\x00\xff" * 100)
        cli.refuses(
            3,
            "net.pth",
            "unknown kind of checkpoint, or a damaged file",
            "a file of torch.save",
            arguments=export("net.pth", *TINY),
        )

    def test_a_zip_that_is_no_checkpoint(self, cli):
        with zipfile.ZipFile("photos.pt", "w") as archive:
            archive.writestr("photos/cat.jpg", b"cat")
        cli.refuses(
            3, "photos.pt: unknown kind of checkpoint", "a file of torch.save", arguments=export("photos.pt", *TINY)
        )

    def test_torchscript(self, cli):
        import user_nets

        torch.jit.save(torch.jit.script(user_nets.tiny()), "net.pt")
        cli.refuses(3, "TorchScript", "state_dict()", arguments=export("net.pt", *TINY))

    def test_nan_weights(self, cli, tiny):
        tiny["5.weight"][0, 0] = float("nan")
        save_file(tiny, "net.safetensors")
        err = cli.refuses(3, "NaN or infinity in 5.weight", arguments=export("net.safetensors", *TINY))
        assert "0.weight" not in err


class TestArchitecture:
    def test_missing_unexpected_and_misshaped_are_listed(self, cli, tiny):
        tiny["5.wieght"] = tiny.pop("5.weight")
        tiny["0.weight"] = tiny["0.weight"][:, :1].clone()
        save_file(tiny, "net.safetensors")
        cli.refuses(
            3,
            "net.safetensors does not fit user_nets:tiny",
            "1 missing from the file:\n    5.weight (did you mean '5.wieght'?)",
            "1 not in the architecture:\n    5.wieght",
            "1 of another shape:\n    0.weight (4, 1, 3, 3), expected (4, 3, 3, 3)",
            "--model-arg",
            arguments=export("net.safetensors", *TINY),
        )

    def test_a_long_list_is_cut(self, cli):
        save_file({f"layer{i}": torch.zeros(1) for i in range(30)}, "net.safetensors")
        cli.refuses(3, "30 not in the architecture", "... and 22 more", arguments=export("net.safetensors", *TINY))

    def test_weights_alone_need_a_model(self, cli, tiny):
        torch.save(tiny, "net.pt")
        cli.refuses(2, "contains weights only", "--model package.module:factory", arguments=export("net.pt"))

    def test_and_an_input_shape(self, cli, tiny):
        torch.save(tiny, "net.pt")
        arguments = export("net.pt", "--model", "user_nets:tiny")
        cli.refuses(2, "does not say what shape its input has", "--input-shape 1,3,224,224", arguments=arguments)

    @pytest.mark.parametrize(
        ("factory", "words"),
        [
            ("tiny", ["not of the form package.module:factory"]),
            ("no_such_package.nets:tiny", ["cannot import no_such_package.nets", "ModuleNotFoundError"]),
            ("user_nets:tiy", ["user_nets has no tiy", "did you mean 'tiny'?"]),
            ("user_nets:raises", ["called with no arguments", "KeyError: 'no such layer'"]),
            ("user_nets:number", ["returns int, not a torch.nn.Module"]),
            ("script:tiny", ["cannot import script", "SystemExit: 2"]),
        ],
    )
    def test_wrong_factory(self, cli, tiny, factory, words):
        (cli.folder / "script.py").write_text("import sys\nsys.exit(2)  # as argparse does in a training script\n")
        torch.save(tiny, "net.pt")
        cli.refuses(2, *words, arguments=export("net.pt", "--model", factory, "--input-shape", "1,3,8,8"))

    def test_wrong_argument_of_the_factory(self, cli, tiny):
        torch.save(tiny, "net.pt")
        words = ("called with clases=3 it fails", "unexpected keyword argument 'clases'")
        cli.refuses(2, *words, arguments=export("net.pt", *TINY, "--model-arg", "clases=3"))

    def test_arguments_reach_the_factory(self, cli, tiny):
        torch.save(tiny, "net.pt")
        arguments = export("net.pt", *TINY, "--model-arg", "classes=5")
        cli.refuses(3, "5.weight (3, 4), expected (5, 4)", arguments=arguments)


class TestOptions:
    @pytest.mark.parametrize("shape", ["1x3x8x8", "1,3,8,", "3", "1,3,0,8", "1,-3,8,8"])
    def test_input_shape(self, cli, shape):
        cli.refuses(2, "--input-shape", repr(shape), arguments=export(CHECKPOINT, f"--input-shape={shape}"))

    def test_input_shape_that_the_network_does_not_take(self, cli, tiny):
        torch.save(tiny, "net.pt")
        arguments = export("net.pt", "--model", "user_nets:tiny", "--input-shape", "1,1,8,8")
        cli.refuses(3, "cannot trace", "(1, 1, 8, 8)", arguments=arguments)

    @pytest.mark.parametrize(
        ("shape", "meant"), [("1,8,8,3", "1,3,8,8"), ("3,8,8", "1,3,8,8"), ("8,8,3", "1,3,8,8"), ("1,5,8,8", "")]
    )
    def test_input_shape_in_another_order(self, cli, tiny, shape, meant):
        torch.save(tiny, "net.pt")
        arguments = export("net.pt", "--model", "user_nets:tiny", "--input-shape", shape)
        hint = f"batch, channels, height, width: did you mean --input-shape {meant}?"
        err = cli.refuses(3, "cannot trace", arguments=arguments)
        assert (hint in err) if meant else ("did you mean" not in err)

    def test_model_arg(self, cli):
        cli.refuses(2, "--model-arg 'width'", "name=value", arguments=export(CHECKPOINT, "--model-arg", "width"))

    @pytest.mark.parametrize(
        ("text", "code", "word"),
        [
            ('{"mean": [0.5, 0.5', 2, "not JSON"),
            ('{"mean": [0.5, 0.5, 0.5]}', 3, "'mean' and 'std'"),
            ('{"mean": ["a"], "std": [1]}', 3, "numbers"),
            ('{"mean": [0.5], "std": [0]}', 3, "std above 0"),
            ('{"mean": [0.5, 0.5], "std": [1]}', 3, "one value per channel"),
            ("nowhere.json", 3, "no such file"),
            ("binary.json", 3, "cannot be read"),
            (".", 3, "cannot be read"),
        ],
    )
    def test_preprocessing(self, cli, text, code, word):
        (cli.folder / "binary.json").write_bytes(b"\xff\xfe\x00")
        cli.refuses(code, word, arguments=export(CHECKPOINT, "--preprocessing", text))


@pytest.mark.parametrize("metadata", [True, False])
def test_one_mean_and_std_for_all_channels(cli, tiny, metadata):
    """Of the file, or of the options; and of the files that come of it."""
    one = Preprocessing((0.5,), (0.25,))
    if metadata:
        path, options = with_metadata(cli.folder / "net.safetensors", preprocessing=one.to_json()), None
    else:
        path = cli.folder / "net.pt"
        torch.save(tiny, path)
        options = checkpoint.Options("user_nets:tiny", input_shape=(1, 3, 8, 8), preprocessing=one)
    assert checkpoint.load(path, options).preprocessing == Preprocessing((0.5,) * 3, (0.25,) * 3)
    assert (
        options is None or checkpoint.load(path, replace(options, preprocessing=raw(channels=1))).preprocessing == raw()
    )


def test_several_for_another_number_of_channels(cli, tiny):
    torch.save(tiny, "net.pt")
    two = '{"mean": [0.4, 0.5], "std": [0.25, 0.25]}'
    words = ("net.pt has an input of shape (1, 3, 8, 8)", "mean and std are of 2 channels, and the input has 3")
    cli.refuses(3, *words, arguments=export("net.pt", *TINY, "--preprocessing", two))


class TestMetadata:
    """A safetensors file may say how it is built; it is not to be believed in everything."""

    def test_a_foreign_factory_is_neither_imported_nor_called(self, cli):
        (cli.folder / "planted.py").write_text("open('imported', 'w')\ndef run(**_):\n    open('called', 'w')\n")
        with_metadata("net.safetensors", factory="planted:run")
        cli.refuses(2, "planted:run", "may not choose what is imported", arguments=export("net.safetensors"))
        assert not (cli.folder / "imported").exists()

    def test_os_system(self, cli):
        with_metadata("net.safetensors", factory="os:system", arguments={"command": "touch called"})
        cli.refuses(2, "'os:system'", "--model os:system", arguments=export("net.safetensors"))
        assert not (cli.folder / "called").exists()

    @pytest.mark.parametrize("text", ["{", "[]", '"mobconv"'])
    def test_not_json(self, cli, text):
        save_file(load_file(CHECKPOINT), "net.safetensors", {"mobconv": text})
        cli.refuses(3, "`mobconv` metadata is not JSON", arguments=export("net.safetensors"))

    @pytest.mark.parametrize(
        ("changes", "code", "word"),
        [
            ({"arguments": ["width"]}, 3, "not an object"),
            ({"input_shape": "large"}, 3, "invalid input shape 'large'"),
            ({"input_shape": [1, 3, -32, 32]}, 3, "invalid input shape"),
            ({"input_shape": [10**6] * 4}, 3, "invalid input shape"),
            ({"input_shape": None}, 2, "--input-shape"),
            ({"preprocessing": {"mean": 0.5}}, 3, "--preprocessing"),
            ({"factory": None}, 2, "--model"),
        ],
    )
    def test_of_another_type(self, cli, changes, code, word):
        with_metadata("net.safetensors", **changes)
        cli.refuses(code, "net.safetensors", word, arguments=export("net.safetensors"))

    def test_labels_of_another_type_are_left_aside(self, cli):
        found = checkpoint.load(with_metadata(cli.folder / "net.safetensors", labels=5))
        assert found.labels == ()

    def test_what_the_file_says_is_taken(self):
        found = checkpoint.load(CHECKPOINT)
        assert found.example["image"].shape == (1, 3, 32, 32)
        assert found.preprocessing is not None and len(found.labels) == 10


class TestPickles:
    def test_code_is_refused(self, cli, tiny):
        torch.save({"state_dict": tiny, "hook": Planted(cli.folder / "ran")}, "net.pt")
        words = ("wants to run code (", "open", "--trust-pickle", "state_dict()")
        cli.refuses(3, *words, arguments=export("net.pt", *TINY))
        assert not (cli.folder / "ran").exists()

    def test_code_in_a_bare_pickle_is_refused(self, cli):
        (cli.folder / "net.pth").write_bytes(pickle.dumps(Planted(cli.folder / "ran"), protocol=2))
        cli.refuses(3, "net.pth", arguments=export("net.pth", *TINY))
        assert not (cli.folder / "ran").exists()

    def test_code_in_a_pickle_of_letters_is_refused(self, cli):
        content = pickle.dumps(Planted(cli.folder / "ran"), protocol=0)
        assert content.isascii()
        (cli.folder / "net.pth").write_bytes(content)
        told = cli.refuses(3, "net.pth", arguments=export("net.pth", *TINY))
        assert "text file" not in told and not (cli.folder / "ran").exists()

    def test_trusted_it_is_loaded_with_a_warning(self, cli, tiny):
        torch.save({"state_dict": tiny, "hook": Planted(cli.folder / "ran")}, "net.pt")
        code, _, err = cli(*export("net.pt", *TINY, "--trust-pickle"))
        assert code == 0
        assert "warning: --trust-pickle" in err and "took the state dict under 'state_dict'" in err
        assert (cli.folder / "ran").exists() and (cli.folder / "out/onnx/fp32.onnx").exists()

    def test_a_whole_module_needs_trust(self, cli, tiny):
        import user_nets

        torch.save(user_nets.tiny(), "net.pt")
        cli.refuses(3, "--trust-pickle", arguments=export("net.pt", "--input-shape", "1,3,8,8"))
        options = checkpoint.Options(input_shape=(1, 3, 8, 8), trust_pickle=True)
        found = checkpoint.load(cli.folder / "net.pt", options)
        assert found.notes == ["the file contains the whole module"]

    def test_trusted_but_broken(self, cli):
        class Gone:
            pass

        Gone.__qualname__ = "Gone"
        Gone.__module__ = "user_nets"
        import user_nets

        user_nets.Gone = Gone
        torch.save({"a": Gone()}, "net.pt")
        del user_nets.Gone
        cli.refuses(3, "cannot be unpickled", "Gone", arguments=export("net.pt", *TINY, "--trust-pickle"))


class TestWrappers:
    @pytest.mark.parametrize(
        ("wrap", "notes"),
        [
            (lambda state: state, []),
            (lambda state: {"state_dict": state, "epoch": 3}, ["under 'state_dict'"]),
            # torchvision's and the ImageNet example's: a tensor stands beside
            (lambda state: {"state_dict": state, "best_acc1": torch.tensor(71.9)}, ["under 'state_dict'"]),
            (lambda state: {"model": state}, ["under 'model'"]),
            (lambda state: {"model": {"state_dict": state}}, ["under 'model'", "under 'state_dict'"]),
            (lambda state: {f"module.{name}": value for name, value in state.items()}, ["prefix 'module.'"]),
            (
                lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
                ["under 'model'", "prefix 'module.'"],
            ),
        ],
    )
    def test_recognised_and_said(self, cli, tiny, wrap, notes):
        torch.save(wrap(tiny), "net.pt")
        options = checkpoint.Options(factory="user_nets:tiny", input_shape=(1, 3, 8, 8))
        found = checkpoint.load(cli.folder / "net.pt", options)
        assert len(found.notes) == len(notes)
        assert all(word in note for word, note in zip(notes, found.notes, strict=True))
        for name, value in found.module.state_dict().items():
            assert torch.equal(value, tiny[name])

    @pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], "text", {"state_dict": {}}])
    def test_no_state_dict(self, cli, content):
        torch.save(content, "net.pt")
        cli.refuses(3, "net.pt", "state_dict()", arguments=export("net.pt", *TINY))


def test_a_network_that_does_not_run_on_the_images(cli, tiny):
    torch.save(tiny, "net.pt")
    options = checkpoint.Options(factory="user_nets:tiny", input_shape=(1, 3, 8, 8))
    found = checkpoint.load(cli.folder / "net.pt", options)
    with pytest.raises(InputError, match=r"net.pt.*\(1, 5, 8, 8\)"):
        found.run({"image": np.zeros((1, 5, 8, 8), np.float32)})


def test_state_dict_end_to_end(cli, tiny):
    torch.save({"model": tiny}, "net.pth")
    code, out, err = cli(*export("net.pth", *TINY, "--scheme", "w4-symmetric"))
    assert code == 0, err
    assert "w4-symmetric.onnx" in out and "took the state dict under 'model'" in err
