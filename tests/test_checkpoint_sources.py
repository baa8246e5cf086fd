"""Every kind of checkpoint keeps the promises of a source; inputs and outputs of any number, name and dtype."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import CHECKPOINT
from torch import nn

from mobconv.errors import InputError, UsageError
from mobconv.model import checkpoint
from mobconv.model.checkpoint import Options
from mobconv.model.program import output_names
from mobconv.model.sources import SOURCES, in_memory
from mobconv.testing import source_conformance

SHAPE = (1, 3, 8, 8)


def safetensors(module, path):
    save_file(module.state_dict(), path)
    return Options("user_nets:tiny", input_shape=SHAPE)


def exported_program(module, path):
    torch.export.save(torch.export.export(module, (torch.zeros(SHAPE),)), path)
    return Options()


def torchscript(module, path):
    torch.jit.save(torch.jit.script(module), path)
    return Options(input_shape=SHAPE, trust_pickle=True)


def torch_save(module, path):
    torch.save({"state_dict": module.state_dict()}, path)
    return Options("user_nets:tiny", input_shape=SHAPE)


def whole_module(module, path):
    torch.save(module, path)
    return Options(input_shape=SHAPE, trust_pickle=True)


def legacy(module, path):
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    return Options("user_nets:tiny", input_shape=SHAPE)


# how a checkpoint of each kind is made, and with which options it loads; the last two are other forms of torch_save
MAKERS = {
    "safetensors": safetensors,
    "exported_program": exported_program,
    "torchscript": torchscript,
    "torch_save": torch_save,
    "whole module": whole_module,
    "bare pickle": legacy,
}
# sources with tests of their own, which run the same conformance
ELSEWHERE = {"pretrained": "test_pretrained.py", "timm": "test_libraries.py", "torchvision": "test_libraries.py"}
SUFFIXES = {"safetensors": "safetensors", "exported_program": "pt2"}


@pytest.fixture
def module(cli):
    import user_nets

    torch.manual_seed(0)
    return user_nets.tiny().eval()


def made(module, kind, folder):
    path = folder / f"{kind.replace(' ', '_')}.{SUFFIXES.get(kind, 'pt')}"
    return str(path), MAKERS[kind](module, path)


def test_every_source_is_checked():
    assert set(SOURCES) <= {*MAKERS, *ELSEWHERE}
    for name, file in ELSEWHERE.items():
        text = (Path(__file__).parent / file).read_text()
        assert name in SOURCES and "source_conformance.check(" in text and f'"{name}"' in text


@pytest.mark.parametrize("kind", MAKERS)
def test_a_source_keeps_its_promises(kind, module, cli):
    place = SOURCES.get(kind, SOURCES["torch_save"])
    reference, options = made(module, kind, cli.folder)
    same = {name for name in MAKERS if SOURCES.get(name, SOURCES["torch_save"]) == place}
    others = [made(module, other, cli.folder)[0] for other in MAKERS if other not in same]
    (cli.folder / "scratch").mkdir()
    source = importlib.import_module(place)
    source_conformance.check(source, reference, module, cli.folder / "scratch", options, others)
    assert checkpoint.source(reference) is source
    loaded = checkpoint.load(reference, options)
    assert (loaded.reference, loaded.name) == (reference, reference.rpartition("/")[2])
    assert list(loaded.example) == ["image"] and list(loaded.run(loaded.example)) == ["logits"]


@pytest.mark.parametrize(("kind", "followed"), [("torch_save", True), ("whole module", False), ("torchscript", True)])
def test_code_that_only_unpickling_finds_is_not_followed(kind, followed, module, cli):
    reference, options = made(module, kind, cli.folder)
    assert checkpoint.fingerprint(reference, options).followed is followed


class Captions(nn.Module):
    """An image, tokens and a mask in; two tensors by name out, of two dtypes."""

    def __init__(self):
        super().__init__()
        self.table, self.conv, self.head = nn.Embedding(7, 4), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, pixels, tokens, mask=None, scale=1.0):
        words = self.table(tokens)
        if mask is not None:
            words = words * mask.unsqueeze(-1)
        scores = self.head(words.mean(1) + self.conv(pixels).mean((2, 3))) * scale
        return {"scores": scores, "best": scores.argmax(1)}


EXAMPLE = {
    "pixels": np.zeros((1, 3, 8, 8), np.float32),
    "tokens": np.ones((1, 5), np.int64),
    "mask": np.ones((1, 5), bool),
}


@pytest.fixture
def captions():
    torch.manual_seed(0)
    return Captions().eval()


def random_inputs(example):
    generator = np.random.default_rng(1)
    return {
        name: generator.normal(size=value.shape).astype(np.float32)
        if value.dtype.kind == "f"
        else generator.integers(0, 2, value.shape).astype(value.dtype)
        for name, value in example.items()
    }


def same_outputs(found, module, inputs, *keywords):
    assert {name: value.dtype for name, value in found.example.items()} == {n: v.dtype for n, v in inputs.items()}
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.inference_mode():
        expected = module(
            *(value for name, value in tensors.items() if name not in keywords),
            **{name: tensors[name] for name in keywords},
        )
    program = found.trace()
    assert program.outputs == ("scores", "best")
    for outputs in (found.run(inputs), program.run(inputs), program.with_values({}).run(inputs)):
        assert list(outputs) == ["scores", "best"]
        assert outputs["best"].dtype == np.int64 and np.array_equal(outputs["best"], expected["best"].numpy())
        assert np.allclose(outputs["scores"], expected["scores"].numpy(), atol=1e-6)
    assert set(program.sites) == {"table.weight", "conv.weight", "head.weight"}
    again = program.exported().module()(*tensors.values())
    assert np.allclose(
        torch.utils._pytree.tree_leaves(again)[0].detach().numpy(), expected["scores"].numpy(), atol=1e-6
    )


@pytest.mark.parametrize("keywords", [(), ("tokens", "mask")], ids=["by position", "by keyword"])
def test_a_program_of_several_inputs_and_dtypes(keywords, captions, tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in EXAMPLE.items()}
    args = tuple(value for name, value in tensors.items() if name not in keywords)
    kwargs = {name: tensors[name] for name in keywords}
    torch.export.save(torch.export.export(captions, args, kwargs), tmp_path / "net.pt2")
    loaded = checkpoint.load(tmp_path / "net.pt2")
    assert list(loaded.example) == ["pixels", "tokens", "mask"]
    same_outputs(loaded, captions, random_inputs(EXAMPLE), *keywords)
    with pytest.raises(InputError, match="no array for the input mask"):
        loaded.run({name: EXAMPLE[name] for name in ("pixels", "tokens")})
    with pytest.raises(UsageError, match=r"was exported for inputs \(1, 3, 8, 8\), \(1, 5\), \(1, 5\), not \(1, 3\)"):
        checkpoint.load(tmp_path / "net.pt2", Options(input_shape=(1, 3)))


def test_a_program_of_whole_numbers_alone_has_its_own_name(tmp_path):
    module = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 2)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 5, dtype=torch.int32),)), tmp_path / "net.pt2")
    (name,) = checkpoint.load(tmp_path / "net.pt2").example
    assert name == "input"
    (value,) = checkpoint.load(tmp_path / "net.pt2").example.values()
    assert value.dtype == np.int32


class TestInMemory:
    def test_a_tensor_or_an_array(self, module):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        inputs = {"image": np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)}
        expected = module(torch.from_numpy(inputs["image"])).detach().numpy()
        for example in (torch.zeros(SHAPE), np.zeros(SHAPE), torch.zeros(SHAPE).half(), [torch.zeros(SHAPE)]):
            loaded = in_memory.load(module, example)
            assert loaded.example["image"].dtype == np.float32 and loaded.name == "Sequential"
            assert np.array_equal(loaded.run(inputs)["logits"], expected)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    def test_the_module_stays_as_it_is(self, module):
        module.train()
        in_memory.load(module.half(), torch.zeros(SHAPE))
        assert module.training and module[0].weight.dtype == torch.float16

    def test_the_hash_is_of_the_weights(self, module):
        first = in_memory.load(module, torch.zeros(SHAPE)).sha256
        assert first == in_memory.load(module, np.ones(SHAPE)).sha256
        module[0].weight.data[0] += 1
        assert first != in_memory.load(module, torch.zeros(SHAPE)).sha256

    @pytest.mark.parametrize(
        ("names", "keywords"),
        [(["pixels", "tokens", "mask"], []), (["mask", "tokens", "pixels"], []), (["pixels", "tokens"], [])],
    )
    def test_a_mapping(self, names, keywords, captions):
        loaded = in_memory.load(captions, {name: EXAMPLE[name] for name in names})
        ordered = {name: value for name, value in EXAMPLE.items() if name in names}
        assert list(loaded.example) == list(ordered)
        same_outputs(loaded, captions, random_inputs(ordered), *keywords)

    def test_a_mapping_with_a_gap(self, captions):
        example = {"pixels": EXAMPLE["pixels"], "tokens": EXAMPLE["tokens"], "scale": np.ones((1, 1), np.float32)}
        loaded = in_memory.load(captions, example)
        assert list(loaded.example) == ["pixels", "tokens", "scale"]
        same_outputs(loaded, captions, random_inputs(example), "scale")

    def test_a_tuple(self, captions):
        loaded = in_memory.load(captions, (torch.zeros(SHAPE), EXAMPLE["tokens"]))
        assert list(loaded.example) == ["pixels", "tokens"]
        same_outputs(loaded, captions, random_inputs(loaded.example))

    @pytest.mark.parametrize(
        ("example", "words"),
        [
            (
                {"pixels": EXAMPLE["pixels"], "token": EXAMPLE["tokens"]},
                r"forward has no argument 'token' \(did you mean 'tokens'",
            ),
            ({}, "the example has no inputs; forward has pixels, tokens"),
            ((torch.zeros(1),) * 5, "the example has 5 inputs; forward has pixels, tokens, mask, scale"),
            ("cat.png", "the example's input pixels is str, not a tensor or an array"),
        ],
    )
    def test_an_example_that_does_not_fit(self, captions, example, words):
        with pytest.raises(UsageError, match=f"Captions: {words}"):
            in_memory.load(captions, example)

    def test_weights_with_nan(self, module):
        module[0].weight.data[0] = float("nan")
        with pytest.raises(InputError, match=r"Sequential: NaN or infinity in 0\.weight"):
            in_memory.load(module, torch.zeros(SHAPE))

    def test_the_same_program_as_its_file(self):
        loaded = checkpoint.load(CHECKPOINT)
        other = in_memory.load(loaded.module, loaded.example["image"], loaded.preprocessing, loaded.labels)
        assert other.trace().sha256() == loaded.trace().sha256()
        assert (other.preprocessing, other.labels) == (loaded.preprocessing, loaded.labels)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (0, ("logits",)),
        ([0], ("logits",)),
        ((0, [1, 2]), ("output_0", "output_1", "output_2")),
        ({"boxes": 0, "levels": [1, 2]}, ("boxes", "levels_0", "levels_1")),
        ({"out": 0}, ("out",)),
        ({"a b": 0, "a_b": 1}, ("output_0", "output_1")),
        ({"image": 0, "logits": 1}, ("output_0", "output_1")),
    ],
)
def test_names_of_outputs(outputs, names):
    assert output_names(torch.utils._pytree.tree_structure(outputs), ["image"]) == names
