"""A program -> float templates on disk, with the map of where each parameter lives in them.

    template/
        iOS16.mlpackage    the program at the oldest target that takes it (iOS16, else iOS17, else iOS18)
        iOS18.mlpackage    the same raised to iOS18, for the forms that need it
        map.json           {"places": ..., "targets": [...], "floats": [...], "base": {...}}

The network is converted once, with fingerprints for weights and computing in fp32. What else is made of
it are coremltools' own passes over the saved program: raising it to iOS18 and, for compute fp16, its cast
of every op to fp16. That cast keeps no fingerprints, so the weights carry digits in base 2048 through it
instead, which fp16 holds exactly: one run of the pass a digit, put together again afterwards.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import weight_map
from mobconv.backends.coreml import image, mil, package
from mobconv.backends.coreml.package import Package
from mobconv.backends.coreml.rewrite import build, held_count, main_block
from mobconv.backends.coreml.vendor import coremltools, quiet
from mobconv.backends.weight_map import Places
from mobconv.errors import BackendError
from mobconv.model.trace import Program
from mobconv.quantize.weights import FloatWeight, Weight
from mobconv.schemes import Compute

# name of a target -> specification version (coremltools: _SPECIFICATION_VERSION_IOS_16 and so on)
TARGETS = {"iOS16": 7, "iOS17": 8, "iOS18": 9}
_DIGIT = 2048  # fp16 holds every integer up to here


def convert(program: Program, compute: Compute, directory: Path) -> None:
    """Write the templates of a program into an existing empty folder.

    Raises BackendError with the converter's own words when it refuses, or when a weight cannot be found
    in what it made.
    """
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        target, first = _convert_once(program, scratch / "fp32.mlpackage")
        places = weight_map.locate(constants(first), program.sites)
        if compute is Compute.FP16:
            first, places = _to_fp16(first, places, program, TARGETS[target], scratch)
        floats = _float_parameters(first, places, program)
        templates = {target: first}
        if target != "iOS18":
            templates["iOS18"] = _raised(first, scratch / "iOS18.mlpackage")
            _same_constants(first, templates["iOS18"])
        # one number a tensor, so that no two are equal and stored once
        weights: dict[str, Weight] = {
            name: FloatWeight(name, np.full(site.shape, i % _DIGIT, np.float32))
            for i, (name, site) in enumerate(program.sites.items(), 1)
        }
        width = 2 if compute is Compute.FP16 else 4
        base = {}
        for name, template in templates.items():
            if program.image:
                image.declare(template.spec, program.image, program.labels)
            package.write(directory / f"{name}.mlpackage", _contents(template))
            files = build(template, places, weights, floats=())
            base[name] = sum(map(len, files.values())) - width * held_count(places)
        weight_map.save(
            directory / "map.json",
            places,
            {"compute": compute.value, "targets": list(templates), "floats": floats, "base": base},
        )


def constants(template: Package) -> Iterator[tuple[str, NDArray[Any]]]:
    """(name, value) of every constant of the main function that is a tensor."""
    for op in main_block(template.spec).operations:
        if op.type == "const" and op.outputs:
            value = mil.read_value(op.attributes["val"], template.read_blob)
            if isinstance(value, np.ndarray):
                yield op.outputs[0].name, value


def _convert_once(program: Program, path: Path) -> tuple[str, Package]:
    """Convert at the oldest target that takes the program -> its name, and the package."""
    ct = coremltools()
    with quiet():
        exported = weight_map.placeholder(program).exported().run_decompositions({})
    for name in TARGETS:
        try:
            with quiet():
                model = ct.convert(
                    exported,
                    convert_to="mlprogram",
                    minimum_deployment_target=getattr(ct.target, name),
                    compute_precision=ct.precision.FLOAT32,
                    inputs=_image_types(program),
                    outputs=[ct.TensorType(name=output) for output in program.outputs],
                    skip_model_load=True,
                )
                model.save(str(path))
            break
        except Exception as error:  # the converter raises dozens of types
            if name == "iOS18":
                raise BackendError(f"coremltools cannot convert this network: {error}") from error
    found = package.read(path)
    _clean(found.spec)
    _rename_inputs(found.spec, list(program.example))
    return name, found


def _image_types(program: Program) -> list[Any] | None:
    """coremltools' own image input, where its scale and bias are asked for; None for inputs as they are traced."""
    if program.scaled is None:
        return None
    ct, (scale, bias) = coremltools(), program.scaled
    shape = next(iter(program.example.values())).shape
    layout = getattr(ct.colorlayout, program.image.upper())
    return [ct.ImageType(shape=shape, scale=scale, bias=list(bias), color_layout=layout)]


def _rename_inputs(spec: Any, names: list[str]) -> None:
    """Give the inputs the names of the program's, in order (the converter takes those of `forward`)."""
    main, block = spec.mlProgram.functions["main"], main_block(spec)
    if len(main.inputs) != len(names):
        found = ", ".join(held.name for held in main.inputs)
        raise BackendError(f"the converted network takes {found or 'nothing'}, the program {', '.join(names)}")
    new = {held.name: name for held, name in zip(main.inputs, names, strict=True)}
    taken = {output.name for op in block.operations for output in op.outputs}
    clash = taken.intersection(names)
    if clash:
        raise BackendError(f"the input name {', '.join(sorted(clash))} is taken within the network; choose another")
    for held in [*main.inputs, *spec.description.input]:
        held.name = new.get(held.name, held.name)
    bindings = (b for op in block.operations for argument in op.inputs.values() for b in argument.arguments)
    for binding in bindings:
        if binding.WhichOneof("binding") == "name":
            binding.name = new.get(binding.name, binding.name)


def _clean(spec: Any) -> None:
    """Drop what would differ from day to day, and constants that the program has already."""
    metadata = spec.description.metadata.userDefined
    for key in [key for key in metadata if key.endswith(".conversion_date")]:
        del metadata[key]
    _share_constants(main_block(spec))


def _share_constants(block: Any) -> None:
    """One constant for all equal strides, pads, bounds and the like: coremltools writes each op its own.

    Float tensors stay as they are: other values will come into them. In a MobileNetV2 this is 35 of 84 KB.
    """
    if any(op.blocks for op in block.operations):  # loops and branches read names from outside
        return
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    kept = []
    for op in block.operations:
        if op.type == "const" and op.outputs[0].name not in block.outputs:
            value = op.attributes["val"]
            floating = mil.dtype_name(value.type).startswith("FLOAT") and len(mil.shape_of(value.type)) > 0
            if value.WhichOneof("value") == "immediateValue" and not floating:
                name = op.outputs[0].name
                original = first.setdefault(value.SerializeToString(deterministic=True), name)
                if original != name:
                    instead[name] = original
                    continue
        kept.append(type(op).FromString(op.SerializeToString(deterministic=True)))
    for op in kept:
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = instead.get(binding.name, binding.name)
    del block.operations[:]
    block.operations.extend(kept)


def _to_fp16(source: Package, places: Places, program: Program, version: int, scratch: Path) -> tuple[Package, Places]:
    """coremltools' cast to fp16, with the weights placed again. What normalises pixels stays in fp32."""
    sites, edges = program.sites, set(program.example) if program.image else set()

    def cast(op: Any) -> bool:
        return not image.normalises(op, edges)

    indices = {name: values.view(np.int32) for name, values in weight_map.fingerprints(dict(sites)).items()}
    largest = max(int(values.max()) for values in indices.values()) if indices else 0
    found: dict[str, NDArray[np.int64]] = {}
    for power in itertools.count():
        if _DIGIT**power > largest and power:
            break
        digits: dict[str, Weight] = {
            name: FloatWeight(name, (values // _DIGIT**power % _DIGIT).astype(np.float32))
            for name, values in indices.items()
        }
        before = scratch / f"digit{power}.mlpackage"
        package.write(before, build(source, places, digits, floats=()))
        after = _passed(
            before,
            scratch / f"digit{power}-fp16.mlpackage",
            version,
            [
                "common::add_fp16_cast",
                "common::cast_optimization",
                "common::const_elimination",
                "common::dead_code_elimination",
            ],
            {"common::add_fp16_cast": {"op_selector": cast}},
        )
        for key, value in constants(after):
            integers = value.dtype == np.float16 and value.ndim and np.all((value >= 0) & (value < _DIGIT))
            if integers and np.all(value == np.floor(value)):
                held = found.setdefault(key, np.zeros(value.shape, np.int64))
                held += value.astype(np.int64) * _DIGIT**power
    whole = ((key, value.astype(np.int32).view(np.float32)) for key, value in found.items())
    return after, weight_map.locate(whole, sites)


def _raised(source: Package, path: Path) -> Package:
    """The same program for iOS18."""
    before = path.with_name("before.mlpackage")
    package.write(before, _contents(source))
    return _passed(before, path, TARGETS["iOS18"], [])


def _passed(
    before: Path, after: Path, version: int, passes: list[str], options: Mapping[str, dict[str, Any]] | None = None
) -> Package:
    """Load a package into coremltools, run some of its passes, save it at a specification version."""
    ct = coremltools()
    try:
        with quiet():
            from coremltools.converters.mil.converter import mil_convert
            from coremltools.converters.mil.frontend.milproto.load import load
            from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

            model = ct.models.MLModel(str(before), skip_model_load=True)
            spec = model.get_spec()
            loaded = load(spec, specification_version=version, file_weights_dir=model.weights_dir)
            # here, for mil_convert drops the cast to fp16 from the passes that it is given
            pipeline = ct.PassPipeline(passes, "mobconv")
            for name, held in (options or {}).items():
                pipeline.set_options(name, held)
            PassPipelineManager.apply_pipeline(loaded, pipeline)
            mil_convert(
                loaded,
                convert_from="milinternal",
                convert_to="mlprogram",
                specification_version=version,
                compute_units=ct.ComputeUnit.ALL,
                model_description=spec.description,
                pass_pipeline=ct.PassPipeline.EMPTY,
                skip_model_load=True,
            ).save(str(after))
    except Exception as error:
        raise BackendError(f"coremltools cannot rewrite the network it converted: {error}") from error
    found = package.read(after)
    _clean(found.spec)
    return found


def _same_constants(first: Package, second: Package) -> None:
    """Raises BackendError unless both hold the same weights under the same names."""
    held = dict(constants(second))
    for key, value in constants(first):
        if value.dtype.kind == "f" and not (key in held and np.array_equal(held[key], value, equal_nan=True)):
            raise BackendError(f"coremltools changed the constant {key} when it raised the program to iOS18")


def _float_parameters(template: Package, places: Places, program: Program) -> list[str]:
    """Names of constants that hold the other float parameters (biases and so on), told by their value."""
    taken = {found.key for held in places.values() for found in held}
    values: set[bytes] = set()
    for name, value in program.floats().items():
        if name not in program.sites and np.all(np.abs(value) <= np.finfo(np.float16).max):
            values.update((value.ravel().tobytes(), value.T.ravel().tobytes()))
    return [
        key
        for key, value in constants(template)
        if key not in taken and value.ndim and value.dtype == np.float32 and value.ravel().tobytes() in values
    ]


def _contents(template: Package) -> dict[str, bytes]:
    """The package as it is, in our own deterministic form."""
    return build(template, {}, {}, floats=())
