"""Activations, arithmetic, comparisons and reductions. Imported only when a network is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from mobconv.backends.apple.call import Call, Function

Tensor = torch.Tensor
_EXACT = ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=_dtype_of(value))


def _dtype_of(value: Any) -> torch.dtype:
    if isinstance(value, bool):
        return torch.bool
    return torch.int64 if isinstance(value, int) else torch.float32


def _unary(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda call: function(_tensor(call.get("x")))


def _binary(function: Callable[[Tensor, Any], Tensor]) -> Function:
    return lambda call: function(_tensor(call.get("x")), call.get("y"))


def _tensors(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A value as a tensor, for functions of torch that do not take Python numbers."""
    return lambda call: function(_tensor(call.get("x")), _tensor(call.get("y")))


def _channels(values: Any, x: Tensor) -> Any:
    """(C,) -> (C, 1, ..), which broadcasts along axis 1 of x."""
    return values.reshape(-1, *[1] * (x.dim() - 2)) if isinstance(values, Tensor) and values.dim() else values


def _clip(call: Call) -> Any:
    return torch.clamp(call.get("x"), call.get("alpha"), call.get("beta"))


def _gelu(call: Call) -> Any:
    x, mode = call.get("x"), call.get("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    if mode not in _EXACT:
        raise call.refuse(f"mode {mode}")
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def _prelu(call: Call) -> Any:
    x = call.get("x")
    return torch.where(x >= 0, x, x * _channels(call.get("alpha"), x))


def _clamped_relu(call: Call) -> Any:
    x = call.get("x")
    return torch.where(x >= 0, x, x * call.get("alpha")).clamp(max=call.get("beta"))


def _softplus_parametric(call: Call) -> Any:
    x = call.get("x")
    return _channels(call.get("alpha"), x) * F.softplus(x * _channels(call.get("beta"), x))


def _thresholded_relu(call: Call) -> Any:
    x = call.get("x")
    return torch.where(x >= call.get("alpha", 1.0), x, torch.zeros_like(x))


def _select(call: Call) -> Any:
    return torch.where(_tensor(call.get("cond")), _tensor(call.get("a")), _tensor(call.get("b")))


def _cast(call: Call) -> Any:
    kinds = {"fp16": torch.float32, "fp32": torch.float32, "bool": torch.bool}
    x, name = _tensor(call.get("x")), call.get("dtype")
    if name in kinds:
        return x.to(kinds[name])
    if name not in ("int32", "int8", "uint8", "int16", "uint16"):
        raise call.refuse(f"dtype {name}")
    bits = int(name.lstrip("uint"))
    low, high = (0, 2**bits - 1) if name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    whole = x.to(torch.int64)  # rounded towards zero
    if bits < 32 and bool(((whole < low) | (whole > high)).any()):
        raise call.refuse(f"a cast of values beyond {name}")
    return whole


def _divide(call: Call) -> Any:
    x, y = _tensor(call.get("x")), call.get("y")
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="floor")


def _axes(call: Call, x: Tensor) -> list[int]:
    axes = call.ints("axes", None)
    return list(range(x.dim())) if axes is None else [int(axis) for axis in axes]


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    def run(call: Call) -> Any:
        x = call.get("x")
        return function(x, _axes(call, x), bool(call.get("keep_dims", False)))

    return run


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Tensor]) -> Function:
    return lambda call: function(
        call.get("x"), dim=int(call.get("axis", -1)), keepdim=bool(call.get("keep_dims", False))
    )


def _cumsum(call: Call) -> Any:
    x, axis = call.get("x"), int(call.get("axis", 0))
    if call.get("reverse", False):
        x = x.flip(axis)
    result = x.cumsum(axis)
    if call.get("exclusive", False):
        result = result - x
    return result.flip(axis) if call.get("reverse", False) else result


OPS: dict[str, Function] = {
    # activations
    "clip": _clip,
    "clamped_relu": _clamped_relu,
    "elu": lambda call: F.elu(call.get("x"), call.get("alpha", 1.0)),
    "gelu": _gelu,
    "leaky_relu": lambda call: F.leaky_relu(call.get("x"), call.get("alpha", 0.01)),
    "linear_activation": lambda call: call.get("x") * call.get("alpha") + call.get("beta", 0.0),
    "prelu": _prelu,
    "relu": _unary(torch.relu),
    "relu6": _unary(F.relu6),
    "scaled_tanh": lambda call: call.get("alpha", 1.0) * torch.tanh(call.get("x") * call.get("beta", 1.0)),
    "sigmoid": _unary(torch.sigmoid),
    "sigmoid_hard": lambda call: (call.get("x") * call.get("alpha", 0.2) + call.get("beta", 0.5)).clamp(0, 1),
    "silu": _unary(F.silu),
    "softmax": lambda call: torch.softmax(call.get("x"), int(call.get("axis", -1))),
    "softplus": _unary(F.softplus),
    "softplus_parametric": _softplus_parametric,
    "softsign": _unary(F.softsign),
    "thresholded_relu": _thresholded_relu,
    # one value
    "abs": _unary(torch.abs),
    "acos": _unary(torch.acos),
    "asin": _unary(torch.asin),
    "atan": _unary(torch.atan),
    "atanh": _unary(torch.atanh),
    "cast": _cast,
    "ceil": _unary(torch.ceil),
    "cos": _unary(torch.cos),
    "cosh": _unary(torch.cosh),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "floor": _unary(torch.floor),
    "identity": lambda call: call.get("x"),
    "inverse": lambda call: 1.0 / (call.get("x") + call.get("epsilon", 1e-4)),
    "log": lambda call: torch.log(call.get("x") + call.get("epsilon", 1e-45)),
    "logical_not": _unary(torch.logical_not),
    "round": _unary(torch.round),
    "rsqrt": lambda call: torch.rsqrt(call.get("x") + call.get("epsilon", 1e-12)),
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "sinh": _unary(torch.sinh),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "tan": _unary(torch.tan),
    "tanh": _unary(torch.tanh),
    "threshold": lambda call: call.get("x").clamp(min=call.get("alpha")),
    # two values
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _divide,
    "floor_div": lambda call: torch.div(_tensor(call.get("x")), call.get("y"), rounding_mode="floor"),
    "mod": _tensors(torch.remainder),
    "pow": _tensors(torch.pow),
    "maximum": _tensors(torch.maximum),
    "minimum": _tensors(torch.minimum),
    "equal": _tensors(torch.eq),
    "not_equal": _tensors(torch.ne),
    "greater": _tensors(torch.gt),
    "greater_equal": _tensors(torch.ge),
    "less": _tensors(torch.lt),
    "less_equal": _tensors(torch.le),
    "logical_and": _tensors(torch.logical_and),
    "logical_or": _tensors(torch.logical_or),
    "logical_xor": _tensors(torch.logical_xor),
    "select": _select,
    # reductions
    "reduce_argmax": _arg(torch.argmax),
    "reduce_argmin": _arg(torch.argmin),
    "reduce_l1_norm": _reduce(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "reduce_l2_norm": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "reduce_log_sum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "reduce_log_sum_exp": _reduce(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "reduce_max": _reduce(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "reduce_mean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "reduce_min": _reduce(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "reduce_prod": _reduce(_prod),
    "reduce_sum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "reduce_sum_square": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "cumsum": _cumsum,
}
