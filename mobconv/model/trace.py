"""A module becomes one traced program, batch norm folded on the graph, that every backend converts.

Folding happens once and here: whatever a converter folds later is another weight than the one that
was quantized. (The dynamo ONNX exporter, for one, folds batch norm and keeps the old names.)
"""

from __future__ import annotations

import copy
import hashlib
import operator
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

Floats = NDArray[np.float32]

# The ops whose weights are quantized: which argument is the weight, and the axis of its output
# channels. transposed convolutions hold (in, out / groups, ...); an embedding's channels are its
# rows, one output vector each, as TFLite's EMBEDDING_LOOKUP has it.
WEIGHT_OPS: dict[str, tuple[int, int]] = {
    "aten.conv1d.default": (1, 0),
    "aten.conv2d.default": (1, 0),
    "aten.conv3d.default": (1, 0),
    "aten.conv1d.padding": (1, 0),
    "aten.conv2d.padding": (1, 0),
    "aten.conv3d.padding": (1, 0),
    "aten.convolution.default": (1, 0),  # axis 1 where its `transposed` argument is set
    "aten.conv_transpose1d.default": (1, 1),
    "aten.conv_transpose2d.input": (1, 1),
    "aten.conv_transpose3d.input": (1, 1),
    "aten.linear.default": (1, 0),
    "aten.embedding.default": (0, 0),
}
ADDED = "mobconv_"  # begins the names of what pixels.py adds: never quantized, never rounded
_BATCH_NORM = ("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default")


@dataclass(frozen=True)
class Site:
    """A parameter that is quantized: name as in the module, shape, output-channel axis, op."""

    name: str
    shape: tuple[int, ...]
    axis: int
    op: str


@dataclass(frozen=True, eq=False)
class Program:
    """A traced network with batch norm folded.

    module   the graph in eval mode; parameters carry the names they had in the user's module
    example  the inputs it was traced with: named float32 arrays, the leading dimension is the batch
    outputs  names of the outputs, in order
    sites    the weights that are quantized, in order of use
    image    'rgb' or 'bgr' where the input is an image, pixels of 0 to 255 (see pixels.py); '' for a plain tensor
    labels   names of the classes, for formats that hold them; empty where unknown
    scaled   (scale, bias for each channel) that coremltools' own ImageType is to be given, in place of what pixels.py
             does; None for nothing
    """

    module: GraphModule
    example: dict[str, NDArray[Any]]
    outputs: tuple[str, ...]
    sites: dict[str, Site]
    image: str = ""
    labels: tuple[str, ...] = ()
    scaled: tuple[float, tuple[float, ...]] | None = None

    def floats(self) -> dict[str, Floats]:
        """All float parameters and buffers of the folded graph, by name (copies); not those of pixels.py."""
        return {
            name: np.array(value.detach().numpy(), np.float32)
            for name, value in self._tensors()
            if value.is_floating_point() and not name.startswith(ADDED)
        }

    def with_values(self, values: Mapping[str, NDArray[np.float32]]) -> Program:
        """The same program with other values in some parameters. Raises KeyError for an unknown name."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own pytree, copied
            module = copy.deepcopy(self.module)
        tensors = dict(replace(self, module=module)._tensors())
        with torch.no_grad():
            for name, value in values.items():
                tensors[name].copy_(torch.from_numpy(np.ascontiguousarray(value, np.float32)))
        return replace(self, module=module)

    def exported(self) -> ExportedProgram:
        """A fresh ExportedProgram (ATen, batch as in `example`) for a converter."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(self.module, self._example_tensors(), strict=False)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run in PyTorch eager, fp32. Takes any batch that the graph allows."""
        import torch
        from torch.utils._pytree import tree_leaves

        with torch.inference_mode():
            found = self.module(*(torch.from_numpy(feeds[name]) for name in self.example))
        return {name: value.numpy() for name, value in zip(self.outputs, tree_leaves(found), strict=True)}

    def sha256(self) -> str:
        """Hash over the graph's code and every tensor in it: what a template is filed under."""
        digest = hashlib.sha256(self.module.code.encode())
        for name, value in self._tensors():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(np.ascontiguousarray(value.detach().numpy()).tobytes())
        return digest.hexdigest()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()

    def _example_tensors(self) -> tuple[torch.Tensor, ...]:
        import torch

        return tuple(torch.from_numpy(value) for value in self.example.values())


def trace(module: torch.nn.Module, example: Mapping[str, NDArray[Any]]) -> Program:
    """Trace an eval-mode module with torch.export and fold its batch norms.

    example: named inputs in the order of `forward`, shapes as the artifacts shall declare them.
    Raises InputError, with the tracer's own words, when the module cannot be traced.
    """
    import torch

    tensors = tuple(torch.from_numpy(value) for value in example.values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module.eval(), tensors, strict=False)
    except Exception as error:  # the tracer raises dozens of types
        raise InputError(f"torch.export cannot trace this module with inputs {_shapes(example)}: {error}") from error
    return from_exported(exported, example)


def from_exported(exported: ExportedProgram, example: Mapping[str, NDArray[Any]]) -> Program:
    """The program of an ExportedProgram, batch norms folded."""
    import torch
    from torch.utils._pytree import tree_leaves

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: GraphModule = exported.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    _fold_batch_norms(module)
    module.graph.eliminate_dead_code()
    # a plain GraphModule: no input guards (other batches run), and only the tensors still in use
    module = torch.fx.GraphModule(module, module.graph)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    produced = next(node for node in module.graph.nodes if node.op == "output").args[0]
    count = len(tree_leaves(produced))
    names = ("logits",) if count == 1 else tuple(f"output_{i}" for i in range(count))
    return Program(module, dict(example), names, _sites(module))


def _shapes(example: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in example.items())


def _is_call(node: Node, *targets: str) -> bool:
    return node.op == "call_function" and str(node.target) in targets


def _weight_axis(node: Node) -> tuple[Node, int] | None:
    """The weight's node and channel axis, or None for an op that has no quantized weight."""
    if node.op != "call_function" or str(node.target) not in WEIGHT_OPS:
        return None
    index, axis = WEIGHT_OPS[str(node.target)]
    if str(node.target) == "aten.convolution.default" and node.args[6]:
        axis = 1
    weight = node.args[index]
    return (weight, axis) if getattr(weight, "op", "") == "get_attr" else None  # type: ignore[return-value]


def weighted(module: GraphModule) -> Iterator[tuple[Node, str, int]]:
    """The operations that read a quantizable weight, in order: node, name of the parameter, channel axis.

    A parameter that has two names goes by one.
    """
    tensors: dict[str, torch.Tensor] = dict([*module.named_parameters(), *module.named_buffers()])
    by_storage = {value.data_ptr(): name for name, value in reversed(list(tensors.items()))}
    for node in module.graph.nodes:
        found = _weight_axis(node)
        if found is None:
            continue
        value = _attribute(module, str(found[0].target))
        if value.is_floating_point():
            yield node, by_storage.get(value.data_ptr(), str(found[0].target)), found[1]


def _sites(module: GraphModule) -> dict[str, Site]:
    """Quantizable parameters; one that two ops share is listed once."""
    sites: dict[str, Site] = {}
    for node, name, axis in weighted(module):
        shape = tuple(_attribute(module, name).shape)
        sites.setdefault(name, Site(name, shape, axis, str(node.target)))
    return sites


def _attribute(module: GraphModule, path: str) -> torch.Tensor:
    return operator.attrgetter(path)(module)  # type: ignore[no-any-return]


def _fold_batch_norms(module: GraphModule) -> None:
    """conv -> batch norm becomes conv, where the conv's output and weight go nowhere else."""
    import torch

    graph = module.graph
    weight_users: dict[str, int] = {}
    for node in graph.nodes:
        found = _weight_axis(node)
        if found:
            weight_users[str(found[0].target)] = weight_users.get(str(found[0].target), 0) + 1
    for norm in list(graph.nodes):
        if not _is_call(norm, *_BATCH_NORM):
            continue
        training = norm.args[5] if str(norm.target) == _BATCH_NORM[0] else False
        source = norm.args[0]
        found = _weight_axis(source)
        if training or found is None or "embedding" in str(source.target) or len(source.users) > 1:
            continue
        path = str(found[0].target)
        if weight_users[path] > 1:
            continue
        eps = norm.args[7] if str(norm.target) == _BATCH_NORM[0] else norm.args[6]
        weight = _attribute(module, path)
        mean = _attribute(module, str(norm.args[3].target)).double()
        variance = _attribute(module, str(norm.args[4].target)).double()
        gamma, beta = (
            torch.full_like(mean, default) if held is None else _attribute(module, str(held.target)).double()
            for held, default in zip(norm.args[1:3], (1.0, 0.0), strict=True)
        )
        factor = (variance + eps).rsqrt() * gamma
        old = source.args[2] if len(source.args) > 2 else source.kwargs.get("bias")
        bias = torch.zeros_like(mean) if old is None else _attribute(module, str(old.target)).double()
        folded = (bias - mean) * factor + beta
        _set_parameter(module, path, _scaled(weight, factor, found[1]))
        bias_path = _free_name(module, path.rpartition(".")[0])
        _set_parameter(module, bias_path, folded.to(weight.dtype))
        with graph.inserting_before(source):
            held = graph.get_attr(bias_path)
        arguments = list(source.args) + [None] * (3 - len(source.args))
        arguments[2] = held
        source.args = tuple(arguments)
        source.kwargs = {key: value for key, value in source.kwargs.items() if key != "bias"}
        _replace(norm, source)


def _scaled(weight: torch.Tensor, factor: torch.Tensor, axis: int) -> torch.Tensor:
    """A weight, each output channel times its factor.

    A transposed convolution of g groups holds (in, out / g, ...): output channel i of group j, which only
    the j-th part of the inputs reaches, is number j * out / g + i.
    """
    import torch

    view = [-1 if each == axis else 1 for each in range(weight.dim())]
    groups = len(factor) // weight.shape[axis]
    parts = [
        part.double() * own.view(view)
        for part, own in zip(weight.chunk(groups) if groups > 1 else [weight], factor.chunk(groups), strict=True)
    ]
    return torch.cat(parts).to(weight.dtype)


def _replace(norm: Node, source: Node) -> None:
    """Let the users of a batch norm take its source; the native op hands them a tuple's first item."""
    graph = norm.graph
    if str(norm.target) == _BATCH_NORM[0]:
        norm.replace_all_uses_with(source)
    for user in list(norm.users):
        user.replace_all_uses_with(source)
        graph.erase_node(user)
    graph.erase_node(norm)


def _set_parameter(module: GraphModule, path: str, value: torch.Tensor) -> None:
    import torch

    owner, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))


def _free_name(module: GraphModule, owner: str) -> str:
    """A free name beside the weight for a folded bias (an old bias may be shared: it stays)."""
    taken = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    stem = f"{owner}.bias" if owner else "bias"
    return next(name for i in range(len(taken) + 1) if (name := stem + "_folded" * i) not in taken)
