"""Folders of save_pretrained: outputs, preprocessing and labels are the library's own; no weight is drawn at random."""

import importlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from support import export, lively

from mobconv.model import checkpoint, image_processor
from mobconv.model.checkpoint import Options
from mobconv.model.sources import SOURCES
from mobconv.testing import source_conformance

transformers = pytest.importorskip("transformers")
NAMES = {0: "cat", 1: "dog", 2: "owl"}
SOURCE = importlib.import_module(SOURCES["pretrained"])


def vit(**more):
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37} | more
    return transformers.ViTConfig(image_size=16, patch_size=4, id2label=NAMES, **settings)


# name -> class, its small configuration, shape where the configuration does not say it
NETWORKS = {
    "vit": ("ViTForImageClassification", vit, None),
    "resnet": (
        "ResNetForImageClassification",
        lambda: transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3),
        (1, 3, 32, 32),
    ),
    "mobilenet_v2": (
        "MobileNetV2ForImageClassification",
        lambda: transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=3),
        None,
    ),
    "convnext": (
        "ConvNextForImageClassification",
        lambda: transformers.ConvNextConfig(
            hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], image_size=32, num_channels=1, num_labels=3
        ),
        None,
    ),
    "swin": (
        "SwinForImageClassification",
        lambda: transformers.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=3
        ),
        None,
    ),
    "levit": (  # two heads, and their mean
        "LevitForImageClassificationWithTeacher",
        lambda: transformers.LevitConfig(
            image_size=64, hidden_sizes=[16] * 3, num_attention_heads=[1] * 3, depths=[1] * 3, key_dim=[8] * 3
        ),
        None,
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        lambda: transformers.SegformerConfig(
            hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, decoder_hidden_size=16, num_attention_heads=[1, 1, 2, 2]
        ),
        (1, 3, 64, 64),
    ),
    "features": ("ViTModel", vit, None),
    "bert": (
        "BertForSequenceClassification",
        lambda: transformers.BertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37, vocab_size=50
        ),
        (1, 8),
    ),
}


def made(name, folder):
    """A network of the library's, saved; and the options that it loads with."""
    architecture, config, shape = NETWORKS[name]
    module = lively(getattr(transformers, architecture)(config()))
    module.save_pretrained(folder)
    return module, Options(input_shape=shape)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "net"


def changed(folder, name="config.json", **values):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (content | values).items() if value is not None}))


class Logits(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, image):
        return self.module(pixel_values=image).logits


def test_a_source_keeps_its_promises(folder, tmp_path):
    module, options = made("vit", folder)
    (tmp_path / "scratch").mkdir()
    other = tmp_path / "scratch" / "config.json"
    other.write_text("{}")
    source_conformance.check(SOURCE, str(folder), Logits(module), tmp_path / "scratch", options, [str(other)])
    assert checkpoint.source(str(folder)) is SOURCE


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_librarys(name, folder):
    module, options = made(name, folder)
    loaded = checkpoint.load(str(folder), options)
    generator = np.random.default_rng(0)
    inputs = {
        key: generator.normal(size=value.shape).astype(np.float32)
        if value.dtype == np.float32
        else generator.integers(0, 2, value.shape)
        for key, value in loaded.example.items()
    }
    tensors = {"pixel_values" if key == "image" else key: torch.from_numpy(value) for key, value in inputs.items()}
    with torch.inference_mode():
        expected = module(**tensors)
    outputs = loaded.run(inputs)
    assert list(outputs) == (["last_hidden_state", "pooler_output"] if name == "features" else ["logits"])
    traced = loaded.trace().run(inputs)
    for key, value in outputs.items():
        want = expected[key].numpy()
        assert np.abs(want).max() > 0.01
        assert np.allclose(value, want, rtol=0, atol=1e-6 * np.abs(want).max())
        assert np.allclose(traced[key], want, rtol=0, atol=1e-5 * np.abs(want).max())  # batch norms are folded
    assert set(loaded.module.state_dict()) == set(module.state_dict())  # layer rules have the library's names
    channels = 1 if name == "convnext" else 3
    assert name == "bert" or next(iter(loaded.example.values())).shape[:2] == (1, channels)


def test_logits_that_the_library_calls_otherwise(folder):
    module = lively(transformers.PPLCNetForImageClassification(transformers.PPLCNetConfig(scale=0.25, num_labels=3)))
    module.save_pretrained(folder)
    loaded = checkpoint.load(str(folder), Options(input_shape=(1, 3, 32, 32)))
    images = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        want = module(torch.from_numpy(images)).last_hidden_state.numpy()
    outputs = loaded.run({"image": images})
    assert list(outputs) == ["logits"] and np.allclose(outputs["logits"], want, rtol=0, atol=1e-6)


def test_labels(folder):
    made("vit", folder)
    assert checkpoint.load(str(folder)).labels == ("cat", "dog", "owl")
    changed(folder, id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    assert checkpoint.load(str(folder)).labels == ()  # made up by the library


def test_an_older_folder_with_a_pickle(folder):
    module, options = made("resnet", folder)
    torch.save(module.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    loaded = checkpoint.load(str(folder), options)
    assert torch.equal(loaded.module.state_dict()["classifier.1.weight"], module.state_dict()["classifier.1.weight"])
    before = checkpoint.fingerprint(str(folder), options)
    assert before.sha256 == loaded.sha256 and before.packages == ("transformers",)
    torch.save({**module.state_dict(), "x": torch.ones(1)}, folder / "pytorch_model.bin")
    assert checkpoint.fingerprint(str(folder), options) != before
    assert checkpoint.load(str(folder), options).notes[0] == "left out, as the network has no such tensors: x"


class TestRefused:
    """Exit code 3 and the file's name; never weights drawn at random, code of the folder, or another folder's files."""

    @pytest.fixture
    def saved(self, cli):
        made("vit", cli.folder / "net")
        return cli.folder / "net"

    def weights(self, folder, change):
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        save_file(change(state), folder / "model.safetensors", {"format": "pt"})

    def test_missing_tensors(self, saved, cli):
        self.weights(saved, lambda state: {k: v for k, v in state.items() if not k.startswith("classifier")})
        words = ("net does not fit ViTForImageClassification", "2 missing", "drawn at random", "classifier.weight")
        cli.refuses(3, *words, arguments=export("net"))

    def test_tensors_of_another_shape(self, saved, cli):
        changed(saved, id2label={str(number): str(number) for number in range(5)}, label2id=None)
        words = ("of another shape", "classifier.weight (3, 32), expected (5, 32)")
        cli.refuses(3, *words, arguments=export("net"))

    def test_damaged_weights(self, saved, cli):
        content = (saved / "model.safetensors").read_bytes()
        (saved / "model.safetensors").write_bytes(content[: len(content) // 2])
        cli.refuses(3, "net: transformers", "cannot load it", arguments=export("net"))

    def test_no_weights(self, saved, cli):
        (saved / "model.safetensors").unlink()
        cli.refuses(3, "net: no weights in it", arguments=export("net"))

    def test_nan(self, saved, cli):
        self.weights(saved, lambda state: state | {"classifier.bias": torch.full((3,), torch.nan)})
        cli.refuses(3, "NaN or infinity in classifier.bias", arguments=export("net"))

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"architectures": ["MyNet"], "auto_map": {"AutoModel": "planted.MyNet"}}, ["is not run", "--model"]),
            ({"architectures": ["MyNet"]}, ["has no network MyNet"]),
            ({"architectures": ["os"]}, ["has no network os"]),
            ({"architecture": "resnet18"}, ["is a network of timm", "timm:hf-hub:net"]),
            ({"architectures": None}, ["does not name the network's class"]),
            ({"quantization_config": {"quant_method": "bitsandbytes"}}, ["quantized already"]),
            ({"attn_implementation": "someone/kernel"}, ["code of the hub", "someone/kernel"]),
            ({"image_size": "large"}, ["cannot load it"]),
        ],
    )
    def test_config(self, values, words, saved, cli):
        (saved / "planted.py").write_text("open('ran', 'w')\n")
        changed(saved, **values)
        cli.refuses(3, "net", *words, arguments=export("net"))
        assert not (cli.folder / "ran").exists() and not (saved / "ran").exists()

    def test_code_in_a_pickle(self, saved, cli):
        from support import Planted

        (saved / "model.safetensors").unlink()
        torch.save({"a": Planted(cli.folder / "ran")}, saved / "pytorch_model.bin")
        cli.refuses(3, "net: transformers", arguments=export("net"))
        assert not (cli.folder / "ran").exists()

    def test_a_configuration_of_a_huge_network(self, saved, cli):
        """Nothing is allocated for it: these would be 100 GB."""
        changed(saved, hidden_size=2**16, intermediate_size=2**17)
        cli.refuses(3, "describes a network of 34,", "the files have", arguments=export("net"))

    @pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd"])
    def test_a_path_out_of_the_folder(self, name, saved, cli):
        shutil.move(saved / "model.safetensors", cli.folder / "outside.safetensors")
        changed(saved, "model.safetensors.index.json", weight_map={"classifier.weight": name})
        cli.refuses(3, "names files outside of its folder", arguments=export("net"))

    def test_an_adapter(self, saved, cli):
        changed(saved, "adapter_config.json", base_model_name_or_path="a/b")
        cli.refuses(3, "adapter", "merge_and_unload", arguments=export("net"))

    def test_a_folder_of_something_else(self, saved, cli):
        changed(saved, model_type=None)
        cli.refuses(3, "net is a folder without the config.json of a model", arguments=export("net"))

    def test_no_shape(self, cli):
        made("resnet", cli.folder / "net")
        cli.refuses(2, "net does not say what shape its input has", "--input-shape", arguments=export("net"))
        made("bert", cli.folder / "text")
        cli.refuses(2, "text takes input_ids", "--input-shape 1,128", arguments=export("text"))

    def test_not_installed(self, saved, cli, monkeypatch):
        import importlib.util

        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else find(name, *rest)
        )
        cli.refuses(4, 'pip install "mobconv[transformers]"', arguments=export("net"))

    def test_nothing_is_fetched(self, saved, monkeypatch):
        """A folder is loaded without a network, whatever its files name."""
        import socket

        def refuse(*_):
            raise AssertionError("a connection")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        offline = []
        loading = transformers.ViTForImageClassification.from_pretrained
        monkeypatch.setattr(
            transformers.ViTForImageClassification,
            "from_pretrained",
            lambda *given, **named: (
                offline.append(transformers.utils.hub.is_offline_mode()) or loading(*given, **named)
            ),
        )
        changed(saved, _name_or_path="someone/elsewhere")
        assert checkpoint.load(str(saved)).labels == ("cat", "dog", "owl")
        assert offline == [True] and not transformers.utils.hub.is_offline_mode()


PROCESSORS = {
    "squashed": ("ViTImageProcessor", {"size": {"height": 16, "width": 16}}),
    "cropped": ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 24}}),
    "crop_pct": ("ConvNextImageProcessor", {"size": {"shortest_edge": 28}, "crop_pct": 0.875}),
    "share of its own": ("LevitImageProcessor", {"size": {"shortest_edge": 28}, "crop_size": 28}),
    "twice normalised": (
        "EfficientNetImageProcessor",
        {"size": {"height": 40, "width": 36}, "do_center_crop": True, "crop_size": 32, "rescale_offset": True},
    ),
    "bgr": ("MobileViTImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "lanczos": ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32, "resample": 1}),
    "pixels": ("ViTImageProcessor", {"size": 16, "do_rescale": False, "do_normalize": False, "resample": 0}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_preprocessing_is_the_librarys(kind, folder):
    """On a picture of another shape than those that the comparison itself uses."""
    from PIL import Image

    name, settings = PROCESSORS[kind]
    processor = getattr(transformers, f"{name}Pil")(**settings)
    made("vit", folder)
    processor.save_pretrained(folder)
    loaded = checkpoint.load(str(folder), Options(input_shape=None))
    assert loaded.preprocessing is not None, loaded.notes
    rows, columns = np.mgrid[0:83, 0:151]
    pixels = np.stack([rows * 3, columns, (rows * columns) % 256], 2).astype(np.uint8)
    fitted = np.asarray(loaded.preprocessing.fit(Image.fromarray(pixels)))
    theirs = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    ours = loaded.preprocessing(fitted[None])
    _, scale = loaded.preprocessing.constants()
    assert ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=0, atol=1e-4 * 255 / scale.min())
    assert loaded.example["image"].shape == theirs.shape
    again = type(loaded.preprocessing).from_json(json.loads(json.dumps(loaded.preprocessing.to_json())))
    assert again == loaded.preprocessing


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("DetrImageProcessor", {}, "a step of its own, do_convert_annotations, do_pad"),
        ("GLPNImageProcessor", {}, "GLPNImageProcessorPil has steps of its own"),
        ("MobileViTImageProcessor", {}, "resize 224 leaves images smaller"),
    ],
)
def test_steps_that_ours_does_not_have_are_said(name, settings, words, folder):
    made("vit", folder)
    getattr(transformers, f"{name}Pil")(**settings).save_pretrained(folder)
    loaded = checkpoint.load(str(folder))
    assert loaded.preprocessing is None
    assert f"preprocessing not taken from preprocessor_config.json: {words}" in loaded.notes[-1]


@pytest.mark.parametrize(
    "change", [{"colour": "bgr"}, {"mean": (0.4,) * 3}, {"interpolation": "nearest"}, {"size": (15, 16)}]
)
def test_another_preprocessing_is_seen(change):
    from dataclasses import replace

    processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16})
    ours = image_processor.preprocessing_of(processor.to_dict(), 3)
    assert not image_processor.differs(ours, processor)
    assert image_processor.differs(replace(ours, **change), processor)


def test_the_users_statements_win(folder):
    from mobconv.data.preprocessing import raw

    made("vit", folder)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    assert checkpoint.load(str(folder), Options(preprocessing=raw())).preprocessing == raw()
    made("mobilenet_v2", folder)
    loaded = checkpoint.load(str(folder), Options(input_shape=(1, 3, 48, 40)))
    assert loaded.example["image"].shape == (1, 3, 48, 40) and loaded.preprocessing.size == (48, 40)


class TestHub:
    """The hub stands in as a function: the tests have no network."""

    @pytest.fixture
    def hub(self, folder, monkeypatch):
        import huggingface_hub

        made("vit", folder)
        asked = []

        def snapshot_download(name, **settings):
            asked.append((name, settings["revision"], settings["allow_patterns"]))
            if name != "owner/net":
                raise OSError("Repository Not Found. Details follow")
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    def test_a_name_is_its_snapshot(self, hub, folder):
        assert SOURCE.accepts("hf:owner/net") and not SOURCE.accepts("hf:")
        loaded = checkpoint.load("hf:owner/net@main")
        assert loaded.sha256 == checkpoint.fingerprint(str(folder)).sha256
        assert (loaded.reference, loaded.labels) == ("hf:owner/net@main", ("cat", "dog", "owl"))
        assert hub == [("owner/net", "main", ["*.json", "*.safetensors"])]  # no pickle is fetched

    def test_offline(self, hub, cli):
        words = ("hf:owner/other: not in the cache", "Repository Not Found", "hf download owner/other --local-dir")
        cli.refuses(3, *words, arguments=export("hf:owner/other"))


def test_from_a_folder_to_a_file(cli):
    module, _ = made("vit", cli.folder / "net")
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(cli.folder / "net")
    code, out, err = cli("export", "net/", "--to", "onnx", "--scheme", "fp32", "-o", "out", "--json")
    assert code == 0, err
    import mobconv

    (row,) = json.loads(out)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        want = module(torch.from_numpy(pixels / 127.5 - 1).float()).logits.numpy()
    found = mobconv.open(row["path"]).runner.run({"image": pixels})["logits"]
    assert np.allclose(found, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_from_a_folder_to_a_sweep(cli):
    from PIL import Image

    made("mobilenet_v2", cli.folder / "net")
    changed(cli.folder / "net", id2label={str(key): name for key, name in NAMES.items()}, label2id=None)
    processor = transformers.MobileNetV2ImageProcessorPil(size={"shortest_edge": 36}, crop_size=32)
    processor.save_pretrained(cli.folder / "net")
    for label, value in (("cat", 10), ("dog", 120), ("owl", 240)):
        (cli.folder / "images" / label).mkdir(parents=True)
        for number in range(2):
            picture = Image.fromarray(np.full((40 + number, 60, 3), value, np.uint8))
            picture.save(cli.folder / "images" / label / f"{number}.png")
    (cli.folder / "recipe.yaml").write_text("checkpoint: net\ndata: images\nbackends: onnx\nschemes: fp32\n")
    code, _, err = cli("sweep", "recipe.yaml", "-o", "swept")
    assert code == 0, err
    results = json.loads((cli.folder / "swept" / "results.json").read_text())
    assert results["cells"][0]["status"] == "ok" and results["cells"][0]["conversion_loss"] == 0
    code, _, err = cli("sweep", "recipe.yaml", "-o", "swept")
    assert code == 0 and "1 of 1" in err, err


def test_the_extra_is_imported_when_a_folder_is_loaded(tmp_path):
    import subprocess

    script = (
        "import sys; from mobconv.model import checkpoint\n"
        "for kind in ('pretrained',): __import__(checkpoint.SOURCES[kind], fromlist=['x']).accepts('net')\n"
        "print('transformers' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"
