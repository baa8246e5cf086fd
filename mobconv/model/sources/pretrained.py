"""Folders that `save_pretrained` of Hugging Face transformers wrote, and models of the hub by name (`hf:OWNER/NAME`).

https://huggingface.co/docs/transformers/main_classes/model. The library builds the network and loads the weights, with
its own renamings of their names; what it would draw at random is an error. Code from the folder or the hub is not run:
the class is one of the installed library's, pickles are read with `weights_only`, and a folder is loaded without a
network. Only `hf:` looks into the hub, and into its cache where it cannot be reached.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobconv.errors import BackendError, InputError, UsageError, setting
from mobconv.model import factory, image_processor, library
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, complete

if TYPE_CHECKING:
    import torch

KIND = "a folder that save_pretrained wrote"
_HUB = "hf:"
_CONFIG = "config.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_READ = ("*.json", "*.safetensors", "*.bin")
_LISTED = 8
# classes whose output is `logits`, beside which others have the same of a second head
_LOGITS_ALONE = ("ForImageClassification", "ForImageClassificationWithTeacher", "ForSemanticSegmentation")
_SIZES, _CHANNELS = ("image_size", "input_size", "img_size"), ("num_channels", "in_channels", "in_chans")


def accepts(reference: str) -> bool:
    """Whether a reference is a folder with a config.json that names a kind of model, or a name on the hub."""
    if reference.startswith(_HUB):
        return len(reference) > len(_HUB)
    try:
        return (
            bool(reference)
            and (Path(reference) / _CONFIG).is_file()
            and "model_type" in _json(Path(reference) / _CONFIG)
        )
    except (InputError, OSError):
        return False


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash configuration and weights. What the network computes is up to the library's release."""
    return Fingerprint(_sha256(_folder(reference)), packages=("transformers",))


def load(reference: str, options: Options) -> Checkpoint:
    """Load the network with the library's own class. See checkpoint.Source for errors."""
    folder = _folder(reference)
    digest = _sha256(folder)
    notes = [factory.NOT_CALLED] if options.factory else []
    _check_installed(reference)
    with _quiet():
        module = _network(folder, reference, notes)
        stated = _stated(module, folder, options, notes)
    if _input_name(module) == "pixel_values":
        stated.setdefault("input_shape", None)
        return complete(reference, digest, _named(module, ("pixel_values",)), options, stated, notes)
    return _of_other_inputs(reference, digest, module, options, notes)


def _of_other_inputs(reference: str, digest: str, module: Any, options: Options, notes: list[str]) -> Checkpoint:
    """The checkpoint of a network of tokens (whole numbers, with their mask) or of sound."""
    name = _input_name(module)
    if options.input_shape is None:
        raise UsageError(
            f"{reference} takes {name}, and does not say how long: say the input's shape, as in "
            f"{setting('input_shape', (1, 128))}"
        )
    if not name.endswith("_ids"):
        return complete(reference, digest, _named(module, (name,)), options, None, notes)
    inputs = {key: np.ones(options.input_shape, np.int64) for key in (name, "attention_mask")}
    factory.check_finite(module, reference)
    factory.settle(module)
    module = _named(module, tuple(inputs)).float().eval()
    return Checkpoint(reference, Path(reference).name, digest, module, inputs, None, (), notes)


def _folder(reference: str) -> Path:
    """The folder of a reference; of a name on the hub, its snapshot in the cache. Raises InputError."""
    if not reference.startswith(_HUB):
        return Path(reference)
    _check_installed(reference)
    from huggingface_hub import snapshot_download

    name, _, revision = reference.removeprefix(_HUB).partition("@")
    folder = None
    # weights in safetensors; pickles only where there are none
    for patterns in (["*.json", "*.safetensors"], ["*.json", "*.bin"]):
        try:
            folder = Path(
                snapshot_download(name, revision=revision or None, allow_patterns=patterns, ignore_patterns=["*/*"])
            )
        except Exception as error:  # of the network, of the hub, of a name that is none
            raise InputError(
                f"{reference}: not in the cache, and not to be had from the Hugging Face hub "
                f"({factory.first_sentence(error)}). Where there is a network: `hf download {name} --local-dir DIR`, "
                "and give the folder"
            ) from error
        if any(folder.glob("*.safetensors")):
            break
    if folder is None or not (folder / _CONFIG).is_file():
        raise InputError(f"{reference} has no {_CONFIG}: not a model of transformers")
    return folder


def _sha256(folder: Path) -> str:
    """Hash the names and contents of the files that are read."""
    digest = hashlib.sha256()
    paths = {path.name: path for pattern in _READ for path in folder.glob(pattern) if path.is_file()}
    for name in sorted(paths):
        with paths[name].open("rb") as stream:
            digest.update(f"{name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises InputError."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def _check_installed(reference: str) -> None:
    """Raise BackendError where the extra `transformers` is not installed."""
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        raise BackendError(
            f'{reference} needs transformers, which is not installed: pip install "mobconv[transformers]"'
        )


def _network(folder: Path, reference: str, notes: list[str]) -> Any:
    """Load the module, all of its tensors from the folder. Raises InputError."""
    import torch
    import transformers

    config = _json(folder / _CONFIG)
    _check_files(folder, config, reference)
    architecture = _architecture(config, reference)
    try:
        module, loading = architecture.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            dtype=torch.float32,
        )
    except Exception as error:  # the library raises dozens of types
        raise InputError(
            f"{reference}: transformers {transformers.__version__} cannot load it: {factory.first_sentence(error)}"
        ) from error
    missing = [key for key in sorted(loading["missing_keys"]) if not key.endswith("num_batches_tracked")]
    lines = _listing("missing from the files, and would be drawn at random", missing)
    mismatched = [
        key if isinstance(key, str) else f"{key[0]} {', expected '.join(str(tuple(shape)) for shape in key[1:3])}"
        for key in sorted(loading["mismatched_keys"], key=str)
    ]
    lines += _listing("of another shape", mismatched)
    lines += _listing("not loaded", [str(text) for text in loading.get("error_msgs") or ()])
    if lines:
        raise InputError(
            "\n".join([f"{reference} does not fit {architecture.__name__}, which its {_CONFIG} names:", *lines])
        )
    if unexpected := sorted(loading["unexpected_keys"]):
        more = f" and {len(unexpected) - _LISTED} more" if len(unexpected) > _LISTED else ""
        notes.append(f"left out, as the network has no such tensors: {', '.join(unexpected[:_LISTED])}{more}")
    return module


def _listing(title: str, names: list[str]) -> list[str]:
    more = f"\n    ... and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return [f"  {len(names)} {title}:\n    " + "\n    ".join(names[:_LISTED]) + more] if names else []


def _check_files(folder: Path, config: Mapping[str, Any], reference: str) -> None:
    """Raise InputError for files that lead elsewhere: to adapters, quantizers, kernels of the hub, other folders."""
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{reference}: weights of an adapter (PEFT): merge it, model.merge_and_unload(), and save that"
        )
    if config.get("quantization_config"):
        raise InputError(f"{reference}: its weights are quantized already; give the float ones")
    for index in folder.glob("*.index.json"):
        names = _json(index).get("weight_map", {})
        if not isinstance(names, dict) or any(Path(str(name)).name != name for name in names.values()):
            raise InputError(f"{index}: names files outside of its folder")
    for key, value in _leaves(config):
        if "attn_implementation" in key and isinstance(value, str) and "/" in value:
            raise InputError(f"{reference}: {_CONFIG} asks for code of the hub, {value!r}, which is not run")
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if not weights:
        raise InputError(f"{reference}: no weights in it (model.safetensors, or pytorch_model.bin)")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, str(name))
    else:
        yield key, value


def _architecture(config: Mapping[str, Any], reference: str) -> Any:
    """The class that a config names, of the installed library. Raises InputError."""
    import transformers

    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str):
        raise InputError(f"{reference}: {_CONFIG} does not name the network's class under 'architectures'")
    architecture = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel):
        return architecture
    if config.get("auto_map"):
        raise InputError(
            f"{reference}: its class {name} is code beside the weights, which is not run. Import it yourself: give the "
            f"file of weights, and {setting('model', 'package.module:factory')}"
        )
    raise InputError(f"{reference}: transformers {transformers.__version__} has no network {name}; is it newer?")


def _stated(module: Any, folder: Path, options: Options, notes: list[str]) -> dict[str, Any]:
    """What the files say of input shape, preprocessing and labels, for checkpoint.complete."""
    stated: dict[str, Any] = {}
    if _input_name(module) == "pixel_values":
        channels = _of_config(module.config, _CHANNELS) or 3
        size: Sequence[int] = _pair(_of_config(module.config, _SIZES))
        if options.input_shape is not None and len(options.input_shape) == 4:
            _, channels, *size = options.input_shape
        preprocessing = options.preprocessing or _preprocessing(folder, int(channels), notes)
        taken = preprocessing.size if preprocessing else None
        if taken and options.input_shape is None:
            if size and tuple(size) != taken:
                notes.append(
                    f"images are {taken[0]}x{taken[1]}, by its preprocessing; {_CONFIG} says {size[0]}x{size[1]}"
                )
            size = taken
        if size:
            stated["input_shape"] = [1, int(channels), *map(int, size)]
        if preprocessing and options.preprocessing is None:
            if taken and tuple(size) != taken:
                notes.append(f"images are resized to {size[0]}x{size[1]}, the shape that you state")
                preprocessing = _of_size(preprocessing, (size[0], size[1]))
            stated["preprocessing"] = preprocessing.to_json()
    stated["labels"] = _labels(module)
    return stated


def _of_size(preprocessing: Any, size: tuple[int, int]) -> Any:
    from dataclasses import replace

    return replace(preprocessing, size=size, resize=size if isinstance(preprocessing.resize, tuple) else None)


def _preprocessing(folder: Path, channels: int, notes: list[str]) -> Any:
    """The preprocessing of a folder's image processor; None, with a note, where it is another one than ours can be."""
    path = next((folder / name for name in _PROCESSORS if (folder / name).is_file()), None)
    if path is None:
        notes.append("it has no preprocessor_config.json: how pixels are normalised is not known")
        return None
    config = _json(path)
    config = config.get("image_processor", config)
    advice = "; say it with the setting `preprocessing`"
    processor = _processor(folder)
    try:
        if processor is None and not {"do_resize", "do_rescale", "do_normalize"} <= set(config):
            raise InputError("it leaves steps to its class, which does not load here")
        settings = {**config, **(processor.to_dict() if processor else {})}
        preprocessing = image_processor.preprocessing_of(settings, channels)
        same = processor is None or not image_processor.differs(preprocessing, processor)
    except InputError as error:
        notes.append(f"preprocessing not taken from {path.name}: {error.text}{advice}")
        return None
    except Exception as error:  # of the library's processor
        notes.append(f"preprocessing not taken from {path.name}: {factory.first_sentence(error)}{advice}")
        return None
    if not same:
        notes.append(
            f"preprocessing not taken from {path.name}: {type(processor).__name__} has steps of its own{advice}"
        )
        return None
    return preprocessing


def _processor(folder: Path) -> Any:
    """The library's own image processor, or None where it does not load here."""
    try:
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            str(folder), local_files_only=True, trust_remote_code=False, backend="pil"
        )
    except Exception:  # without torchvision, for one
        return None


def _labels(module: Any) -> list[str]:
    """Names of the classes, of a network that has them; names that the library makes up are none."""
    names = getattr(module.config, "id2label", None) or {}
    if not any(type(module).__name__.endswith(end) for end in _LOGITS_ALONE):
        return []
    labels = [str(names[key]) for key in sorted(names)]
    if sorted(names) != list(range(len(names))) or labels == [f"LABEL_{number}" for number in range(len(names))]:
        return []
    return library.unique(labels)


def _of_config(config: Any, names: tuple[str, ...]) -> Any:
    """The first of some settings, of a config or of its parts for images."""
    parts = [config, *(getattr(config, name, None) for name in ("vision_config", "backbone_config"))]
    return next((value for part in parts for name in names if (value := getattr(part, name, None))), None)


def _pair(size: Any) -> list[int]:
    """Height and width of a config's image size; [] where it is neither a number nor a pair."""
    if isinstance(size, int):
        return [size, size]
    return list(size) if isinstance(size, list | tuple) and len(size) == 2 else []


def _input_name(module: Any) -> str:
    return str(getattr(module, "main_input_name", "input_ids"))


def _named(module: Any, inputs: tuple[str, ...]) -> torch.nn.Module:
    """The same module, called by position, with tensors as outputs: `logits`, or each output under its name.

    Names of weights stay the library's: layer rules name them.
    """
    import torch

    library = type(module)
    alone = library.__name__.endswith(_LOGITS_ALONE)

    class Named(library):  # type: ignore[misc, valid-type]
        """The library's class with positional inputs and plain outputs."""

        def forward(self, *values: torch.Tensor) -> Any:
            """Outputs as a tensor, or as a mapping of tensors."""
            outputs = super().forward(**dict(zip(inputs, values, strict=True)), return_dict=True)
            tensors = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
            return tensors["logits"] if alone or list(tensors) == ["logits"] else tensors

    Named.__name__ = library.__name__
    for name in ("use_cache", "output_hidden_states", "output_attentions"):
        if getattr(module.config, name, False):
            setattr(module.config, name, False)
    module.__class__ = Named
    result: torch.nn.Module = module
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars, warnings and logs."""
    level, shown = logging.root.manager.disable, False
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers.utils import logging as theirs

            shown = theirs.is_progress_bar_enabled()
            theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
            yield
    finally:
        logging.disable(level)
        if shown:
            theirs.enable_progress_bar()  # type: ignore[no-untyped-call]
