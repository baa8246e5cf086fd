"""From a name and a state dict to a module: factories, wrappers, and what does not fit."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.errors import InputError, UsageError, did_you_mean

if TYPE_CHECKING:
    import torch

# The keys under which training scripts keep the state dict, in order of preference.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_LISTED = 8  # names shown of each kind before '... and N more'


def build(factory: str, arguments: Mapping[str, Any], folder: Path | None = None) -> torch.nn.Module:
    """Import ``package.module:factory`` and call it.

    folder: looked in before sys.path; None for the current one. Raises UsageError when it cannot be imported, called,
    or returns no module.
    """
    import torch

    path, colon, name = factory.partition(":")
    if not colon or not path or not name:
        raise UsageError(f"--model {factory!r} is not of the form package.module:factory")
    here = str(folder or Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:  # whatever the user's module raises; scripts end themselves
        raise UsageError(f"--model {factory}: cannot import {path}: {_what(error)}{_where(path, error)}") from error
    if not hasattr(module, name):
        names = [found for found in vars(module) if not found.startswith("_")]
        raise UsageError(f"--model {factory}: {path} has no {name}{did_you_mean(name, names)}")
    try:
        built = getattr(module, name)(**arguments)
    except (Exception, SystemExit) as error:  # whatever the user's factory raises
        raise UsageError(f"--model {factory}: called with {_call(arguments)} it fails: {_what(error)}") from error
    if not isinstance(built, torch.nn.Module):
        raise UsageError(f"--model {factory} returns {type(built).__name__}, not a torch.nn.Module")
    return built


def _where(path: str, error: BaseException) -> str:
    """What to do about a module that is not found."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None or not f"{path}.".startswith(f"{error.name}."):
        return ""
    if path.endswith(".py"):
        return f"; without the suffix: {path.removesuffix('.py').replace('/', '.')}:..."
    return (
        "; modules are looked for in the folder that mobconv is started in, on PYTHONPATH and among installed "
        "packages, and then beside the recipe, where there is one"
    )


def _what(error: BaseException) -> str:
    """An error of the user's own code, with its type: `KeyError: 'x'` says more than `'x'`."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments (see --model-arg)"


def state_of(loaded: object, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state dict in what a file held, and what was done to find it, to be told to the user."""
    import torch

    notes: list[str] = []
    found = loaded
    while isinstance(found, Mapping):
        # wrappers come first: beside them stand tensors that are no weights, such as the best accuracy so far
        key = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if key is None and _is_state(found):
            break
        if key is None:
            held = ", ".join(repr(key) for key in list(found)[:_LISTED]) or "nothing"
            raise InputError(
                f"{path}: no state dict in it (it holds {held}); save model.state_dict(), bare or under one of "
                + ", ".join(_WRAPPERS)
            )
        notes.append(f"took the state dict under {key!r}")
        found = found[key]
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds a {type(found).__name__}, not a state dict; save model.state_dict()")
    state = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise InputError(f"{path}: the state dict has no tensors")
    if all(name.startswith("module.") for name in state):
        notes.append("took the prefix 'module.' of DataParallel off every name")
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state, notes


def _is_state(found: Mapping[Any, Any]) -> bool:
    import torch

    return bool(found) and any(isinstance(value, torch.Tensor) for value in found.values())


def fill(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, factory: str) -> None:
    """Load a state dict. Raises InputError that lists what is missing, unexpected and misshaped."""
    wanted = module.state_dict()
    # counters of batch norm say nothing of the function; old checkpoints lack them
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    misshaped = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or misshaped:
        lines = [f"{path} does not fit {factory}:"]
        lines += _listing(
            "missing from the file", [f"{n}{did_you_mean(n, unexpected)}" for n in missing[:_LISTED]], missing
        )
        lines += _listing("not in the architecture", unexpected[:_LISTED], unexpected)
        lines += _listing("of another shape", misshaped[:_LISTED], misshaped)
        lines.append("Check the factory and its arguments (--model, --model-arg).")
        raise InputError("\n".join(lines))
    module.load_state_dict(dict(state), strict=False)


def _listing(title: str, shown: list[str], everything: list[str]) -> list[str]:
    if not everything:
        return []
    more = f"\n    ... and {len(everything) - len(shown)} more" if len(everything) > len(shown) else ""
    return [f"  {len(everything)} {title}:\n    " + "\n    ".join(shown) + more]


def check_finite(module: torch.nn.Module, path: Path) -> None:
    """Raise InputError naming the tensors that hold NaN or infinity."""
    import torch

    broken = [
        name
        for name, value in module.state_dict().items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise InputError(
            f"{path}: NaN or infinity in {', '.join(broken[:_LISTED])}"
            + (f" and {len(broken) - _LISTED} more" if len(broken) > _LISTED else "")
            + "; the training diverged or the file is damaged"
        )


def settle(module: torch.nn.Module) -> None:
    """Make computed weights (weight norm, spectral norm) plain ones, which can be quantized."""
    from torch.nn.utils import parametrize

    for each in list(module.modules()):
        if parametrize.is_parametrized(each):
            for name in list(each.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(each, name, leave_parametrized=True)
