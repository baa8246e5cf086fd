"""What cannot be compared is refused in words: which file, what is wrong, what to do."""

import shutil

import pytest
from conftest import FORMATS
from support import FIXTURES

from mobconv import backends
from mobconv.compare.alignment import align
from mobconv.errors import BackendError, InputError
from mobconv.model import checkpoint


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file(bench, tmp_path, name):
    whole = bench.file(f"{name}/fp32")
    path = tmp_path / f"cut{whole.suffix}"
    if whole.is_dir():
        shutil.copytree(whole, path)
        inner = next(path.rglob("*.mlmodel"))
        inner.write_bytes(inner.read_bytes()[:1000])
    else:
        path.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(InputError, match=path.name):
        bench.align(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_not_there(bench, tmp_path, name):
    with pytest.raises(InputError, match="none"):
        bench.align(tmp_path / f"none.{backends.get(name).suffix}")


def test_a_file_of_another_network(bench):
    other = checkpoint.load(FIXTURES / "digits-mobilenet-v2.safetensors")
    inputs = bench.checkpoint.preprocessing(bench.images.pixels[:2])
    with pytest.raises(InputError, match=r"fp32\.onnx: of the checkpoint's 53 layers.*another network"):
        align(other, bench.file("onnx/fp32"), inputs)


def test_a_file_with_other_outputs(bench, tmp_path):
    import onnx

    model = onnx.load(str(bench.file("onnx/fp32")))
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    for name in node.input[1:]:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[:7], name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    path = tmp_path / "seven.onnx"
    onnx.save(model, str(path))
    with pytest.raises(InputError, match=r"seven\.onnx gives \[1, 7\].*10 outputs.*Give the checkpoint"):
        bench.align(path)


def test_a_backend_that_cannot_cut(bench, monkeypatch):
    path = bench.file("onnx/fp32")
    monkeypatch.setattr(backends, "for_path", lambda path: type("Third", (), {"name": "third"})())
    with pytest.raises(BackendError, match="The backend third cannot cut its files"):
        bench.align(path)
