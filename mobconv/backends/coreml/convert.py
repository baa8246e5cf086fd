"""A program -> float templates on disk, with the map of where each parameter lives in them.

    template/
        iOS16.mlpackage    the program at the oldest target that converts it (iOS16, else iOS17, else iOS18)
        iOS18.mlpackage    the same program raised to iOS18, for the forms that need it
        map.json           {"places": ..., "targets": [...], "floats": [...], "base": {...}, "biases": ...}

The network is converted once, with fingerprints for weights, computing in fp32. coremltools' own passes then change
the saved program: they raise it to iOS18 and, for compute fp16, cast every operation to fp16. That cast rounds
fingerprints, so the weights carry their digits in base 2048 through it instead, which fp16 represents exactly: one run
of the pass for each digit, and the digits are put together again afterwards. So do the biases, in all runs but the
last, whose result is the template and has their real values.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import bias_map, weight_map
from mobconv.backends.apple import lowering
from mobconv.backends.apple.vendor import coremltools, passes_but, quiet
from mobconv.backends.coreml import image, image_type, mil, package
from mobconv.backends.coreml.package import Package
from mobconv.backends.coreml.rewrite import build, main_block, stored_count
from mobconv.backends.weight_map import Places
from mobconv.errors import BackendError, shortened
from mobconv.model.program import Program
from mobconv.quantize.weights import FloatWeight, Weight
from mobconv.schemes import Compute

# name of a target -> specification version (coremltools: _SPECIFICATION_VERSION_IOS_16 and so on)
TARGETS = {"iOS16": 7, "iOS17": 8, "iOS18": 9}
_DIGIT = 2048  # fp16 represents every integer up to here


def convert(program: Program, compute: Compute, directory: Path, options: Mapping[str, Any] | None = None) -> None:
    """Write the templates of a program into an existing empty folder.

    options: see `image_type`. Raises BackendError with the converter's message when it refuses the network, and for a
    weight that the converted program does not have.
    """
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        inputs = image_type.converter_inputs(program, options)
        target, first = _convert_once(program, scratch / "fp32.mlpackage", inputs)
        if not all(weight_map.search(constants(first), program.sites).values()):
            target, first = _convert_once(program, scratch / "separate.mlpackage", inputs, lowering.MERGING)
        places = weight_map.locate(constants(first), program.sites)
        weights_keys = {place.key for placements in places.values() for place in placements}
        biases = bias_map.locate(constants(first), weights_keys, program)
        if compute is Compute.FP16:
            first, places, biases = _to_fp16(first, places, biases, program, TARGETS[target], scratch)
        floats = _float_parameters(first, places, program)
        templates = {target: first}
        if target != "iOS18":
            templates["iOS18"] = _raised(first, scratch / "iOS18.mlpackage")
            _same_constants(first, templates["iOS18"])
        # a number for each tensor, so that no two are equal and stored once
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
            base[name] = sum(map(len, files.values())) - width * stored_count(places)
        weight_map.save(
            directory / "map.json",
            places,
            {"compute": compute.value, "targets": list(templates), "floats": floats, "base": base},
            biases,
        )


def constants(template: Package) -> Iterator[tuple[str, NDArray[Any]]]:
    """(name, values) of every constant tensor of the main function."""
    for op in main_block(template.spec).operations:
        if op.type == "const" and op.outputs:
            value = mil.read_value(op.attributes["val"], template.read_blob)
            if isinstance(value, np.ndarray):
                yield op.outputs[0].name, value


def _convert_once(
    program: Program, path: Path, inputs: list[Any] | None, without: Collection[str] = ()
) -> tuple[str, Package]:
    """Convert at the oldest target that can -> its name, and the package.

    inputs: for coremltools.convert; without: passes of coremltools that are left out.
    """
    ct = coremltools()
    with quiet():
        exported = lowering.exported(weight_map.placeholder(program))
    for name in TARGETS:
        try:
            with quiet():
                model = ct.convert(
                    exported,
                    convert_to="mlprogram",
                    minimum_deployment_target=getattr(ct.target, name),
                    compute_precision=ct.precision.FLOAT32,
                    inputs=inputs,
                    outputs=[ct.TensorType(name=output) for output in program.outputs],
                    pass_pipeline=passes_but(without),
                    skip_model_load=True,
                )
                model.save(str(path))
            break
        except Exception as error:  # the converter raises dozens of types
            if name == "iOS18":
                raise BackendError(f"coremltools cannot convert this network: {shortened(error)}") from error
    converted = package.read(path)
    _clean(converted.spec)
    _rename_inputs(converted.spec, list(program.example))
    return name, converted


def _rename_inputs(spec: Any, names: list[str]) -> None:
    """Give inputs the program's names, in order (the converter uses those of `forward`)."""
    main, block = spec.mlProgram.functions["main"], main_block(spec)
    if len(main.inputs) != len(names):
        converted = ", ".join(entry.name for entry in main.inputs) or "none"
        raise BackendError(f"the converted network has the inputs {converted}, the program {', '.join(names)}")
    new = {entry.name: name for entry, name in zip(main.inputs, names, strict=True)}
    inner = {output.name for op in block.operations for output in op.outputs}
    clash = inner.intersection(names)
    if clash:
        raise BackendError(f"the input name {', '.join(sorted(clash))} is in use within the network; choose another")
    for entry in [*main.inputs, *spec.description.input]:
        entry.name = new.get(entry.name, entry.name)
    bindings = (b for op in block.operations for argument in op.inputs.values() for b in argument.arguments)
    for binding in bindings:
        if binding.WhichOneof("binding") == "name":
            binding.name = new.get(binding.name, binding.name)


def _clean(spec: Any) -> None:
    """Drop the date of conversion, and constants that the program has twice."""
    metadata = spec.description.metadata.userDefined
    for key in [key for key in metadata if key.endswith(".conversion_date")]:
        del metadata[key]
    _share_constants(main_block(spec))


def _share_constants(block: Any) -> None:
    """Keep one constant for all equal strides, pads, bounds and so on: coremltools writes one for each operation.

    Float tensors stay as they are, since other values will replace theirs. In a MobileNetV2 this saves 35 of 84 KB.
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


def _to_fp16(
    source: Package, places: Places, biases: Places, program: Program, version: int, scratch: Path
) -> tuple[Package, Places, Places]:
    """coremltools' cast to fp16, and the places of weights and biases in its result.

    Normalisation of pixels stays in fp32.
    """
    sites, edges = program.sites, set(program.example) if program.image else set()

    def cast(op: Any) -> bool:
        return not image.normalises(op, edges)

    indices = {name: values.view(np.int32) for name, values in weight_map.fingerprints(dict(sites)).items()}
    largest = max(int(values.max()) for values in indices.values()) if indices else 0
    numbers: dict[str, NDArray[np.int64]] = {}
    numbered = bias_map.numbered(program, biases)
    numbers_of_biases: dict[str, NDArray[np.int64]] = {}
    for power in itertools.count():
        if _DIGIT**power > largest and power:
            break
        digits: dict[str, Weight] = {
            name: FloatWeight(name, (values // _DIGIT**power % _DIGIT).astype(np.float32))
            for name, values in indices.items()
        }
        last = _DIGIT ** (power + 1) > largest
        of_biases = {
            place.key: place.place((numbered[name] // _DIGIT**power % _DIGIT).astype(np.float32))
            for name, placements in biases.items()
            for place in placements
            if not last
        }
        before = scratch / f"digit{power}.mlpackage"
        package.write(before, build(source, places, digits, floats=(), biases=of_biases))
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
                number = numbers.setdefault(key, np.zeros(value.shape, np.int64))
                number += value.astype(np.int64) * _DIGIT**power
                if not last:
                    numbers_of_biases[key] = number.copy()
    whole = [(key, value.astype(np.int32).view(np.float32)) for key, value in numbers.items()]
    places = weight_map.locate(whole, sites)
    weights_keys = {place.key for placements in places.values() for place in placements}
    others = {key: value for key, value in numbers_of_biases.items() if key not in weights_keys}
    return after, places, bias_map.locate_numbered(others.items(), numbered)


def _raised(source: Package, path: Path) -> Package:
    """The same program for iOS18."""
    before = path.with_name("before.mlpackage")
    package.write(before, _contents(source))
    return _passed(before, path, TARGETS["iOS18"], [])


def _passed(
    before: Path, after: Path, version: int, passes: list[str], options: Mapping[str, dict[str, Any]] | None = None
) -> Package:
    """Load a package into coremltools, run some of its passes, and save it at a specification version."""
    ct = coremltools()
    try:
        with quiet():
            from coremltools.converters.mil.converter import mil_convert
            from coremltools.converters.mil.frontend.milproto.load import load
            from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

            model = ct.models.MLModel(str(before), skip_model_load=True)
            spec = model.get_spec()
            loaded = load(spec, specification_version=version, file_weights_dir=model.weights_dir)
            # run here, as mil_convert drops the cast to fp16 from the passes that it is given
            pipeline = ct.PassPipeline(passes, "mobconv")
            for name, settings in (options or {}).items():
                pipeline.set_options(name, settings)
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
        raise BackendError(f"coremltools cannot rewrite the network that it converted: {shortened(error)}") from error
    rewritten = package.read(after)
    _clean(rewritten.spec)
    return rewritten


def _same_constants(first: Package, second: Package) -> None:
    """Raise BackendError unless both have the same weights under the same names."""
    others = dict(constants(second))
    for key, value in constants(first):
        if value.dtype.kind == "f" and not (key in others and np.array_equal(others[key], value, equal_nan=True)):
            raise BackendError(f"coremltools changed the constant {key} when it raised the program to iOS18")


def _float_parameters(template: Package, places: Places, program: Program) -> list[str]:
    """Names of constants that are the other float parameters (biases and so on), found by their values."""
    placed = {place.key for placements in places.values() for place in placements}
    values: set[bytes] = set()
    for name, value in program.floats().items():
        if name not in program.sites and np.all(np.abs(value) <= np.finfo(np.float16).max):
            values.update((value.ravel().tobytes(), value.T.ravel().tobytes()))
    return [
        key
        for key, value in constants(template)
        if key not in placed and value.ndim and value.dtype == np.float32 and value.ravel().tobytes() in values
    ]


def _contents(template: Package) -> dict[str, bytes]:
    """The files of a package, unchanged but in our deterministic form."""
    return build(template, {}, {}, floats=())
