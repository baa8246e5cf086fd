"""Every operation of the executor against torch, or against the formula of coremltools' documentation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mobconv.backends.apple import ops
from mobconv.backends.apple.executor import Executor
from mobconv.backends.apple.vendor import coremltools, quiet
from mobconv.backends.coreml import package
from mobconv.backends.coreml.graph import parse
from mobconv.errors import BackendError
from mobconv.quantize.model import QuantizedModel

X = np.random.default_rng(0).normal(size=(2, 6, 4, 8)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(2, 6, 4, 8)).astype(np.float32)
K = np.random.default_rng(2).normal(size=(8, 3, 3, 2)).astype(np.float32)
V = np.random.default_rng(3).normal(size=(6,)).astype(np.float32)
A = torch.from_numpy(X)
POSITIVE = np.abs(X) + np.float32(0.1)
INSIDE = np.tanh(X).astype(np.float32) * np.float32(0.9)


def t(array):
    return torch.from_numpy(array)


# op -> cases of (inputs, parameters, expected)
CASES = {
    # activations
    "clip": [((X,), {"alpha": -0.5, "beta": 0.5}, X.clip(-0.5, 0.5))],
    "clamped_relu": [((X,), {"alpha": 0.1, "beta": 1.0}, np.minimum(np.where(X >= 0, X, 0.1 * X), 1))],
    "elu": [((X,), {"alpha": 0.7}, np.where(X >= 0, X, 0.7 * np.expm1(X)))],
    "gelu": [
        ((X,), {}, F.gelu(A)),
        ((X,), {"mode": "TANH_APPROXIMATION"}, F.gelu(A, approximate="tanh")),
        ((X,), {"mode": "SIGMOID_APPROXIMATION"}, X / (1 + np.exp(-1.702 * X))),
    ],
    "leaky_relu": [((X,), {"alpha": 0.3}, np.where(X >= 0, X, 0.3 * X))],
    "linear_activation": [((X,), {"alpha": 2.0, "beta": -1.0}, 2 * X - 1)],
    "prelu": [((X,), {"alpha": V}, F.prelu(A, t(V)))],
    "relu": [((X,), {}, X.clip(0))],
    "relu6": [((4 * X,), {}, (4 * X).clip(0, 6))],
    "scaled_tanh": [((X,), {"alpha": 2.0, "beta": 0.5}, 2 * np.tanh(X / 2))],
    "sigmoid": [((X,), {}, 1 / (1 + np.exp(-X)))],
    "sigmoid_hard": [((X,), {"alpha": 0.3, "beta": 0.4}, (0.3 * X + 0.4).clip(0, 1))],
    "silu": [((X,), {}, X / (1 + np.exp(-X)))],
    "softmax": [((X,), {"axis": 1}, np.exp(X) / np.exp(X).sum(1, keepdims=True))],
    "softplus": [((X,), {}, np.log1p(np.exp(X)))],
    "softplus_parametric": [
        ((X,), {"alpha": V, "beta": -V}, V[:, None, None] * np.log1p(np.exp(-V[:, None, None] * X)))
    ],
    "softsign": [((X,), {}, X / (1 + np.abs(X)))],
    "thresholded_relu": [((X,), {"alpha": 0.5}, np.where(X >= 0.5, X, 0))],
    # one value
    "abs": [((X,), {}, np.abs(X))],
    "acos": [((INSIDE,), {}, np.arccos(INSIDE))],
    "asin": [((INSIDE,), {}, np.arcsin(INSIDE))],
    "atan": [((X,), {}, np.arctan(X))],
    "atanh": [((INSIDE,), {}, np.arctanh(INSIDE))],
    "cast": [((3 * X,), {"dtype": "int32"}, np.trunc(3 * X).astype(np.int32)), ((X,), {"dtype": "bool"}, X != 0)],
    "ceil": [((X,), {}, np.ceil(X))],
    "cos": [((X,), {}, np.cos(X))],
    "cosh": [((X,), {}, np.cosh(X))],
    "erf": [((X,), {}, torch.erf(A))],
    "exp": [((X,), {}, np.exp(X))],
    "exp2": [((X,), {}, np.exp2(X))],
    "floor": [((X,), {}, np.floor(X))],
    "identity": [((X,), {}, X)],
    "inverse": [((POSITIVE,), {"epsilon": 0.1}, 1 / (POSITIVE + 0.1))],
    "log": [((POSITIVE,), {"epsilon": 0.1}, np.log(POSITIVE + 0.1))],
    "round": [((3 * X,), {}, np.round(3 * X))],
    "rsqrt": [((POSITIVE,), {"epsilon": 0.1}, 1 / np.sqrt(POSITIVE + 0.1))],
    "sign": [((X,), {}, np.sign(X))],
    "sin": [((X,), {}, np.sin(X))],
    "sinh": [((X,), {}, np.sinh(X))],
    "sqrt": [((POSITIVE,), {}, np.sqrt(POSITIVE))],
    "square": [((X,), {}, X * X)],
    "tan": [((INSIDE,), {}, np.tan(INSIDE))],
    "tanh": [((X,), {}, np.tanh(X))],
    "threshold": [((X,), {"alpha": 0.2}, np.maximum(X, 0.2))],
    # two values
    "add": [((X, Y), {}, X + Y)],
    "sub": [((X, Y), {}, X - Y)],
    "mul": [((X, Y), {}, X * Y)],
    "real_div": [((X, POSITIVE), {}, X / POSITIVE)],
    "floor_div": [((X, POSITIVE), {}, np.floor(X / POSITIVE))],
    "mod": [((X, POSITIVE), {}, np.mod(X, POSITIVE))],
    "pow": [((POSITIVE, Y), {}, POSITIVE**Y)],
    "maximum": [((X, Y), {}, np.maximum(X, Y))],
    "minimum": [((X, Y), {}, np.minimum(X, Y))],
    "equal": [((X, X.round()), {}, X.round() == X)],
    "not_equal": [((X, Y), {}, X != Y)],
    "greater": [((X, Y), {}, X > Y)],
    "greater_equal": [((X, X.round()), {}, X.round() <= X)],
    "less": [((X, Y), {}, X < Y)],
    "less_equal": [((X, X.round()), {}, X.round() >= X)],
    # reductions
    "reduce_argmax": [((X,), {"axis": 1, "keep_dims": True}, X.argmax(1, keepdims=True).astype(np.int32))],
    "reduce_argmin": [((X,), {"axis": -1, "keep_dims": False}, X.argmin(-1).astype(np.int32))],
    "reduce_l1_norm": [((X,), {"axes": [1, 2], "keep_dims": True}, np.abs(X).sum((1, 2), keepdims=True))],
    "reduce_l2_norm": [((X,), {"axes": [1]}, np.sqrt((X * X).sum(1)))],
    "reduce_log_sum": [((POSITIVE,), {"axes": [1]}, np.log(POSITIVE.sum(1)))],
    "reduce_log_sum_exp": [((X,), {"axes": [-1]}, np.log(np.exp(X).sum(-1)))],
    "reduce_max": [((X,), {"axes": [2, 3]}, X.max((2, 3)))],
    "reduce_mean": [((X,), {"axes": [2, 3], "keep_dims": True}, X.mean((2, 3), keepdims=True))],
    "reduce_min": [((X,), {"axes": [1]}, X.min(1))],
    "reduce_prod": [((X,), {"axes": [1, 2]}, X.prod((1, 2)))],
    "reduce_sum": [((X,), {"axes": [1]}, X.sum(1))],
    "reduce_sum_square": [((X,), {"axes": [1]}, (X * X).sum(1))],
    "cumsum": [
        ((X,), {"axis": 1}, X.cumsum(1)),
        ((X,), {"axis": 1, "exclusive": True, "reverse": True}, X[:, ::-1].cumsum(1)[:, ::-1] - X),
    ],
    # layers
    "conv": [
        ((X,), {"weight": K, "groups": 2}, None),
        (
            (X,),
            {
                "weight": K,
                "groups": 2,
                "strides": [2, 1],
                "dilations": [1, 2],
                "pad_type": "custom",
                "pad": [1, 0, 2, 1],
            },
            None,
        ),
        ((X,), {"weight": K, "groups": 2, "strides": [2, 2], "pad_type": "same"}, None),
    ],
    "linear": [
        ((X,), {"weight": X[0, 0, :, :].repeat(2, 0)[:5], "bias": V[:5]}, X @ X[0, 0, :, :].repeat(2, 0)[:5].T + V[:5])
    ],
    "matmul": [
        ((X, Y), {"transpose_y": True}, X @ Y.swapaxes(2, 3)),
        ((X, Y), {"transpose_x": True}, X.swapaxes(2, 3) @ Y),
    ],
    "max_pool": [
        ((X,), {"kernel_sizes": [2, 3], "strides": [2, 2], "pad_type": "valid"}, F.max_pool2d(A, (2, 3), 2)),
        (
            (X,),
            {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1], "ceil_mode": True},
            F.max_pool2d(A, 3, 2, 1, ceil_mode=True),
        ),
        (
            (X,),
            {"kernel_sizes": [2, 2], "strides": [1, 1], "pad_type": "same"},
            F.max_pool2d(F.pad(A, (0, 1, 0, 1), value=-9e9), 2, 1),
        ),
    ],
    "avg_pool": [
        (
            (X,),
            {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1], "ceil_mode": True},
            F.avg_pool2d(A, 3, 2, 1, ceil_mode=True),
        ),
        (
            (X,),
            {
                "kernel_sizes": [3, 3],
                "strides": [2, 2],
                "pad_type": "custom",
                "pad": [1, 1, 1, 1],
                "exclude_padding_from_average": True,
            },
            F.avg_pool2d(A, 3, 2, 1, count_include_pad=False),
        ),
        (
            (X,),
            {"kernel_sizes": [2, 2], "strides": [1, 1], "pad_type": "same", "exclude_padding_from_average": True},
            F.avg_pool2d(F.pad(A, (0, 1, 0, 1)), 2, 1) / F.avg_pool2d(F.pad(torch.ones_like(A), (0, 1, 0, 1)), 2, 1),
        ),
    ],
    "l2_pool": [
        ((X,), {"kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "valid"}, (F.avg_pool2d(A * A, 2) * 4).sqrt())
    ],
    "batch_norm": [
        (
            (X,),
            {"mean": V, "variance": V * V, "gamma": V, "beta": -V, "epsilon": 0.01},
            F.batch_norm(A, t(V), t(V * V), t(V), t(-V), eps=0.01),
        )
    ],
    "instance_norm": [
        ((X,), {"gamma": V, "beta": -V, "epsilon": 0.01}, F.instance_norm(A, weight=t(V), bias=t(-V), eps=0.01))
    ],
    "layer_norm": [
        ((X,), {"axes": [2, 3], "epsilon": 0.01}, F.layer_norm(A, (4, 8), eps=0.01)),
        (
            (X,),
            {"axes": [1], "gamma": V, "beta": -V, "epsilon": 0.01},
            F.layer_norm(A.movedim(1, -1), (6,), t(V), t(-V), 0.01).movedim(-1, 1),
        ),
    ],
    "l2_norm": [((X,), {"epsilon": 0.01}, X / np.sqrt((X * X).sum((1, 2, 3), keepdims=True) + 0.01))],
    "local_response_norm": [
        ((X,), {"size": 3, "alpha": 0.1, "beta": 0.5, "k": 2.0}, F.local_response_norm(A, 3, 0.1, 0.5, 2.0))
    ],
    "upsample_nearest_neighbor": [
        ((X,), {"scale_factor_height": 2.0, "scale_factor_width": 3.0}, F.interpolate(A, scale_factor=(2, 3)))
    ],
    "resize_nearest_neighbor": [((X,), {"target_size_height": 8, "target_size_width": 4}, F.interpolate(A, (8, 4)))],
    "upsample_bilinear": [
        (
            (X,),
            {"scale_factor_height": 2.0, "scale_factor_width": 3.0, "align_corners": align},
            F.interpolate(A, scale_factor=(2, 3), mode="bilinear", align_corners=align),
        )
        for align in (True, False)
    ],
    "resize_bilinear": [
        (
            (X,),
            {"target_size_height": 7, "target_size_width": 5, "sampling_mode": "STRICT_ALIGN_CORNERS"},
            F.interpolate(A, (7, 5), mode="bilinear", align_corners=True),
        ),
        (
            (X,),
            {"target_size_height": 7, "target_size_width": 5, "sampling_mode": "UNALIGN_CORNERS"},
            F.interpolate(A, (7, 5), mode="bilinear", align_corners=False),
        ),
    ],
    # moving values
    "reshape": [((X,), {"shape": [2, -1, 16]}, X.reshape(2, -1, 16))],
    "transpose": [((X,), {"perm": [0, 2, 3, 1]}, X.transpose(0, 2, 3, 1))],
    "expand_dims": [((X[0],), {"axes": [1, -1]}, X[0][:, None, ..., None])],
    "squeeze": [((X[:, :1, :, :1],), {"axes": [1, -1]}, X[:, 0, :, 0])],
    "slice_by_index": [
        (
            (X,),
            {
                "begin": [0, 1, -1, 0],
                "end": [2, 5, 0, 8],
                "stride": [1, 2, 1, 3],
                "squeeze_mask": [False, False, True, False],
            },
            X[:, 1:5:2, -1, ::3],
        ),
        (
            (X,),
            {
                "begin": [0, 5, 0, 0],
                "end": [0, 0, 0, 0],
                "stride": [1, 1, 1, 1],
                "begin_mask": [True, False, True, True],
                "end_mask": [True] * 4,
            },
            X[:, 5:],
        ),
    ],
    "slice_by_size": [((X,), {"begin": [0, 1, 0, 2], "size": [2, 3, -1, 4]}, X[:, 1:4, :, 2:6])],
    "concat": [(((X, Y),), {"axis": 2}, np.concatenate([X, Y], 2))],
    "stack": [(((X, Y),), {"axis": 1}, np.stack([X, Y], 1))],
    "split": [
        ((X,), {"num_splits": 3, "axis": 1}, np.split(X, 3, 1)),
        ((X,), {"split_sizes": [1, 5], "axis": 1}, np.split(X, [1], 1)),
    ],
    "tile": [((X,), {"reps": [1, 2, 1, 3]}, np.tile(X, (1, 2, 1, 3)))],
    "pad": [
        ((X,), {"pad": [1, 2, 0, 3], "mode": "constant", "constant_val": 1.5}, F.pad(A, (0, 3, 1, 2), value=1.5)),
        ((X,), {"pad": [1, 2, 0, 3], "mode": "reflect"}, F.pad(A, (0, 3, 1, 2), mode="reflect")),
        ((X,), {"pad": [1, 2, 0, 3], "mode": "replicate"}, F.pad(A, (0, 3, 1, 2), mode="replicate")),
    ],
    "gather": [((X,), {"indices": np.array([[0, 5], [-1, 2]], np.int32), "axis": 1}, X[:, [[0, 5], [-1, 2]]])],
    "gather_along_axis": [((X,), {"indices": np.zeros((2, 1, 4, 8), np.int32) + 3, "axis": 1}, X[:, 3:4])],
    "gather_nd": [((X,), {"indices": np.array([[0, 5], [1, 2]], np.int32)}, X[[0, 1], [5, 2]])],
    "flatten2d": [((X,), {"axis": 2}, X.reshape(12, 32))],
    "reverse": [((X,), {"axes": [1, 3]}, X[:, ::-1, :, ::-1])],
    "argsort": [((X,), {"axis": 1, "ascending": True}, X.argsort(1).astype(np.int32))],
    "topk": [((X,), {"k": 2, "axis": 1}, [np.sort(X, 1)[:, ::-1][:, :2], np.argsort(-X, 1)[:, :2].astype(np.int32)])],
    "band_part": [((X,), {"lower": 1, "upper": 2}, A.tril(2).triu(-1))],
    "pixel_shuffle": [((X[:, :4],), {"upscale_factor": 2}, F.pixel_shuffle(A[:, :4], 2))],
    "pixel_unshuffle": [((X,), {"downscale_factor": np.uint32(2)}, F.pixel_unshuffle(A, 2))],
    "space_to_depth": [((X[:, :1],), {"block_size": 2}, F.pixel_unshuffle(A[:, :1], 2))],
    "depth_to_space": [((X[:, :4],), {"block_size": 2}, F.pixel_shuffle(A[:, :4], 2))],
    "crop": [((X,), {"crop_height": [1, 0], "crop_width": [2, 1]}, X[:, :, 1:, 2:-1])],
}
CASES["conv"] = [
    (inputs, parameters, expected)
    for (inputs, parameters, _), expected in zip(
        CASES["conv"],
        [
            F.conv2d(A, t(K), groups=2),
            F.conv2d(F.pad(A, (2, 1, 1, 0)), t(K), stride=(2, 1), dilation=(1, 2), groups=2),
            F.conv2d(F.pad(A, (0, 0, 0, 1)), t(K), stride=2, groups=2),
        ],
        strict=True,
    )
]


def built(make, arrays, tmp_path, target="iOS18"):
    """A program made with coremltools' builder, saved, read by our own executor."""
    ct = coremltools()
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function, Program

    with quiet():
        placeholders = {f"i{i}": mb.placeholder(shape=a.shape) for i, a in enumerate(arrays)}
        with Function(placeholders, opset_version=getattr(ct.target, target)) as function:
            made = make(mb, *function.inputs.values())
            made = list(made) if isinstance(made, (list, tuple)) else [made]
            made = [mb.cast(x=v, dtype="int32") if v.dtype.__name__ == "bool" else v for v in made]
            function.set_outputs([mb.identity(x=v) for v in made])
        whole = Program()
        whole.add_function("main", function)
        model = ct.convert(
            whole,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        path = tmp_path / "m.mlpackage"
        model.save(str(path))
    return Executor(parse(package.read(path)))


def assert_op(kind, inputs, parameters, expected, tmp_path):
    listed = isinstance(inputs[0], tuple)
    arrays = inputs[0] if listed else inputs

    def make(mb, *values):
        given = {"values": list(values)} if listed else dict(zip(("x", "y"), values, strict=False))
        return getattr(mb, kind)(**given, **parameters)

    executor = built(make, arrays, tmp_path)
    found = (
        list(executor.run({f"i{i}": a for i, a in enumerate(arrays)}).values())
        if kind != "flatten2d"
        else list(executor._once({f"i{i}": a for i, a in enumerate(arrays)}).values())
    )
    expected = expected if isinstance(expected, list) else [expected]
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        value = np.asarray(wanted)
        assert got.shape == value.shape
        np.testing.assert_allclose(got.astype(np.float64), value.astype(np.float64), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", sorted(CASES))
def test_an_operation_computes_its_formula(kind, tmp_path):
    for inputs, parameters, expected in CASES[kind]:
        assert_op(kind, inputs, parameters, expected, tmp_path)


class Joined(torch.nn.Module):
    """What is easier reached through a converter than by the builder."""

    def __init__(self):
        super().__init__()
        self.up = torch.nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.position = torch.nn.Parameter(torch.randn(8))
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = F.gelu(self.up(x))
        x = torch.where(x > 0, x, x * 0.5) + torch.logical_not(x > 1).float() * torch.logical_and(x > 0, x < 2).float()
        tokens = x.flatten(2).transpose(1, 2).reshape(1, -1, 8) + self.position
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return torch.einsum("btc,bsc->bts", tokens, tokens).softmax(-1).sum(-2)


def test_a_small_attention_network_matches_torch_and_runs_one_by_one(tmp_path):
    from mobconv.backends.coreml.convert import convert
    from mobconv.model.trace import trace
    from mobconv.schemes import Compute

    torch.manual_seed(0)
    module = Joined().eval()
    program = trace(module, {"image": X[:1]})
    convert(program, Compute.FP32, tmp_path)
    from mobconv.backends.coreml import backend
    from mobconv.quantize.weights import FloatWeight
    from mobconv.schemes import Cell

    floats = program.floats()
    weights = {n: FloatWeight(n, floats[n]) for n in program.sites}
    backend.encode(tmp_path, QuantizedModel(weights), Cell.parse("coreml/fp32"), tmp_path / "a.mlpackage")
    runner = backend.open(tmp_path / "a.mlpackage")
    with torch.inference_mode():
        wanted = np.concatenate([module(t(X[i : i + 1])).numpy() for i in range(2)])
    np.testing.assert_allclose(runner.run({"image": X})["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_logic_and_shape_operations(tmp_path):
    def make(mb, x, y):
        a, b = mb.greater(x=x, y=np.float32(0)), mb.less(x=y, y=np.float32(0))
        both = [mb.logical_and(x=a, y=b), mb.logical_or(x=a, y=b), mb.logical_xor(x=a, y=b), mb.logical_not(x=a)]
        chosen = mb.select(cond=a, a=x, b=y)
        size = mb.shape(x=x)
        filled = mb.fill(shape=[2, 3], value=np.float32(1.5))
        like = mb.fill_like(ref_tensor=mb.shape(x=filled), value=np.float32(2.0))
        ramp = mb.range_1d(start=np.int32(1), end=np.int32(9), step=np.int32(3))
        hot = mb.one_hot(indices=np.array([0, 2], np.int32), one_hot_vector_size=3, on_value=5, off_value=1)
        product = mb.einsum(values=[x, mb.transpose(x=y, perm=[0, 3, 2, 1])], equation="nchw,nwhu->nchu")
        return [*both, chosen, size, filled, like, ramp, hot, product]

    executor = built(make, (X, Y), tmp_path)
    assert not executor.takes_batches
    found = list(executor._once({"i0": X, "i1": Y}).values())
    p, n = X > 0, Y < 0
    wanted = [p & n, p | n, p ^ n, ~p, np.where(p, X, Y), [2, 6, 4, 8], np.full((2, 3), 1.5), None, [1, 4, 7],
              [[5, 1, 1], [1, 1, 5]], np.einsum("nchw,nuhw->nchu", X, Y)]  # fmt: skip
    for got, value in zip(found, wanted, strict=True):
        if value is not None:
            np.testing.assert_allclose(got.astype(np.float64), np.asarray(value, np.float64), atol=2e-5)


def test_every_operation_of_the_table_is_tested():
    elsewhere = {
        "conv_transpose", "einsum", "fill", "fill_like", "logical_and", "logical_not", "logical_or", "logical_xor",
        "one_hot", "range_1d", "scaled_dot_product_attention", "select", "shape",
    }  # fmt: skip
    assert set(ops.table()) == set(CASES) | elsewhere


def test_scaled_dot_product_attention(tmp_path):
    mask = np.triu(np.full((4, 4), -1e4, np.float32), 1)

    def make(mb, x, y):
        return mb.scaled_dot_product_attention(query=x, key=y, value=x, attn_mask=mask)

    found = built(make, (X, Y), tmp_path).run({"i0": X, "i1": Y})
    wanted = F.scaled_dot_product_attention(A, t(Y), A, attn_mask=t(mask)).numpy()
    np.testing.assert_allclose(next(iter(found.values())), wanted, atol=1e-5)


def test_an_unknown_operation_is_named_with_its_place(tmp_path):
    with pytest.raises(BackendError, match=r"operation \d+, scaled_erf_twice, output .*does not know"):
        from dataclasses import replace

        executor_graph = parse_with_unknown(tmp_path)
        Executor(replace(executor_graph))


def parse_with_unknown(tmp_path):
    from dataclasses import replace

    built(lambda mb, x: mb.erf(x=x), (X,), tmp_path)
    graph = parse(package.read(tmp_path / "m.mlpackage"))
    return replace(
        graph, operations=tuple(replace(s, kind="scaled_erf_twice") if s.kind == "erf" else s for s in graph.operations)
    )


def test_control_flow_is_refused(tmp_path):
    def make(mb, x):
        return mb.cond(pred=mb.greater(x=mb.reduce_sum(x=x), y=np.float32(0)), _true_fn=lambda: mb.exp(x=x),
                       _false_fn=lambda: mb.abs(x=x))  # fmt: skip

    with pytest.raises(BackendError, match="control flow"):
        built(make, (X,), tmp_path)


def test_parameters_that_do_not_fit_are_errors_naming_the_place(tmp_path):
    with pytest.raises(BackendError, match=r"pad.*mode|resize_bilinear.*sampling_mode OFFSET_CORNERS"):
        executor = built(
            lambda mb, x: mb.resize_bilinear(
                x=x, target_size_height=3, target_size_width=3, sampling_mode="OFFSET_CORNERS"
            ),
            (X,),
            tmp_path,
        )
        executor.run({"i0": X})
