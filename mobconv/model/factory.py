"""From the name of a factory to a module: import, arguments, call; and checks of the filled module."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.errors import InputError, UsageError, did_you_mean, setting

if TYPE_CHECKING:
    import torch

_LISTED = 8  # names shown of each kind before '... and N more'
# text of a file that may be an argument of the user's factory: no path, no address
_WORD = re.compile(r"[\w+-][\w.+-]{0,63}")
# arguments that say where weights come from; the file has them
_WEIGHTS = re.compile(r"pretrained|weights|checkpoint|ckpt|path|file|url", re.IGNORECASE)
NOT_CALLED = "the file contains its own program, so the named factory is not called"


def build(factory: str, arguments: Mapping[str, Any], folder: Path | None = None) -> torch.nn.Module:
    """Import ``package.module:factory`` and call it.

    folder: searched before sys.path; None for the current one. Raises UsageError when the factory cannot be imported or
    called, or returns anything but a module.
    """
    import torch

    shown = setting("model", factory)
    call = _imported(factory, folder)
    try:
        built = call(**arguments)
    except (Exception, SystemExit) as error:  # the user's factory may raise anything
        raise UsageError(f"{shown}: called with {_call(arguments)} it fails: {_with_type(error)}") from error
    if not isinstance(built, torch.nn.Module):
        raise UsageError(f"{shown} returns {type(built).__name__}, not a torch.nn.Module")
    return built


def _imported(factory: str, folder: Path | None) -> Callable[..., Any]:
    """The object that a factory's name stands for. Raises UsageError."""
    path, colon, name = factory.partition(":")
    shown = setting("model", factory)
    if not colon or not path or not name:
        raise UsageError(f"{shown} is not of the form package.module:factory")
    here = str(folder or Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:  # the user's module may raise anything; scripts end themselves
        raise UsageError(f"{shown}: cannot import {path}: {_with_type(error)}{_where(path, error)}") from error
    if not hasattr(module, name):
        names = [public for public in vars(module) if not public.startswith("_")]
        raise UsageError(f"{shown}: {path} has no {name}{did_you_mean(name, names)}")
    imported: Callable[..., Any] = getattr(module, name)
    return imported


def fitting(factory: str, values: object, folder: Path | None = None) -> dict[str, Any]:
    """Those of a file's values (`hyper_parameters` of a Lightning checkpoint) that are arguments of a factory.

    values: a mapping or a namespace, not to be trusted. Numbers, booleans, None and single words are taken, also in
    lists and mappings; where a factory would look for weights is not a file's to say. Raises UsageError when the
    factory cannot be imported.
    """
    values = values if isinstance(values, Mapping) else getattr(values, "__dict__", {})
    try:
        parameters = inspect.signature(_imported(factory, folder)).parameters
    except (TypeError, ValueError):  # of an object without a signature
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: values[name]
        for name, parameter in parameters.items()
        if parameter.kind in kinds and name in values and not _WEIGHTS.search(name) and _harmless(values[name])
    }


def _harmless(value: object) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, list | tuple):
        return all(map(_harmless, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _harmless(each) for key, each in value.items())
    return value is None or type(value) in (bool, int, float)


def unnamed(name: str) -> UsageError:
    """The error for a checkpoint of weights without a factory."""
    return UsageError(
        f"{name} contains weights only: name the factory of the network, {setting('model', 'package.module:factory')}"
    )


def _where(path: str, error: BaseException) -> str:
    """Say where a module is looked for, where that is why it was not imported; else ''."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None or not f"{path}.".startswith(f"{error.name}."):
        return ""
    if path.endswith(".py"):
        return f"; without the suffix: {path.removesuffix('.py').replace('/', '.')}:..."
    return (
        "; modules are looked for in the folder that mobconv is started in, on PYTHONPATH and among installed "
        "packages, and then beside the recipe, if one is used"
    )


def _with_type(error: BaseException) -> str:
    """An error of the user's own code, with its type: `KeyError: 'x'` says more than `'x'`."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error: PyTorch goes on with advice that is not about this checkpoint."""
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def _call(arguments: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return shown or f"no arguments (see {setting('arguments')})"


def check_finite(module: torch.nn.Module, name: str) -> None:
    """Raise InputError naming the tensors that contain NaN or infinity; name: of the checkpoint.

    Buffers may have infinities, as attention masks do, except for the statistics of a norm.
    """
    import torch

    parameters = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    broken = []
    for key, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            strict = key in parameters or key.endswith(("running_mean", "running_var"))
            if bool(value.isnan().any()) or (strict and bool(value.isinf().any())):
                broken.append(key)
    if broken:
        raise InputError(
            f"{name}: NaN or infinity in {', '.join(broken[:_LISTED])}"
            + (f" and {len(broken) - _LISTED} more" if len(broken) > _LISTED else "")
            + "; the training diverged or the file is damaged"
        )


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """Copy a module, and detach weights that hooks of weight norm computed: PyTorch copies leaves only."""
    import torch

    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                setattr(part, name, value.detach())
    return copy.deepcopy(module)


def settle(module: torch.nn.Module) -> None:
    """Replace computed weights (weight norm, spectral norm) by plain ones, which can be quantized."""
    from torch.nn.utils import parametrize
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
        for key, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, SpectralNorm | WeightNorm):  # of before PyTorch 1.9, and still in use
                hook.remove(part)
                del part._forward_pre_hooks[key]
