"""coremltools.optimize.coreml on the network that mobconv converts: batch norm folded, weights the same bit for bit.

The configuration names each weight (`op_name_configs`), with a threshold of 0, so that both sides compress the same
tensors. The defaults leave out tensors of 2,048 weights and fewer, and without names they would compress the biases.
`num_kmeans_workers` stays 1: the workers share the groups of a tensor, and here a tensor is one group.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rival import Rival, Weights

from mobconv.backends.coreml import package
from mobconv.backends.coreml.graph import parse
from mobconv.schemes import Cell, Compute, Mode, Scheme

if TYPE_CHECKING:
    from mobconv.model.program import Program

TOOL = "coremltools"
OPERATIONS = ("conv", "conv_transpose", "linear")
# Widths of coremltools' k-means and linear quantization -> the oldest deployment target with that type.
KMEANS = {8: "iOS16", 6: "iOS16", 4: "iOS16", 3: "iOS18", 2: "iOS16", 1: "iOS16"}
LINEAR = {8: "iOS16", 4: "iOS18"}


def float_model(program: Program, compute: Compute, target: str) -> Any:
    """Convert the network to an MLModel in memory, as coremltools documents it."""
    import coremltools as ct

    return ct.convert(
        program.exported().run_decompositions({}),
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT16 if compute is Compute.FP16 else ct.precision.FLOAT32,
        outputs=[ct.TensorType(name=name) for name in program.outputs],
        skip_model_load=True,
    )


def weight_names(model: Any) -> list[str]:
    """Names of the constants that are weights of layers, as coremltools lists them; biases have one axis."""
    import coremltools.optimize as cto

    constants = cto.coreml.get_weights_metadata(model, weight_threshold=1)
    users = {name: {op.op_type for op in constant.child_ops} for name, constant in constants.items()}
    return [name for name, constant in constants.items() if constant.val.ndim > 1 and users[name] & set(OPERATIONS)]


def compressed(model: Any, names: list[str], scheme: Scheme) -> Any:
    """Compress a model with palettize_weights (k-means) or linear_quantize_weights (linear, symmetric)."""
    import coremltools.optimize.coreml as cto

    if scheme.mode is Mode.KMEANS:
        config = cto.OpPalettizerConfig(mode="kmeans", nbits=scheme.bits, weight_threshold=0)
        run = cto.palettize_weights
    else:
        mode = "linear" if scheme.mode is Mode.LINEAR else "linear_symmetric"
        config = cto.OpLinearQuantizerConfig(mode=mode, dtype=f"int{scheme.bits}", weight_threshold=0)
        run = cto.linear_quantize_weights
    return run(model, cto.OptimizationConfig(op_name_configs=dict.fromkeys(names, config)))


def decode(path: Path, program: Program) -> Weights:
    """Weights of a package, the vendor's or mobconv's, in the precision in which the program reads them.

    The layers must be in the program's order. Raises ValueError where they are not.
    """
    graph = parse(package.read(path))
    names = [step.inputs["weight"][0] for step in graph.operations if step.kind in OPERATIONS]
    values = [np.asarray(graph.constants[name], np.float32) for name in dict.fromkeys(names)]
    sites = list(program.sites.values())
    if [value.shape for value in values] != [site.shape for site in sites]:
        raise ValueError(f"{path}: its layers are not those of the network, in order")
    return {site.name: value for site, value in zip(sites, values, strict=True)}


def rivals(program: Program, cells: list[Cell]) -> list[Rival]:
    """coremltools' ways to the cells that it can make; each float model is converted once."""
    models: dict[tuple[Compute, str], tuple[Any, list[str]]] = {}
    ways = []
    for cell in cells:
        kmeans = cell.scheme.mode is Mode.KMEANS
        target = (KMEANS if kmeans else LINEAR).get(cell.scheme.bits)
        if target is None:
            continue
        if (cell.compute, target) not in models:
            model = float_model(program, cell.compute, target)
            models[cell.compute, target] = (model, weight_names(model))
        model, names = models[cell.compute, target]
        if len(names) != len(program.sites):
            raise ValueError(f"coremltools lists {len(names)} weights, the network has {len(program.sites)}")

        def compress(path: Path, model: Any = model, names: list[str] = names, scheme: Scheme = cell.scheme) -> None:
            compressed(model, names, scheme).save(str(path))

        call = "palettize_weights" if kmeans else "linear_quantize_weights"
        ways.append(Rival(TOOL, call, cell, "mlpackage", compress, lambda path: decode(path, program)))
    return ways
