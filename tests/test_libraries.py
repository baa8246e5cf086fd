"""Networks by name, `timm:NAME` and `torchvision:NAME`, with stand-ins for the calls of these libraries that are made.

Neither library is installed for the tests: the stand-ins have the calls' names, arguments and results.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import export
from torch import nn

from mobconv.data.preprocessing import Preprocessing
from mobconv.model import checkpoint
from mobconv.model.checkpoint import Options
from mobconv.model.sources import SOURCES
from mobconv.testing import source_conformance

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NAMES = ["crane", "owl", "crane"]


class Net(nn.Module):
    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, num_classes)

    def forward(self, image):
        return self.fc(torch.relu(self.stem(image)).mean((2, 3)))


def trained(module):
    """Its weights, always the same."""
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(value.shape, generator=generator) for name, value in module.state_dict().items()}


def module_of(name, **members):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    return module


class Timm:
    """timm.create_model and timm.data.resolve_model_data_config."""

    package, name = "timm", "timm:small"

    def __init__(self):
        self.config = {"url": "https://x", "num_classes": 3, "label_names": NAMES}
        self.data_config = {
            "input_size": (3, 16, 16),
            "interpolation": "bicubic",
            "mean": tuple(MEAN),
            "std": tuple(STD),
            "crop_pct": 0.875,
            "crop_mode": "center",
        }

    def create_model(self, model_name, pretrained=False, **arguments):
        if model_name != "small":
            raise RuntimeError(f"Unknown model ({model_name})")
        module = Net(**arguments)
        module.pretrained_cfg = self.config
        if pretrained:
            state = trained(module)
            if module.fc.out_features != self.config["num_classes"]:  # the classifier stays as it was drawn
                state = {name: value for name, value in state.items() if not name.startswith("fc")}
            module.load_state_dict(state, strict=False)
        return module

    def modules(self):
        info = SimpleNamespace(label_descriptions=lambda: NAMES)
        data = module_of(
            "timm.data",
            resolve_model_data_config=lambda module: self.data_config,
            infer_imagenet_subset=lambda module: "imagenet-1k",
            ImageNetInfo=lambda subset: info,
        )
        return {"timm": module_of("timm", create_model=self.create_model, data=data), "timm.data": data}


class Torchvision:
    """torchvision.models.get_model, get_model_builder and get_model_weights."""

    package, name = "torchvision", "torchvision:small"

    def __init__(self):
        preset = SimpleNamespace(
            crop_size=[16], resize_size=[18], mean=MEAN, std=STD, interpolation=SimpleNamespace(value="bicubic")
        )
        self.preset = preset
        self.weights = SimpleNamespace(transforms=lambda: self.preset, meta={"categories": NAMES})
        self.asked = []

    def small(self, *, weights=None, progress=True, weights_backbone="IMAGENET1K_V1", **arguments):
        self.asked.append((weights, weights_backbone))
        if weights is not None and arguments.get("num_classes", 3) != 3:
            raise ValueError("The parameter 'num_classes' expected value 3")
        module = Net(**arguments)
        if weights is not None:
            module.load_state_dict(trained(module))
        return module

    def modules(self):
        def builder(name):
            if name != "small":
                raise ValueError(f"Unknown model {name}")
            return self.small

        models = module_of(
            "torchvision.models",
            get_model_builder=builder,
            get_model=lambda name, **settings: builder(name)(**settings),
            get_model_weights=lambda name: SimpleNamespace(DEFAULT=self.weights),
        )
        return {"torchvision": module_of("torchvision", models=models), "torchvision.models": models}


@pytest.fixture(params=[Timm, Torchvision], ids=["timm", "torchvision"])
def library(request, monkeypatch, cli):
    standing_in = request.param()
    for name, module in standing_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return standing_in


def saved(path, **arguments):
    torch.manual_seed(1)
    module = Net(**arguments).eval()
    save_file(module.state_dict(), path) if str(path).endswith("safetensors") else torch.save(
        {"state_dict": {f"module.{name}": value for name, value in module.state_dict().items()}}, path
    )
    return module


@pytest.mark.parametrize("weights", [None, "net.safetensors", "net.pth"])
def test_a_source_keeps_its_promises(weights, library, cli):
    module = Net().eval()
    module.load_state_dict(trained(module))
    options = Options()
    if weights:
        module, options = saved(cli.folder / weights), Options(weights=cli.folder / weights)
    (cli.folder / "scratch").mkdir()
    source = importlib.import_module(SOURCES[library.package])
    source_conformance.check(source, library.name, module, cli.folder / "scratch", options, [library.package])
    assert checkpoint.source(library.name) is source
    before = source.fingerprint(library.name, options)
    assert before.packages == (library.package,)
    if weights:
        saved(cli.folder / weights, width=5)
        assert source.fingerprint(library.name, options).sha256 != before.sha256


def test_shape_preprocessing_and_classes(library, cli):
    loaded = checkpoint.load(library.name)
    assert loaded.example["image"].shape == (1, 3, 16, 16)
    assert loaded.preprocessing == Preprocessing(
        tuple(MEAN), tuple(STD), size=(16, 16), resize=18, interpolation="bicubic"
    )
    assert loaded.labels == ("crane (0)", "owl", "crane (2)")  # of one name, numbered
    own = saved(cli.folder / "net.pth", num_classes=5)
    options = Options(weights=cli.folder / "net.pth", arguments={"num_classes": 5})
    fitted = checkpoint.load(library.name, options)
    assert fitted.preprocessing == loaded.preprocessing and fitted.labels == ()
    assert torch.equal(fitted.module.fc.weight, own.fc.weight)
    assert "took the prefix 'module.' off every name" in fitted.notes
    other = checkpoint.load(library.name, Options(input_shape=(1, 3, 24, 24)))
    assert other.example["image"].shape == (1, 3, 24, 24) and other.preprocessing is None
    assert "preprocessing of 16x16 not taken" in other.notes[-1]


def test_by_the_command_line(library, cli):
    """Also in a recipe, whose `weights` lies beside it, in a folder that is not the current one."""
    import json

    from PIL import Image

    folder = cli.folder / "project"
    folder.mkdir()
    saved(folder / "net.pth")
    code, _, err = cli(*export(library.name, "--weights", folder / "net.pth"))
    assert code == 0 and (cli.folder / "out" / "onnx" / "fp32.onnx").exists(), err
    for number, label in enumerate("abc"):
        (folder / "images" / label).mkdir(parents=True)
        Image.fromarray(np.full((20, 30, 3), 80 * number, np.uint8)).save(folder / "images" / label / "0.png")
    recipe = f"checkpoint: {library.name}\nweights: net.pth\ndata: images\nbackends: onnx\nschemes: fp32\n"
    (folder / "recipe.yaml").write_text(recipe)
    code, _, err = cli("sweep", folder / "recipe.yaml", "-o", "swept")
    assert code == 0, err
    results = json.loads((cli.folder / "swept" / "results.json").read_text())
    assert results["cells"][0]["status"] == "ok"


class TestRefused:
    def test_an_unknown_name(self, library, cli):
        name = library.name.replace("small", "smal")
        words = (f"{name}: {library.package} does not give it: Unknown model", "--weights FILE")
        cli.refuses(3, *words, arguments=export(name))

    def test_a_file_that_does_not_fit(self, library, cli):
        saved(cli.folder / "net.pth", num_classes=5)
        words = ("net.pth under 'state_dict.module' does not fit", "fc.weight (5, 4), expected (3, 4)", "--model-arg")
        cli.refuses(3, *words, arguments=export(library.name, "--weights", "net.pth"))

    def test_a_missing_file(self, library, cli):
        cli.refuses(3, "gone.pth: no such file", arguments=export(library.name, "--weights", "gone.pth"))

    def test_a_file_of_another_kind(self, library, cli):
        (cli.folder / "net.pth").write_text("<html>")
        cli.refuses(3, "net.pth is a web page", arguments=export(library.name, "--weights", "net.pth"))

    def test_weights_of_other_classes_are_not_drawn(self, library, cli):
        cli.refuses(
            3,
            "num_classes" if library.package == "torchvision" else "its weights are for 3 classes, not 5",
            arguments=export(library.name, "--model-arg", "num_classes=5"),
        )

    def test_not_installed(self, cli, monkeypatch):
        for name in ("timm", "torchvision"):
            monkeypatch.delitem(sys.modules, name, raising=False)
            monkeypatch.setattr("mobconv.model.library.find_spec", lambda _: None)
            cli.refuses(4, f"needs {name}, which is not installed", arguments=export(f"{name}:resnet18"))


class TestTimm:
    @pytest.fixture
    def timm(self, monkeypatch, cli):
        standing_in = Timm()
        for name, module in standing_in.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        return standing_in

    def test_a_network_without_weights(self, timm, cli):
        timm.config = {"num_classes": 3}
        cli.refuses(3, "timm has no weights for small", "--weights FILE", arguments=export("timm:small"))

    def test_weights_that_are_drawn(self, timm, cli, monkeypatch):
        monkeypatch.setattr(sys.modules["timm"], "create_model", lambda *_, **__: self.drawn(timm))
        words = ("4 tensors are drawn at random, not trained (stem.weight)", "--weights FILE")
        cli.refuses(3, *words, arguments=export("timm:small"))

    def drawn(self, timm):
        module = Net()
        module.pretrained_cfg = timm.config
        return module

    @pytest.mark.parametrize(
        ("changes", "resize"),
        [({"crop_pct": 1.0}, 16), ({"crop_mode": "squash"}, (18, 18)), ({"crop_pct": 0.9}, 17)],
    )
    def test_modes_of_cropping(self, changes, resize, timm):
        timm.data_config |= changes
        assert checkpoint.load("timm:small").preprocessing.resize == resize

    @pytest.mark.parametrize("changes", [{"crop_mode": "border"}, {"input_size": (3, 16, 24)}])
    def test_others_are_not_guessed(self, changes, timm):
        timm.data_config |= changes
        loaded = checkpoint.load("timm:small")
        assert loaded.preprocessing is None and loaded.example["image"].shape == (1, *timm.data_config["input_size"])

    def test_a_release_that_says_it_otherwise(self, timm, cli):
        timm.data_config = {}
        loaded = checkpoint.load("timm:small", Options(input_shape=(1, 3, 16, 16)))
        assert "what timm says of preprocessing and classes was not taken" in loaded.notes[-1]


def test_torchvision_fetches_no_backbone(monkeypatch, cli):
    standing_in = Torchvision()
    for name, module in standing_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    saved(cli.folder / "net.pth")
    checkpoint.load("torchvision:small", Options(weights=cli.folder / "net.pth"))
    assert standing_in.asked == [(None, None)]
    standing_in.preset = SimpleNamespace()  # of detection: images of any size
    loaded = checkpoint.load("torchvision:small", Options(input_shape=(1, 3, 16, 16)))
    assert loaded.preprocessing is None
