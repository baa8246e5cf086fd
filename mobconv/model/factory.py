"""From the name of a factory and a state dict to a module: import, call, unwrap, fill, and report what does not fit."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.errors import InputError, UsageError, did_you_mean, setting

if TYPE_CHECKING:
    import torch

# The keys under which training scripts keep the state dict, in order of preference.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_LISTED = 8  # names shown of each kind before '... and N more'
NOT_CALLED = "the file contains its own program, so the named factory is not called"


def build(factory: str, arguments: Mapping[str, Any], folder: Path | None = None) -> torch.nn.Module:
    """Import ``package.module:factory`` and call it.

    folder: searched before sys.path; None for the current one. Raises UsageError when the factory cannot be imported or
    called, or returns anything but a module.
    """
    import torch

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
    try:
        built = getattr(module, name)(**arguments)
    except (Exception, SystemExit) as error:  # the user's factory may raise anything
        raise UsageError(f"{shown}: called with {_call(arguments)} it fails: {_with_type(error)}") from error
    if not isinstance(built, torch.nn.Module):
        raise UsageError(f"{shown} returns {type(built).__name__}, not a torch.nn.Module")
    return built


def filled(
    factory: str, arguments: Mapping[str, Any], folder: Path | None, state: Mapping[str, torch.Tensor], name: str
) -> torch.nn.Module:
    """Build a factory's module and load a state dict into it.

    name: of the checkpoint. Raises what `build` raises, and InputError that lists missing, unexpected and misshaped
    tensors.
    """
    module = build(factory, arguments, folder)
    _fill(module, state, name, factory)
    return module


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


def state_of(loaded: object, name: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Find the state dict in the content of a file.

    name: of the checkpoint. Returns it with notes on what was unwrapped. Raises InputError where there is none.
    """
    import torch

    notes: list[str] = []
    content = loaded
    while isinstance(content, Mapping):
        # wrappers come first: beside them stand tensors that are not weights, such as the best accuracy so far
        key = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None and _is_state(content):
            break
        if key is None:
            keys = ", ".join(repr(key) for key in list(content)[:_LISTED]) or "nothing"
            raise InputError(
                f"{name}: no state dict in it (it contains {keys}); save model.state_dict(), bare or under one of "
                + ", ".join(_WRAPPERS)
            )
        notes.append(f"took the state dict under {key!r}")
        content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(f"{name}: contains a {type(content).__name__}, not a state dict; save model.state_dict()")
    state = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise InputError(f"{name}: the state dict has no tensors")
    if all(key.startswith("module.") for key in state):
        notes.append("took the prefix 'module.' of DataParallel off every name")
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state, notes


def _is_state(content: Mapping[Any, Any]) -> bool:
    import torch

    return any(isinstance(value, torch.Tensor) for value in content.values())


def _fill(module: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str, factory: str) -> None:
    """Load a state dict. Raises InputError that lists what is missing, unexpected and misshaped."""
    wanted = module.state_dict()
    # counters of batch norm do not change the function; old checkpoints lack them
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    misshaped = [
        f"{key} {tuple(state[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if missing or unexpected or misshaped:
        lines = [f"{name} does not fit {factory}:"]
        lines += _listing(
            "missing from the file", [f"{key}{did_you_mean(key, unexpected)}" for key in missing[:_LISTED]], missing
        )
        lines += _listing("not in the architecture", unexpected[:_LISTED], unexpected)
        lines += _listing("of another shape", misshaped[:_LISTED], misshaped)
        lines.append(f"Check the factory and its arguments ({setting('model')}, {setting('arguments')}).")
        raise InputError("\n".join(lines))
    module.load_state_dict(dict(state), strict=False)


def _listing(title: str, shown: list[str], everything: list[str]) -> list[str]:
    if not everything:
        return []
    more = f"\n    ... and {len(everything) - len(shown)} more" if len(everything) > len(shown) else ""
    return [f"  {len(everything)} {title}:\n    " + "\n    ".join(shown) + more]


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
