"""Running packages: batches, fp16, threads, Core ML itself; and the bytes of weight.bin."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mobconv.backends.apple.executor import Executor
from mobconv.backends.apple.graph import ComputeGraph, Operation, Value
from mobconv.backends.apple.vendor import coremltools, quiet
from mobconv.backends.base import TensorSpec
from mobconv.backends.coreml import mil
from mobconv.backends.coreml.runner import EmulatedRunner, NativeRunner
from mobconv.backends.coreml.weights_file import DTYPES, BlobWriter, read_blob
from mobconv.errors import InputError


def value(name, shape, dtype="FLOAT32"):
    return Value(name, dtype, shape)


def graph(steps, constants=None, shape=(1, 4), out=None, dtype="FLOAT32"):
    """Steps of (kind, inputs, output shape), each named after its place; 'x' is the input."""
    made = tuple(
        Operation(
            kind, i, {k: (v,) if isinstance(v, str) else v for k, v in inputs.items()}, (value(f"v{i}", size, dtype),)
        )
        for i, (kind, inputs, size) in enumerate(steps)
    )
    return ComputeGraph((value("x", shape, dtype),), made[-1].outputs, constants or {}, made)


def rows(count, width=4):
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def test_rows_apart_run_together():
    executor = Executor(graph([("tanh", {"x": "x"}, (1, 4)), ("relu", {"x": "v0"}, (1, 4))]))
    assert executor.takes_batches
    x = rows(700)
    np.testing.assert_allclose(executor.run({"x": x})["v1"], np.tanh(x).clip(0), rtol=1e-6)


def test_a_reshape_with_its_batch_baked_in_is_widened():
    constants = {"shape": np.array([1, 2, 2], np.int32)}
    executor = Executor(graph([("reshape", {"x": "x", "shape": "shape"}, (1, 2, 2))], constants))
    assert executor.takes_batches
    x = rows(5)
    np.testing.assert_array_equal(executor.run({"x": x})["v0"], x.reshape(5, 2, 2))


@pytest.mark.parametrize("kind", ["reduce_mean", "reshape", "softmax", "transpose"])
def test_rows_that_mix_run_one_by_one(kind):
    """Each of these takes a larger batch without complaint, and would mix or refuse its rows."""
    if kind == "reduce_mean":  # over the batch
        constants = {"axes": np.array([0], np.int32), "keep": np.array(True)}
        steps = [("reduce_mean", {"x": "x", "axes": "axes", "keep_dims": "keep"}, (1, 4))]
        steps += [("sub", {"x": "x", "y": "v0"}, (1, 4)), ("add", {"x": "v1", "y": "v0"}, (1, 4))]
        steps += [("mul", {"x": "v2", "y": "v0"}, (1, 4))]
        wanted = lambda x: x * x  # noqa: E731
    elif kind == "reshape":  # the batch ends up in the columns
        constants = {"flat": np.array([-1, 1], np.int32), "wide": np.array([1, -1], np.int32)}
        steps = [("reshape", {"x": "x", "shape": "flat"}, (4, 1)), ("cumsum", {"x": "v0"}, (4, 1))]
        steps += [("reshape", {"x": "v1", "shape": "wide"}, (1, 4))]
        wanted = lambda x: x.cumsum(1)  # noqa: E731
    elif kind == "softmax":  # over the batch
        constants = {"axis": np.array(0, np.int32)}
        steps = [("softmax", {"x": "x", "axis": "axis"}, (1, 4))]
        wanted = np.ones_like
    else:
        constants = {"perm": np.array([1, 0], np.int32), "wide": np.array([1, 4], np.int32)}
        steps = [("transpose", {"x": "x", "perm": "perm"}, (4, 1)), ("reshape", {"x": "v0", "shape": "wide"}, (1, 4))]
        wanted = lambda x: x  # noqa: E731
    executor = Executor(graph(steps, constants))
    assert not executor.takes_batches
    x = rows(5)
    np.testing.assert_allclose(next(iter(executor.run({"x": x}).values())), wanted(x), rtol=1e-6)


def test_a_mixing_that_random_rows_do_not_show_is_seen_on_real_ones():
    """relu(x - 1000) is zero on random rows, whatever is done to the batch afterwards."""
    constants = {"large": np.array(1000, np.float32), "axes": np.array([0], np.int32), "keep": np.array(True)}
    steps = [("sub", {"x": "x", "y": "large"}, (1, 4)), ("relu", {"x": "v0"}, (1, 4))]
    steps += [("reduce_max", {"x": "v1", "axes": "axes", "keep_dims": "keep"}, (1, 4))]
    steps += [("sub", {"x": "v1", "y": "v2"}, (1, 4)), ("add", {"x": "v3", "y": "v1"}, (1, 4))]
    executor = Executor(graph(steps, constants))
    assert executor.takes_batches
    x = rows(5) + 1010
    np.testing.assert_allclose(executor.run({"x": x})["v4"], x - 1000, rtol=1e-6)
    assert not executor.takes_batches


def test_a_larger_declared_batch_is_filled_up_and_cut_again():
    constants = {"axis": np.array(0, np.int32)}
    executor = Executor(graph([("cumsum", {"x": "x", "axis": "axis"}, (2, 4))], constants, shape=(2, 4)))
    assert not executor.takes_batches
    x = rows(5)
    wanted = np.concatenate([x[:2].cumsum(0), x[2:4].cumsum(0), x[4:]])
    np.testing.assert_allclose(executor.run({"x": x})["v0"], wanted, rtol=1e-6)


def test_fp16_is_rounded_after_every_operation():
    weight = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float16)
    constants = {"w": weight, "b": np.full(4, 0.1, np.float16)}
    steps = [("linear", {"x": "x", "weight": "w", "bias": "b"}, (1, 4)), ("exp", {"x": "v0"}, (1, 4))]
    steps += [("mul", {"x": "v1", "y": "v0"}, (1, 4))]
    x = rows(9)
    got = Executor(graph(steps, constants, dtype="FLOAT16")).run({"x": x})["v2"]
    half = lambda a: torch.as_tensor(a).half().float()  # noqa: E731
    first = half(torch.nn.functional.linear(half(x), half(weight), half(constants["b"])))
    wanted = half(half(first.exp()) * first)
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, wanted.numpy().astype(np.float16))
    whole = torch.nn.functional.linear(
        torch.from_numpy(x), torch.from_numpy(weight.astype(np.float32)), half(constants["b"])
    )
    assert np.abs(got - (whole.exp() * whole).numpy()).max() > 0  # rounding shows


def test_feeds_that_do_not_fit_are_input_errors():
    executor = Executor(graph([("tanh", {"x": "x"}, (1, 4))]))
    for feeds in ({}, {"x": rows(2, 3)}, {"x": np.zeros((0, 4), np.float32)}, {"x": np.float32(1)}):
        with pytest.raises(InputError, match=r"x|samples"):
            executor.run(feeds)


def test_threads_are_set_for_the_run_only():
    seen = []

    class Fake:
        def run(self, feeds):
            seen.append(torch.get_num_threads())
            return {}

    before = torch.get_num_threads()
    runner = EmulatedRunner(Fake(), (), (), threads=1)
    runner.run({})
    assert seen == [1] and torch.get_num_threads() == before
    runner.close()
    with pytest.raises(InputError, match="closed"):
        runner.run({})


def test_core_ml_itself_is_asked_batch_by_batch():
    calls = []

    class Model:
        def predict(self, feeds):
            calls.append(feeds["x"].copy())
            return {"y": feeds["x"] * 2, "other": 0}

    specs = ((TensorSpec("x", (2, 4), "float32"),), (TensorSpec("y", (2, 4), "float32"),))
    runner = NativeRunner(Model(), *specs, "record")
    x = rows(5)
    np.testing.assert_array_equal(runner.run({"x": x})["y"], x * 2)
    assert [c.shape for c in calls] == [(2, 4)] * 3
    assert (runner.verified, runner.record) == ("macos", "record")


def test_on_a_mac_the_native_path_is_taken(monkeypatch, tmp_path):
    from mobconv.backends.coreml import package, runner

    monkeypatch.setattr(package, "read", lambda path: replace(fake_package(), path=path))
    monkeypatch.setattr(runner, "parse", lambda found: graph([("tanh", {"x": "x"}, (1, 4))]))
    monkeypatch.setattr(runner, "native_model", lambda path: "model")
    assert runner.open_package(tmp_path, platform="darwin").verified == "macos"
    assert runner.open_package(tmp_path, platform="linux").verified == "emulated"


def fake_package():
    from mobconv.backends.coreml.package import Package

    return Package(None, coremltools().proto.Model_pb2.Model(), None)


WRITERS = {
    "FLOAT16": "fp16", "FLOAT32": "float", "UINT8": "uint8", "INT8": "int8", "INT4": "int4", "UINT1": "uint1",
    "UINT2": "uint2", "UINT3": "uint3", "UINT4": "uint4", "UINT6": "uint6", "INT32": "int32", "UINT16": "uint16",
}  # fmt: skip


def some(name, count):
    dtype = DTYPES[name]
    if name.startswith("FLOAT"):
        return np.random.default_rng(0).normal(size=count).astype(dtype.numpy)
    low = -(2 ** (dtype.bits - 1)) if name.startswith("INT") else 0
    return np.random.default_rng(0).integers(low, low + 2**dtype.bits, count).astype(dtype.numpy)


def test_weight_bin_is_what_coremltools_writes(tmp_path):
    with quiet():
        coremltools()
        from coremltools.converters.mil.mil import types
        from coremltools.libmilstoragepython import _BlobStorageWriter
    ours, theirs = BlobWriter(), _BlobStorageWriter(str(tmp_path / "weight.bin"))
    for name, suffix in WRITERS.items():
        for count in (1, 10, 67):
            values = some(name, count)
            offset = ours.add(DTYPES[name], values)
            given = values.view(np.uint16) if name == "FLOAT16" else values
            if DTYPES[name].bits < 8:
                given = given.astype(types.nptype_from_builtin(types.string_to_builtin(name.lower())))
            assert offset == getattr(theirs, f"write_{suffix}_data")(given)
            np.testing.assert_array_equal(read_blob(ours.finish(), offset, DTYPES[name], count), values)
    del theirs
    assert ours.finish() == (tmp_path / "weight.bin").read_bytes()


def test_the_bits_of_a_blob_are_little_endian():
    writer = BlobWriter()
    writer.add(DTYPES["UINT3"], np.array([1, 2, 3, 4, 5, 6, 7, 0, 1], np.uint8))
    #        0b101_100_011_010_001 and on, eight at a time
    assert writer.finish()[128:] == bytes([0b11010001, 0b01011000, 0b00011111, 0b00000001])
    writer = BlobWriter()
    writer.add(DTYPES["INT4"], np.array([1, -2, 3], np.int8))
    assert writer.finish()[128:] == bytes([0xE1, 0x03])


def test_a_code_that_does_not_fit_is_refused_by_the_writer():
    with pytest.raises(ValueError, match="does not fit"):
        BlobWriter().add(DTYPES["UINT3"], np.array([8], np.uint8))


@pytest.mark.parametrize("name", sorted({*WRITERS, "BOOL", "INT64"} - {"UINT16"}))
@pytest.mark.parametrize("shape", [(), (3,), (2, 15)])
def test_immediate_values_are_what_coremltools_writes(name, shape):
    with quiet():
        coremltools()
        from coremltools.converters.mil.backend.mil import helper
        from coremltools.converters.mil.mil import types
    values = some(name, int(np.prod(shape))).reshape(shape) if name != "BOOL" else np.ones(shape, bool)
    message = mil.immediate(name, values)
    back = mil.read_value(message, None)
    np.testing.assert_array_equal(back, values)
    assert back.shape == shape
    if shape:
        given = values
        if DTYPES[name].bits < 8:
            given = values.astype(types.nptype_from_builtin(types.string_to_builtin(name.lower())))
        assert message.SerializeToString() == helper.create_tensor_value(given).SerializeToString()
