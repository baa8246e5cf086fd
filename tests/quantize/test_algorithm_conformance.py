"""What every algorithm of `ALGORITHMS` promises, in every mode, width and granularity that its line declares.

An algorithm that is added is tried here by its line alone. One that needs more than weights needs a `Judge` for its
kind below: how it quantizes a tensor, and the calibration loss that may not be larger than that of `mse`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest

from mobconv.errors import UsageError
from mobconv.quantize import QuantizedWeight, algorithms, quantize
from mobconv.quantize.layer import Hessian, Layer, quantize_layer
from mobconv.schemes import ALGORITHMS, BITS, Algorithm, Granularity, Mode, Needs, Scheme

RNG = np.random.default_rng(12)
# 36 channels: two groups of 16, and one of 4; ranges from 1 to 8, as after folding batch norm
RANGES = np.geomspace(1, 8, 36)[:, None]
TYPICAL = {
    "normal": (RNG.normal(size=(36, 3, 3, 3)) * RANGES.reshape(-1, 1, 1, 1) / 16).astype(np.float32),
    "heavy tails": (RNG.laplace(size=(36, 60)) * RANGES).astype(np.float32),
    "one side": (RNG.uniform(0.5, 1.5, (36, 20)) * RANGES).astype(np.float32),
    "depthwise": RNG.normal(size=(36, 1, 3, 3)).astype(np.float32),
}
AWKWARD = {
    "zeros": np.zeros((36, 5), np.float32),
    "constant": np.full((36, 5), 0.3, np.float32),
    "one weight a channel": RNG.normal(size=(36, 1)).astype(np.float32),
    "beyond fp16": (RNG.normal(size=(36, 9)) * np.geomspace(1e-9, 1e9, 36)[:, None]).astype(np.float32),
}
SCHEMES = [
    Scheme(bits, mode, granularity, name)
    for name, algorithm in ALGORITHMS.items()
    for mode in algorithm.modes
    for granularity in Granularity
    for bits in BITS
]


def case(scheme: Scheme) -> str:
    return f"{scheme.algorithm}:{scheme}"


EACH = pytest.mark.parametrize("scheme", SCHEMES, ids=case)


def squared_error(weight: QuantizedWeight, values: np.ndarray) -> float:
    return float(((weight.dequantize().astype(np.float64) - values) ** 2).sum())


@dataclass(frozen=True)
class Judge:
    """How algorithms of one kind are tried.

    quantize  (values, scheme) -> QuantizedWeight, channels along axis 0
    loss      (weight, values) -> the figure that the kind makes small, on the inputs that `quantize` gave it
    rival     the algorithm whose loss is the largest that is allowed
    """

    quantize: Callable[[np.ndarray, Scheme], QuantizedWeight]
    loss: Callable[[QuantizedWeight, np.ndarray], float]
    rival: str


def layer_of(values: np.ndarray, scheme: Scheme) -> Layer:
    """The least-squares problem of a layer with these weights as its target; its inputs go together in pairs."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    columns = rows.shape[1]
    inputs = np.random.default_rng(columns).normal(size=(4 * columns + 8, columns))
    inputs[:, 1:] += 0.9 * inputs[:, :-1]
    second = inputs.T @ inputs / len(inputs) + 0.05 * np.eye(columns)
    together = {Granularity.TENSOR: len(rows), Granularity.CHANNEL: 1, Granularity.OC16: 16}[scheme.granularity]
    return Layer("w", rows, Hessian(second[None]), np.arange(len(rows)) // together)


def quantize_by_statistics(values: np.ndarray, scheme: Scheme) -> QuantizedWeight:
    if ALGORITHMS[scheme.algorithm].needs is Needs.WEIGHTS:
        return quantize("w", values, 0, scheme)
    return quantize_layer(layer_of(values, scheme), scheme, 0, lambda matrix: matrix.reshape(values.shape))


def output_error(weight: QuantizedWeight, values: np.ndarray) -> float:
    layer = layer_of(values, Scheme.parse("w8-linear"))
    return layer.error(weight.dequantize().reshape(layer.target.shape))


# without data, the loss of a layer is that for inputs of which nothing is known: the squared error of its weights
JUDGES = {
    Needs.WEIGHTS: Judge(lambda values, scheme: quantize("w", values, 0, scheme), squared_error, rival="minmax"),
    Needs.LAYER_STATISTICS: Judge(quantize_by_statistics, output_error, rival="mse"),
}


def judge_of(scheme: Scheme) -> Judge:
    needs = ALGORITHMS[scheme.algorithm].needs
    assert needs in JUDGES, f"add a Judge for algorithms that need {needs}"
    return JUDGES[needs]


def content(weight: QuantizedWeight) -> list[bytes]:
    arrays = (weight.codes, weight.scale, weight.zero_point, weight.table)
    return [b"" if array is None else array.tobytes() for array in arrays]


def groups_of(scheme: Scheme, channels: int) -> int:
    together = {Granularity.TENSOR: channels, Granularity.CHANNEL: 1, Granularity.OC16: 16}[scheme.granularity]
    return -(-channels // together)


@EACH
def test_codes_and_parameters_are_representable(scheme):
    for name, values in (TYPICAL | AWKWARD).items():
        before = values.copy()
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            weight = judge_of(scheme).quantize(values, scheme)
        assert values.tobytes() == before.tobytes(), "the weights are the caller's"
        check_form(scheme, weight, values)
        assert weight.fp16 == (name != "beyond fp16"), name
        check_parameters(weight)


def check_form(scheme, weight, values):
    """Codes, zero points and parameters of the shapes, dtypes and ranges that QuantizedWeight names."""
    bits, groups = scheme.bits, groups_of(scheme, len(values))
    assert (weight.bits, weight.mode, weight.shape, weight.groups) == (bits, scheme.mode, values.shape, groups)
    assert weight.codes.dtype == np.uint8 and int(weight.codes.max()) < 2**bits
    uses_table = scheme.mode is Mode.KMEANS or (scheme.mode is Mode.LINEAR and bits == 1)
    assert (weight.scale is None) == uses_table == (weight.table is not None)
    assert (weight.zero_point is not None) == (scheme.mode is Mode.LINEAR and bits > 1)
    if weight.zero_point is not None:
        assert weight.zero_point.dtype == np.uint8 and weight.zero_point.shape == (groups,)
        assert int(weight.zero_point.max()) < 2**bits
    if scheme.mode is Mode.SYMMETRIC and bits > 1:
        assert int(weight.codes.min()) >= 1, "the lowest code would be one step further out than the highest"
    parameters = weight.table if uses_table else weight.scale
    assert parameters.dtype == np.float32 and parameters.shape == ((groups, 2**bits) if uses_table else (groups,))


def check_parameters(weight):
    """Finite, and where `fp16` says so, numbers that fp16 represents as zero or a normal number."""
    parameters = weight.scale if weight.table is None else weight.table
    assert np.isfinite(parameters).all()
    if weight.fp16:
        half = parameters.astype(np.float16)
        assert np.array_equal(half.astype(np.float32), parameters)
        assert np.all((half == 0) | (np.abs(half) >= np.finfo(np.float16).smallest_normal))


@EACH
def test_never_worse_than_its_rival(scheme):
    judge = judge_of(scheme)
    if scheme.mode in ALGORITHMS[judge.rival].modes:
        other = replace(scheme, algorithm=judge.rival)
    else:  # minmax has no tables; one may have the values of any linear codes
        other = replace(scheme, mode=Mode.LINEAR, algorithm=judge.rival)
    for name, values in TYPICAL.items():
        loss, most = (judge.loss(judge.quantize(values, each), values) for each in (scheme, other))
        assert loss <= most, name


@EACH
def test_the_same_bytes_twice_and_on_any_number_of_threads(scheme):
    run = judge_of(scheme).quantize
    tensors = list(TYPICAL.values())
    first = [content(run(values, scheme)) for values in tensors]
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            assert [content(weight) for weight in pool.map(lambda values: run(values, scheme), tensors)] == first


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if ALGORITHMS[s.algorithm].needs is Needs.WEIGHTS], ids=case)
def test_groups_are_fitted_each_by_itself(scheme):
    weights = np.ascontiguousarray(TYPICAL["heavy tails"])
    fit = algorithms.load(scheme.algorithm).fit
    together = fit(weights, scheme.mode, scheme.bits, True)
    for group in (0, 17, 35):
        alone = fit(weights[group : group + 1], scheme.mode, scheme.bits, True)
        for field in ("codes", "scale", "zero_point", "table"):
            whole, part = getattr(together, field), getattr(alone, field)
            assert part is whole is None or part.tobytes() == whole[group : group + 1].tobytes(), field


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_mode_is_declared_or_refused(name, mode):
    if mode in ALGORITHMS[name].modes:
        assert judge_of(Scheme(4, mode, algorithm=name)).quantize(TYPICAL["normal"], Scheme(4, mode, algorithm=name))
        return
    with pytest.raises(UsageError, match=f"{name} supports .*; for {mode} choose"):
        Scheme(4, mode, algorithm=name)
    with pytest.raises(UsageError, match=f"{name} supports"):
        Scheme.parse(f"w4-{mode}-{name}")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_docstring_has_what_is_minimised_and_its_source(name):
    module = import_module(ALGORITHMS[name].module)
    assert module.__name__.endswith(f".algorithms.{name}"), "one algorithm a file, called as in the grammar"
    assert " = " in module.__doc__ or " min over " in module.__doc__, "an equation"
    assert ("section" in module.__doc__ or "arXiv" in module.__doc__) and module.fit.__doc__


@pytest.mark.parametrize("needs", [Needs.LAYER_STATISTICS, Needs.PROGRAM])
def test_an_algorithm_that_needs_more_than_weights_does_not_quantize_a_tensor_by_itself(monkeypatch, needs):
    monkeypatch.setitem(ALGORITHMS, "calibrated", Algorithm("no.such.module", needs, tuple(Mode), "for this test"))
    with pytest.raises(UsageError, match=f"calibrated needs {needs}"):
        quantize("w", TYPICAL["normal"], 0, Scheme.parse("w4-linear-calibrated"))
