"""Activations, arithmetic, comparisons and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobconv.backends.mlmodel.layer import LayerContext, LayerFunction


def _activation(layer: LayerContext) -> None:
    kind = layer.params.WhichOneof("NonlinearityType")
    p: Any = getattr(layer.params, kind or "", None)
    plain = {"ReLU": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "softsign": "softsign", "softplus": "softplus"}
    one = {"leakyReLU": "leaky_relu", "thresholdedReLU": "thresholded_relu", "ELU": "elu"}
    two = {"linear": "linear_activation", "scaledTanh": "scaled_tanh", "sigmoidHard": "sigmoid_hard"}
    if kind is None:
        raise layer.refuse("an activation without a function")
    if kind in plain:
        layer.emit(plain[kind])
    elif kind in one:
        layer.emit(one[kind], alpha=float(p.alpha))
    elif kind in two:
        layer.emit(two[kind], alpha=float(p.alpha), beta=float(p.beta))
    elif kind == "PReLU":
        layer.emit("prelu", alpha=_channels(layer, p.alpha))
    elif kind == "parametricSoftplus":
        layer.emit("softplus_parametric", alpha=_channels(layer, p.alpha), beta=_channels(layer, p.beta))
    else:
        raise layer.refuse(f"the activation {kind}")


def _channels(layer: LayerContext, message: Any) -> Any:
    """A parameter of one value, or of one for each channel (axis -3)."""
    if layer.rank() != 4:
        raise layer.refuse(f"an input of {layer.rank()} axes")
    single = max(len(message.floatValue), len(message.float16Value) // 2) == 1
    return layer.read(message, 1 if single else layer.shape()[1])


def _unary(layer: LayerContext) -> None:
    """f(scale * x + shift)."""
    p = layer.params
    x = layer.x
    scale, epsilon = float(p.scale) or 1.0, float(p.epsilon) or 1e-6
    if scale != 1 or p.shift:
        x = layer.emit("linear_activation", part="shifted", alpha=scale, beta=float(p.shift))
    kind = type(p).Operation.Name(p.type)
    constants: dict[str, dict[str, Any]] = {
        "RSQRT": {"epsilon": epsilon},
        "INVERSE": {"epsilon": epsilon},
        "POWER": {"y": float(p.alpha)},
        "LOG": {"epsilon": 0.0},
        "THRESHOLD": {"alpha": float(p.alpha)},
    }
    layer.emit("pow" if kind == "POWER" else kind.lower(), {"x": x}, **constants.get(kind, {}))


def _arithmetic(kind: str) -> LayerFunction:
    """An operation of one input and a number, or of several inputs."""

    def run(layer: LayerContext) -> None:
        if len(layer.inputs) == 1:
            layer.emit(kind, y=float(layer.params.alpha))
        else:
            _fold(layer, kind)

    return run


def _fold(layer: LayerContext, kind: str, last: bool = True) -> str:
    """Add kind(kind(a, b), c) and so on. The last result is the layer's output, unless `last` is false."""
    made, *rest = layer.inputs
    for i, name in enumerate(rest, 1):
        made = layer.emit(kind, {"x": made, "y": name}, part="" if last and i == len(rest) else f"first{i}")
    return made


def _folded(kind: str) -> LayerFunction:
    def run(layer: LayerContext) -> None:
        if len(layer.inputs) < 2:
            raise layer.refuse("one input alone")
        _fold(layer, kind)

    return run


def _average(layer: LayerContext) -> None:
    layer.emit("mul", {"x": _fold(layer, "add", last=False)}, y=1.0 / len(layer.inputs))


def _compared(kind: str) -> LayerFunction:
    """Add a comparison: 1.0 for true, 0.0 for false."""

    def run(layer: LayerContext) -> None:
        if len(layer.inputs) == 1:
            made = layer.emit(kind, part="holds", y=float(layer.params.alpha))
        else:
            made = layer.emit(kind, {"x": layer.inputs[0], "y": layer.inputs[1]}, part="holds")
        layer.emit("cast", {"x": made}, dtype="fp32")

    return run


def _logical(kind: str) -> LayerFunction:
    """Add a logical operation: inputs are true where they are not 0.0."""

    def run(layer: LayerContext) -> None:
        truths = [layer.emit("not_equal", {"x": x}, part=f"truth{i}", y=0.0) for i, x in enumerate(layer.inputs)]
        made = layer.emit(kind, dict(zip("xy", truths, strict=False)), part="holds")
        layer.emit("cast", {"x": made}, dtype="fp32")

    return run


def _where(layer: LayerContext) -> None:
    condition, a, b = layer.inputs
    truth = layer.emit("not_equal", {"x": condition}, part="truth", y=0.0)
    layer.emit("select", {"cond": truth, "a": a, "b": b})


def _reduced(kind: str) -> LayerFunction:
    def run(layer: LayerContext) -> None:
        p = layer.params
        axes = list(range(layer.rank())) if p.reduceAll or not p.axes else [int(axis) for axis in p.axes]
        layer.emit(kind, axes=axes, keep_dims=bool(p.keepDims))

    return run


def _reduce(layer: LayerContext) -> None:
    """The older layer: reduces the last axes, which become 1."""
    p = layer.params
    axes = {"CHW": [-3, -2, -1], "HW": [-2, -1], "C": [-3], "H": [-2], "W": [-1]}[type(p).ReduceAxis.Name(p.axis)]
    mode = type(p).ReduceOperation.Name(p.mode)
    kinds = {"SUM": "sum", "AVG": "mean", "PROD": "prod", "SUMSQUARE": "sum_square", "L1": "l1_norm", "L2": "l2_norm"}
    if mode == "ARGMAX":
        at = layer.emit("reduce_argmax", part="at", axis=axes[0], keep_dims=True)
        layer.emit("cast", {"x": at}, dtype="fp32")
    elif mode == "LOGSUM":
        logs = layer.emit("log", part="logs", epsilon=float(p.epsilon) or 1e-6)
        layer.emit("reduce_sum", {"x": logs}, axes=axes, keep_dims=True)
    else:
        layer.emit(f"reduce_{kinds.get(mode, mode.lower())}", axes=axes, keep_dims=True)


def _arg(kind: str) -> LayerFunction:
    def run(layer: LayerContext) -> None:
        p = layer.params
        at = layer.emit(kind, part="at", axis=int(p.axis), keep_dims=not p.removeDim)
        layer.emit("cast", {"x": at}, dtype="fp32")

    return run


def _cumulative(layer: LayerContext) -> None:
    p = layer.params
    if len(layer.inputs) > 1:
        raise layer.refuse("an axis that is computed")
    layer.emit("cumsum", axis=int(p.axis), exclusive=bool(p.excludeFinalSum), reverse=bool(p.reverse))


def _plain(kind: str) -> LayerFunction:
    return lambda layer: layer.emit(kind)


def _gelu(layer: LayerContext) -> None:
    p = layer.params
    layer.emit("gelu", mode=type(p).GeluMode.Name(p.mode))


def _against_parameter(kind: str, message: Any, shape: Any, layer: LayerContext, x: str, part: str = "") -> str:
    """Add x + or * a parameter of shape [1], [C], [1, H, W] or [C, H, W]."""
    sizes = [int(size) for size in shape]
    values = layer.read(message, *sizes)
    return layer.emit(kind, {"x": x}, part=part, y=values.reshape(-1, 1, 1) if len(sizes) == 1 else values)


def _bias(layer: LayerContext) -> None:
    _against_parameter("add", layer.params.bias, layer.params.shape, layer, layer.x)


def _scale(layer: LayerContext) -> None:
    p = layer.params
    made = _against_parameter("mul", p.scale, p.shapeScale, layer, layer.x, "scaled" if p.hasBias else "")
    if p.hasBias:
        _against_parameter("add", p.bias, p.shapeBias, layer, made)


_SAME = ["ceil", "floor", "sign", "round", "exp2", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"]
_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "real_div", "floorDiv": "floor_div"}
_BINARY |= {"pow": "pow", "mod": "mod", "max": "maximum", "min": "minimum"}
_COMPARED = {"equal": "equal", "notEqual": "not_equal", "lessThan": "less", "lessEqual": "less_equal"}
_COMPARED |= {"greaterThan": "greater", "greaterEqual": "greater_equal"}
_REDUCED = {"L1": "l1_norm", "L2": "l2_norm", "Max": "max", "Min": "min", "Sum": "sum", "Prod": "prod", "Mean": "mean"}
_REDUCED |= {"LogSum": "log_sum", "SumSquare": "sum_square", "LogSumExp": "log_sum_exp"}

LAYERS: dict[str, LayerFunction] = {
    "activation": _activation,
    "unary": _unary,
    "clip": lambda layer: layer.emit("clip", alpha=float(layer.params.minVal), beta=float(layer.params.maxVal)),
    "gelu": _gelu,
    "erf": _plain("erf"),
    "atanh": _plain("atanh"),
    **{name: _plain(name) for name in _SAME},
    "softmax": lambda layer: layer.emit("softmax", axis=-3),
    "softmaxND": lambda layer: layer.emit("softmax", axis=int(layer.params.axis)),
    "add": _arithmetic("add"),
    "multiply": _arithmetic("mul"),
    "average": _average,
    "max": _folded("maximum"),
    "min": _folded("minimum"),
    **{f"{name}Broadcastable": _folded(kind) for name, kind in _BINARY.items()},
    **{name: _compared(kind) for name, kind in _COMPARED.items()},
    "logicalAnd": _logical("logical_and"),
    "logicalOr": _logical("logical_or"),
    "logicalXor": _logical("logical_xor"),
    "logicalNot": _logical("logical_not"),
    "whereBroadcastable": _where,
    "bias": _bias,
    "scale": _scale,
    "reduce": _reduce,
    **{f"reduce{name}": _reduced(f"reduce_{kind}") for name, kind in _REDUCED.items()},
    "cumSum": _cumulative,
    "argMax": _arg("reduce_argmax"),
    "argMin": _arg("reduce_argmin"),
    "copy": _plain("identity"),
}
