"""`.pt2` archives: plain ones work; forged ones, each with code in another place, run none of it."""

import contextlib
import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from support import Planted, export, rewrite

from mobconv.errors import InputError
from mobconv.model import checkpoint


@pytest.fixture
def program(cli):
    """net.pt2 of user_nets:tiny, and the module."""
    import user_nets

    torch.manual_seed(1)
    module = user_nets.tiny().eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), "net.pt2")
    return module


def forge(edit):
    """bad.pt2: net.pt2 with its JSON of the program changed by `edit`."""
    with zipfile.ZipFile("net.pt2") as archive:
        content = json.loads(archive.read("net/models/model.json"))
    edit(content)
    rewrite("net.pt2", "bad.pt2", {"net/models/model.json": json.dumps(content).encode()})


def planted(cli):
    return pickle.dumps(Planted(cli.folder / "ran"), protocol=2)


def refused(cli, *words):
    """bad.pt2 is refused with these words, and what it brought along did not run."""
    cli.refuses(3, "bad.pt2", *words, arguments=export("bad.pt2"))
    assert not (cli.folder / "ran").exists()


def specialised(cli):
    """bad.pt2 is exported with the lengths that it was traced with, and what it brought along did not run."""
    code, _, err = cli(*export("bad.pt2"))
    assert code == 0 and "specialised to inputs of shape (1, 3, 8, 8)" in err
    assert not (cli.folder / "ran").exists()


def test_exported_end_to_end(cli, program):
    code, out, _ = cli(*export("net.pt2", "--scheme", "w8-linear"))
    assert code == 0 and "w8-linear.onnx" in out
    import onnxruntime

    image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession("out/onnx/w8-linear.onnx").run(None, {"image": image})
    expected = program(torch.from_numpy(image)).detach().numpy()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_config_that_asks_for_pickle(cli, program):
    with zipfile.ZipFile("net.pt2") as archive:
        config = json.loads(archive.read("net/data/weights/model_weights_config.json"))
    next(iter(config["config"].values()))["use_pickle"] = 1
    changed = {
        "net/data/weights/model_weights_config.json": json.dumps(config).encode(),
        "net/data/weights/weight_0": planted(cli),
    }
    rewrite("net.pt2", "bad.pt2", changed)
    refused(cli, "weight_0", "--trust-pickle")


@pytest.mark.parametrize("name", ["opaque_obj_0", "OPAQUE_OBJ_0", "opaque_obj_0/inner", "custom_obj_0"])
def test_objects_among_the_constants(cli, program, name):
    config = {"config": {"c": {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}}}
    rewrite(
        "net.pt2",
        "bad.pt2",
        {
            "net/data/constants/model_constants_config.json": json.dumps(config).encode(),
            f"net/data/constants/{name}": planted(cli),
        },
    )
    refused(cli, "--trust-pickle")


def test_trusted_they_are_unpickled(cli, program):
    """So what the other tests plant would have run."""
    held = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = {"config": {"c": held}}
    rewrite(
        "net.pt2",
        "bad.pt2",
        {
            "net/data/constants/model_constants_config.json": json.dumps(config).encode(),
            "net/data/constants/opaque_obj_0": planted(cli),
        },
    )
    with contextlib.suppress(InputError):
        checkpoint.load(cli.folder / "bad.pt2", checkpoint.Options(trust_pickle=True))
    assert (cli.folder / "ran").exists()


def test_objects_under_the_name_of_a_tensor(cli, program):
    config = {"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": False}}}
    rewrite(
        "net.pt2",
        "bad.pt2",
        {
            "net/data/constants/model_constants_config.json": json.dumps(config).encode(),
            "net/data/constants/tensor_0": planted(cli),
        },
    )
    refused(cli, "opaque_obj_0", "--trust-pickle")


def test_code_in_the_sample_inputs(cli, program):
    held = io.BytesIO()
    torch.save(((Planted(cli.folder / "ran"),), {}), held)
    rewrite("net.pt2", "bad.pt2", {"net/data/sample_inputs/model.pt": held.getvalue()})
    refused(cli, "cannot read this program")


def test_compiled_code(cli, program):
    rewrite("net.pt2", "bad.pt2", {"net/data/aotinductor/model/code.so": b"\x7fELF"})
    refused(cli, "aotinductor", "--trust-pickle")


def test_a_call_outside_of_the_operators(cli, program):
    def call_system(content):
        node = content["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.serialization.os.system"

    forge(call_system)
    refused(cli, "torch.serialization.os.system", "--trust-pickle")


def test_guards_are_code(cli, program):
    forge(lambda content: content.update(guards_code=[f"open({str(cli.folder / 'ran')!r}, 'w')"]))
    refused(cli, "guards_code", "--trust-pickle")


def test_guards_on_open_lengths_are_dropped(cli):
    """Two inputs that share an open batch: torch.export.save writes a guard, whose code is never evaluated."""
    from torch import nn

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(9, 4), nn.Linear(7, 2)

        def forward(self, tokens, features):
            return self.out(torch.cat([self.table(tokens).mean(1), features], 1))

    inputs = torch.randint(0, 9, (2, 5)), torch.randn(2, 3)
    dynamic = {0: torch.export.Dim.AUTO}
    program = torch.export.export(Two().eval(), inputs, dynamic_shapes=(dynamic, dynamic))
    torch.export.save(program, "net.pt2")
    with zipfile.ZipFile("net.pt2") as archive:
        assert json.loads(archive.read("net/models/model.json"))["guards_code"]
    forge(lambda content: content.update(guards_code=[f"open({str(cli.folder / 'ran')!r}, 'w')"]))
    for name in ("net.pt2", "bad.pt2"):
        loaded = checkpoint.load(name)
        assert {key: (value.shape, str(value.dtype)) for key, value in loaded.example.items()} == {
            "tokens": ((1, 5), "int64"),
            "features": ((1, 3), "float32"),
        }
        tokens, features = (value[:1].numpy() for value in inputs)
        with torch.inference_mode():
            expected = program.module()(*inputs)[:1]
        (output,) = loaded.run({"tokens": tokens, "features": features}).values()
        assert np.abs(output - expected.numpy()).max() < 1e-5
    assert not (cli.folder / "ran").exists()


def test_a_symbolic_size_is_code_and_never_evaluated(cli, program):
    def size(content):
        sizes = content["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": f"open({str(cli.folder / 'ran')!r}, 'w')", "hint": {"as_int": 1}}}

    forge(size)
    specialised(cli)


def test_a_name_that_is_code(cli, program):
    def rename(content):
        name = f"x=open({str(cli.folder / 'ran')!r}, 'w')"
        content["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = name

    forge(rename)
    refused(cli, "the name", "--trust-pickle")


def test_an_enum_that_is_imported(cli, program):
    (cli.folder / "planted.py").write_text("open('ran', 'w')\nclass E: pass\n")

    def spec(content):
        signature = content["graph_module"]["module_call_graph"][0]["signature"]
        version, tree = json.loads(signature["in_spec"])
        tree["context"] = json.dumps({"__enum__": True, "fqn": "planted:E", "name": "A"})
        signature["in_spec"] = json.dumps([version, tree])

    forge(spec)
    refused(cli, "--trust-pickle")


def test_truncated(cli, program):
    content = (cli.folder / "net.pt2").read_bytes()
    (cli.folder / "bad.pt2").write_bytes(content[:-200])
    refused(cli, "truncated")


def test_not_a_program(cli, program):
    rewrite("net.pt2", "bad.pt2", {"net/models/model.json": b"{}"})
    refused(cli, "cannot read this program")


def test_open_dimensions(cli):
    import user_nets

    batch = torch.export.Dim("batch", min=2, max=64)
    module = user_nets.tiny().eval()
    exported = torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, "bad.pt2")
    specialised(cli)


def test_half_precision(cli):
    import user_nets

    exported = torch.export.export(user_nets.tiny().eval().half(), (torch.zeros(1, 3, 8, 8).half(),))
    torch.export.save(exported, "bad.pt2")
    refused(cli, "float16", "export it in float32")


def test_another_input_shape(cli, program):
    shutil.copy("net.pt2", "bad.pt2")
    arguments = export("bad.pt2", "--input-shape", "1,3,9,9")
    cli.refuses(2, "(1, 3, 8, 8)", "(1, 3, 9, 9)", arguments=arguments)


def test_a_model_beside_it_is_said_to_be_unused(cli, program):
    found = checkpoint.load(cli.folder / "net.pt2", checkpoint.Options(factory="user_nets:tiny"))
    assert found.notes == ["the file contains its own program, so the named factory is not called"]
