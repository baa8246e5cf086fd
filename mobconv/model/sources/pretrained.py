"""Folders that `save_pretrained` of Hugging Face transformers wrote, and models of the hub by name (`hf:OWNER/NAME`).

https://huggingface.co/docs/transformers/main_classes/model. The library builds the network and loads the weights, with
its own renamings of their names; what it would draw at random is an error. Code from the folder or the hub is not run:
the class is one of the installed library's, pickles are read with `weights_only`, and a folder is loaded without a
network. Only `hf:` looks into the hub, and into its cache where it cannot be reached.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobconv.errors import InputError, UsageError, setting
from mobconv.model import factory, image_processor, library, pretrained_folder
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, complete
from mobconv.model.pretrained_folder import CONFIG, HUB, PROCESSORS

if TYPE_CHECKING:
    import torch

KIND = "a folder that save_pretrained wrote"
_LISTED = 8
# classes whose output is `logits`, beside which others have the same of a second head
_LOGITS_ALONE = ("ForImageClassification", "ForImageClassificationWithTeacher", "ForSemanticSegmentation")
_SIZES, _CHANNELS = ("image_size", "input_size", "img_size"), ("num_channels", "in_channels", "in_chans")


def accepts(reference: str) -> bool:
    """Whether a reference is a folder with a config.json that names a kind of model, or a name on the hub."""
    if reference.startswith(HUB):
        return len(reference) > len(HUB)
    try:  # timm's folders have a config.json too, without a model_type
        return (
            bool(reference)
            and (Path(reference) / CONFIG).is_file()
            and "model_type" in pretrained_folder.read_json(Path(reference) / CONFIG)
        )
    except (InputError, OSError):
        return False


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash configuration and weights. What the network computes is up to the library's release."""
    return Fingerprint(pretrained_folder.sha256(pretrained_folder.folder_of(reference)), packages=("transformers",))


def load(reference: str, options: Options) -> Checkpoint:
    """Load the network with the library's own class. See checkpoint.Source for errors."""
    folder = pretrained_folder.folder_of(reference)
    digest = pretrained_folder.sha256(folder)
    notes = [factory.NOT_CALLED] if options.factory else []
    pretrained_folder.check_installed(reference)
    with _quiet(), pretrained_folder.offline():
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


def _network(folder: Path, reference: str, notes: list[str]) -> Any:
    """Load the module, all of its tensors from the folder. Raises InputError."""
    import torch
    import transformers

    config = pretrained_folder.read_json(folder / CONFIG)
    pretrained_folder.check_files(folder, config, reference)
    architecture = _architecture(config, reference)
    pretrained_folder.check_size(architecture, folder, reference)
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
            "\n".join([f"{reference} does not fit {architecture.__name__}, which its {CONFIG} names:", *lines])
        )
    if unexpected := sorted(loading["unexpected_keys"]):
        more = f" and {len(unexpected) - _LISTED} more" if len(unexpected) > _LISTED else ""
        notes.append(f"left out, as the network has no such tensors: {', '.join(unexpected[:_LISTED])}{more}")
    return module


def _listing(title: str, names: list[str]) -> list[str]:
    more = f"\n    ... and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return [f"  {len(names)} {title}:\n    " + "\n    ".join(names[:_LISTED]) + more] if names else []


def _architecture(config: Mapping[str, Any], reference: str) -> Any:
    """The class that a config names, of the installed library. Raises InputError."""
    import transformers

    if isinstance(config.get("architecture"), str):
        raise InputError(
            f"{reference} is a network of timm, not of transformers: name it timm:hf-hub:{reference.removeprefix(HUB)}"
        )
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str):
        raise InputError(f"{reference}: {CONFIG} does not name the network's class under 'architectures'")
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
                    f"images are {taken[0]}x{taken[1]}, by its preprocessing; {CONFIG} says {size[0]}x{size[1]}"
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
    path = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
    if path is None:
        notes.append("it has no preprocessor_config.json: how pixels are normalised is not known")
        return None
    config = pretrained_folder.read_json(path)
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
            if "logits" in tensors and (alone or len(tensors) == 1):
                return tensors["logits"]
            # some classifiers return their logits under another name
            return next(iter(tensors.values())) if alone and len(tensors) == 1 else tensors

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
