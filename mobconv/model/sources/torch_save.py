"""Files of torch.save: a state dict, bare or wrapped, or a whole module.

They are pickles, which run code when they are loaded. They are read with ``weights_only=True``, which builds tensors
and containers alone; anything else, such as a whole module, is refused unless the user trusts the file.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobconv.common import file_kind
from mobconv.errors import InputError, setting
from mobconv.model import factory, state_dict
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options, complete, fingerprint_of_file

KIND = "a file of torch.save (state dict or whole module)"
SETTINGS = ("key",)
_HYPER_PARAMETERS = "hyper_parameters"
# what training scripts keep beside weights: paths, numbers, settings, logs, of the standard library, NumPy, OmegaConf
# and MMEngine; and mappings, of Lightning, yacs and EasyDict
_INERT = (
    *("types.SimpleNamespace", "typing.Any", "datetime.datetime", "datetime.timedelta"),
    *(f"{place}.{kind}Path" for place in ("pathlib", "pathlib._local") for kind in ("Posix", "PurePosix", "Windows")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("scalar", "_reconstruct")),
    *(
        "numpy.dtype",
        "numpy.ndarray",
        *(f"numpy.dtypes.{kind}{bits}DType" for kind in ("Float", "Int") for bits in (32, 64)),
    ),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
    *("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr"),
)
_MAPPINGS = (
    *("yacs.config.CfgNode", "easydict.EasyDict"),
    *(f"{name}.utilities.data.AttributeDict" for name in ("lightning_fabric", "lightning.fabric")),
)


def accepts(reference: str) -> bool:
    """Whether a file is a zip with a pickle in it and no program, or a bare pickle, as older releases wrote."""
    path = Path(reference)
    members = file_kind.zip_members(path)
    if members:
        return "data.pkl" in members and "constants.pkl" not in members
    return file_kind.is_pickle(path)


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash the file. Without a factory it is a whole module, whose code only unpickling finds."""
    return fingerprint_of_file(reference, options.factory is not None)


def load(reference: str, options: Options) -> Checkpoint:
    """Fill the factory's module with the state dict, or take the whole module. See checkpoint.Source for errors."""
    content = file_kind.read(Path(reference), "checkpoint")
    digest = hashlib.sha256(content).hexdigest()
    value = unpickle(content, reference, options)
    whole = state_dict.modules(value, options.key, reference) if options.factory is None else None
    if whole is not None:
        return complete(reference, digest, whole[0], options, notes=whole[1])
    state_dict.check(value, reference)
    if options.factory is None:
        raise factory.unnamed(reference)
    arguments, notes = _arguments(value, options)
    module = factory.build(options.factory, arguments, options.here)
    notes += state_dict.fill(module, value, reference, options.factory, options.key)
    return complete(reference, digest, module, options, notes=notes)


def _arguments(value: object, options: Options) -> tuple[dict[str, Any], list[str]]:
    """The factory's arguments, those of a Lightning file's `hyper_parameters` where the user states none; and notes."""
    stated = value.get(_HYPER_PARAMETERS) if isinstance(value, Mapping) else None
    if not stated or options.factory is None:
        return options.arguments, []
    arguments = factory.fitting(options.factory, stated, options.here)
    arguments = {name: each for name, each in arguments.items() if name not in options.arguments}
    said = ", ".join(f"{name}={each!r}" for name, each in arguments.items())
    notes = [f"arguments of {options.factory} from the file's {_HYPER_PARAMETERS}: {said}"] if arguments else []
    return arguments | options.arguments, notes


def unpickle(content: bytes, reference: str, options: Options) -> object:
    """The content of a file of torch.save, with tensors on the CPU; with trust, also of one that runs code.

    A trusted pickle finds its modules in the folder where mobconv is started, or beside the file. Raises InputError for
    a damaged file, and for one that would run code.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_inert()):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "GLOBAL" not in str(error):
            raise InputError(f"{reference}: truncated, or not a file that torch.load reads") from error
        if not options.trust_pickle:
            raise InputError(
                f"{reference}: this pickle wants to run code ({_refused_global(str(error))}), so it was not loaded. "
                f"Save model.state_dict() in its place. If you trust its author, {setting('trust_pickle', True)} loads "
                "it, and runs that code with your rights."
            ) from error
    except Exception as error:  # the unpickler raises whatever damaged bytes lead to, struct.error for one
        raise InputError(
            f"{reference}: truncated, or not a file that torch.load reads: {factory.first_sentence(error)}"
        ) from error
    here = str(options.here or Path.cwd())
    sys.path[:] = [here, *(folder for folder in sys.path if folder != here)]
    beside = str(Path(reference).absolute().parent)
    if beside not in sys.path:
        sys.path.append(beside)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:  # a trusted pickle may raise anything
        raise InputError(
            f"{reference}: cannot be unpickled: {factory.first_sentence(error)}{_of_a_script(str(error))}"
        ) from error


class _Inert:
    """An object of a file that is not read: it keeps nothing and runs nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _inert() -> list[Any]:
    """Stand-ins for names in a pickle: classes that are kept beside weights are not imported, nor functions called.

    Namespaces and mappings keep their values, for `hyper_parameters`.
    """
    import argparse

    mappings = ((OrderedDict, name) for name in _MAPPINGS)
    return [argparse.Namespace, *mappings, *((_Inert, name) for name in _INERT)]


def _of_a_script(message: str) -> str:
    """What to do for a class that was defined in the script that saved the file; else ''."""
    if "__main__" not in message:
        return ""
    return (
        ". The network's class was defined in the script that saved the file: save model.state_dict() there, and name "
        f"the class, {setting('model', 'package.module:Class')}"
    )


def _refused_global(message: str) -> str:
    """The class or function that weights-only loading refused, from torch's message."""
    for marker in ("Unsupported global: GLOBAL ", "GLOBAL "):
        if marker in message:
            return message.partition(marker)[2].split()[0].strip("`'\".,")
    return "an object"
