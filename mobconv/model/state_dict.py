"""The state dict that a network takes from the content of a file: under which key, behind which prefix of its names.

Training scripts keep weights in wrappers ({"state_dict": ..., "epoch": 3}) and under prefixes (`module.` of
DataParallel, `_orig_mod.` of torch.compile, `model.` of a LightningModule), beside averages of them (EMA) and weights
of the loss. A state dict is chosen by the module that it is to fill: a prefix counts where every tensor of the module
is behind it, in its shape. Where several states fit, and their names do not say which was trained, the user chooses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mobconv.errors import InputError, UsageError, did_you_mean, setting

if TYPE_CHECKING:
    import torch

# The keys under which training scripts keep trained weights, in order of preference.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "net_state_dict", "model", "net", "params", "weights"),
    *("model_weights", "network", "module"),
)
_AVERAGE = re.compile(r"(^|[._])(ema|teacher|averaged?|swa|polyak|shadow)([._]|\d|$)", re.IGNORECASE)
# keys of tensors with the names of weights that are not weights
_NOT_WEIGHTS = re.compile(
    r"(^|[._])(optim\w*|momentum\w*|moments?|exp_avg\w*|grad|gradients?|(lr_)?sched\w*|scaler|fisher)([._]|$)",
    re.IGNORECASE,
)
_DEPTH = 4  # of wrappers within wrappers
_LISTED = 8  # names shown of each kind before '... and N more'
# parts that wrappers put into the names of modules within a network
_WRAPPER_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# tensors beside the weights: counters of averaging and of FLOP counters; weights of losses and metrics
_COUNTERS = ("n_averaged", "total_ops", "total_params")
_LOSSES = re.compile(
    r"^(criterion|loss(es)?|loss_?f(n|unc(tion)?)|((train|val|valid|test)_)?(acc|accuracy|metrics?))\."
)


@dataclass(frozen=True)
class Selection:
    """A part of a file's content: under the keys `path`, and there behind `prefix` of the names.

    value: a mapping of names to tensors, or a module.
    """

    path: tuple[str, ...]
    value: Any
    prefix: str = ""

    @property
    def name(self) -> str:
        """As the user chooses it with `key`."""
        return ".".join([*self.path, *filter(None, [self.prefix.rstrip(".")])])

    @property
    def averaged(self) -> bool:
        """Whether a name says that these are averages of weights (EMA)."""
        return bool(_AVERAGE.search(self.name))

    @property
    def rank(self) -> tuple[int, ...]:
        """Order of preference: known wrappers in their order, then no wrapper; unknown ones last."""
        known = len(_WRAPPERS)
        return tuple(_WRAPPERS.index(key) if key in _WRAPPERS else known + 1 for key in self.path) or (known,)

    @property
    def known(self) -> bool:
        """Whether the keys are those of trained weights."""
        return all(key in _WRAPPERS for key in self.path) and not self.averaged


@dataclass
class _Names:
    """How the names of a state match those of a module, behind one prefix."""

    present: bool = True
    missing: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return not self.missing and not self.misshaped

    @property
    def whole(self) -> bool:
        return self.fits and not self.unexpected


def parts(content: object, path: tuple[str, ...] = ()) -> Iterator[Selection]:
    """Yield the state dicts and modules in the content of a file, each with its keys."""
    import torch

    if isinstance(content, torch.nn.Module):
        yield Selection(path, content)
    elif isinstance(content, Mapping):
        tensors = {key: value for key, value in content.items() if isinstance(key, str) and torch.is_tensor(value)}
        if tensors:
            yield Selection(path, tensors)
        for key, value in content.items() if len(path) < _DEPTH else ():
            if isinstance(key, str) and not _NOT_WEIGHTS.search(key):
                yield from parts(value, (*path, key))


def modules(content: object, key: str | None, name: str) -> tuple[torch.nn.Module, list[str]] | None:
    """Choose the whole module in the content of a file, with notes; None where there is none.

    key: the user's choice, None for the trained one before its average. name: of the checkpoint.
    """
    import torch

    every = [part for part in parts(content) if isinstance(part.value, torch.nn.Module)]
    if not every:
        return None
    wanted = [part for part in every if key is None or key in _keys_of(part)]
    if not wanted:
        raise UsageError(_no_key(name, key or "", every))
    chosen = min(wanted, key=lambda part: (part.averaged, part.rank))
    under = f" under {chosen.name!r}" if chosen.path else ""
    others = [part for part in every if part is not chosen]
    return chosen.value, [f"the file contains the whole module{under}", *_others(others)]


def check(content: object, name: str) -> None:
    """Raise InputError where the content of a file has no state dict; name: of the checkpoint."""
    if not any(True for _ in parts(content)):
        raise InputError(_no_state(content, name))


def fill(module: torch.nn.Module, content: object, name: str, factory: str, key: str | None = None) -> list[str]:
    """Load the state dict in the content of a file that fits a module; return notes on what was recognised.

    name: of the checkpoint; factory: that built the module; key: the user's choice among several states. Raises
    InputError where there is none, and one that lists missing, unexpected and misshaped tensors where none fits;
    UsageError where several fit.
    """
    check(content, name)
    states = list(_as_states(parts(content)))
    wanted = module.state_dict()
    chosen, others = _choose(states, wanted, key, name, factory)
    names = _match(chosen, wanted)
    if not names.whole:
        raise InputError(_misfit(name, factory, chosen, names, [part for part in others if part is not chosen]))
    state = {short: value for short, value in _behind(chosen).items() if short in wanted}
    _check_shared(state, wanted, name, factory)
    module.load_state_dict(state, strict=False)
    return [*_chosen(chosen, names, state), *_others(others)]


def _as_states(every: Iterable[Selection]) -> Iterator[Selection]:
    """The same parts, modules as their state dicts."""
    for part in every:
        yield part if isinstance(part.value, Mapping) else Selection(part.path, part.value.state_dict())


def _choose(
    states: Sequence[Selection], wanted: Mapping[str, torch.Tensor], key: str | None, name: str, factory: str
) -> tuple[Selection, list[Selection]]:
    """The state to load, also where it does not fit, and the others that fit."""
    every = [Selection(state.path, state.value, prefix) for state in states for prefix in _prefixes(state, wanted)]
    if key is not None:
        asked = [part for part in every if key in _keys_of(part)]
        if not asked:
            raise UsageError(_no_key(name, key, every))
        exact = [part for part in asked if part.name == key] or asked
        fitting = [part for part in exact if _match(part, wanted).fits]
        return _only(fitting or exact[:1], name, factory, key), []
    fitting = [part for part in every if _match(part, wanted).fits]
    known = [part for part in every if part.known and _match(part, wanted).present]
    # where the trained weights do not fit, something else in the file that does is not what was trained
    pool = [part for part in known if part in fitting] or ([] if known else [p for p in fitting if not p.averaged])
    if not pool and not known:
        pool = fitting
    if not pool:
        nearest = known or [part for part in every if not part.averaged] or every
        chosen = min(nearest, key=lambda part: (len(_match(part, wanted).missing), part.rank))
        return chosen, fitting
    best = min(part.rank for part in pool)
    chosen = _only([part for part in pool if part.rank == best], name, factory, None)
    return chosen, [part for part in fitting if part is not chosen]


def _only(fitting: Sequence[Selection], name: str, factory: str, key: str | None) -> Selection:
    """The one state that fits. Raises UsageError where there are several."""
    trained = [part for part in fitting if not part.averaged] or fitting
    if len(trained) > 1:
        names = ", ".join(repr(part.name or "the bare names") for part in trained)
        example = next((part.name for part in trained if part.name not in ("", key)), key)
        raise UsageError(
            f"{name} has several states that fit {factory}: {names}. Choose one, as in {setting('key', example)}"
        )
    return trained[0]


def _keys_of(part: Selection) -> tuple[str, ...]:
    """The texts that choose a part: its whole name, its last key, its prefix."""
    return tuple(filter(None, (part.name, ".".join(part.path), part.path[-1] if part.path else "", part.prefix[:-1])))


def _prefixes(state: Selection, wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Prefixes behind which names of the module are, those with the most first; '' where there are none."""
    counts: Counter[str] = Counter()
    for key in state.value:
        short = _without_wrappers(key)
        starts = [0, *(match.end() for match in re.finditer(r"\.", short))]
        counts.update(short[:start] for start in starts if short[start:] in wanted)
    counts = Counter({prefix: count for prefix, count in counts.items() if not _NOT_WEIGHTS.search(prefix)})
    full = [prefix for prefix in counts if _match(Selection(state.path, state.value, prefix), wanted).fits]
    if full:
        return full
    if not counts:
        return [""]
    most = max(counts.values())
    return ["" if counts[""] == most else next(prefix for prefix, count in counts.items() if count == most)]


def _without_wrappers(key: str) -> str:
    """A name without the parts that torch.compile and sharding put into it."""
    if not any(part in key for part in _WRAPPER_PARTS):
        return key
    return ".".join(part for part in key.split(".") if part not in _WRAPPER_PARTS)


def _behind(part: Selection) -> dict[str, torch.Tensor]:
    """The tensors behind a part's prefix, by their names there."""
    short = {_without_wrappers(key): value for key, value in part.value.items()}
    if len(short) < len(part.value):  # two names became one
        short = dict(part.value)
    return {key[len(part.prefix) :]: value for key, value in short.items() if key.startswith(part.prefix)}


def _match(part: Selection, wanted: Mapping[str, torch.Tensor]) -> _Names:
    state = _behind(part)
    stored = {_place(wanted[key]) for key in wanted if key in state}
    # counters of batch norm do not change the function; old checkpoints lack them. Of names that share one tensor,
    # safetensors has one
    missing = [
        key
        for key, value in wanted.items()
        if key not in state and not key.endswith("num_batches_tracked") and _place(value) not in stored
    ]
    names = _Names(any(key in state for key in wanted), missing)
    for key, value in wanted.items():
        if key in state and state[key].shape != value.shape:
            names.misshaped.append(f"{key} {tuple(state[key].shape)}, expected {tuple(value.shape)}")
        elif key in state and not _same_kind(state[key], value):
            names.misshaped.append(f"{key} of {_dtype(state[key])}, expected {_dtype(value)}")
    for key in (key for key in state if key not in wanted):
        if key.rpartition(".")[2] in _COUNTERS or _LOSSES.match(key):
            names.beside.append(key)
        else:
            names.unexpected.append(key)
    if part.prefix:
        names.outside = [key for key in part.value if not _without_wrappers(key).startswith(part.prefix)]
    return names


def _place(value: torch.Tensor) -> tuple[Any, ...]:
    """Where the values of a tensor are in memory, equal for names that share them; unique for one without values."""
    if value.numel() == 0 or value.is_meta:
        return (id(value),)
    return value.data_ptr(), value.shape, value.stride()


def _check_shared(
    state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], name: str, factory: str
) -> None:
    """Raise InputError where names share one tensor in the module, and have other values each in the file."""
    import torch

    first: dict[tuple[Any, ...], str] = {}
    for key in state:
        other = first.setdefault(_place(wanted[key]), key)
        if other != key and not torch.equal(state[key], state[other]):
            raise InputError(
                f"{name} does not fit {factory}: {other} and {key} are one tensor in the network, and differ in the "
                f"file. Check the factory and its arguments ({setting('model')}, {setting('arguments')})."
            )


def _same_kind(stored: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether values mean the same: codes of integers are not weights, nor is a complex number."""
    if stored.is_quantized or stored.is_complex():
        return stored.dtype == wanted.dtype
    if stored.is_floating_point() == wanted.is_floating_point():
        return True
    return stored.is_floating_point() and bool((stored == stored.round()).all())


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _chosen(chosen: Selection, names: _Names, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Say what was unwrapped, taken off, left out and converted."""
    import torch

    notes = [f"took the state dict under {key!r}" for key in chosen.path]
    if chosen.prefix:
        notes.append(f"took the prefix {chosen.prefix!r} off every name")
    inside = next((part for part in _WRAPPER_PARTS if any(part in key.split(".") for key in chosen.value)), None)
    if inside:
        notes.append(f"took {inside!r} out of the names")
    beside = [*names.beside, *names.outside]
    if beside:
        more = f" and {len(beside) - _LISTED} more" if len(beside) > _LISTED else ""
        notes.append(f"left out, as the network has no such tensors: {', '.join(beside[:_LISTED])}{more}")
    kinds = sorted({_dtype(value) for value in state.values() if value.is_floating_point()} - {_dtype(torch.ones(1))})
    if kinds:
        notes.append(f"weights of {' and '.join(kinds)} are computed in float32")
    return notes


def _others(others: Sequence[Selection]) -> list[str]:
    """Name the states that were not taken, and how to choose one."""
    named = list(dict.fromkeys(part.name for part in others if part.name))
    if not named:
        return []
    return [f"the file also has {', '.join(map(repr, named))}: the setting `key` chooses, such as {named[0]}"]


def _no_key(name: str, key: str, every: Sequence[Selection]) -> str:
    known = list(dict.fromkeys(part.name for part in every if part.name))
    choices = f"it has {', '.join(known)}{did_you_mean(key, known)}" if known else "its names are bare"
    return f"{name}: no state under {setting('key', key)}; {choices}"


def _no_state(content: object, name: str) -> str:
    keys = list(content)[:_LISTED] if isinstance(content, Mapping) else []
    if not isinstance(content, Mapping):
        return f"{name}: contains a {type(content).__name__}, not a state dict; save model.state_dict()"
    if any(key in _WRAPPERS for key in keys):
        return f"{name}: the state dict has no tensors; save model.state_dict()"
    return (
        f"{name}: no state dict in it (it contains {', '.join(map(repr, keys)) or 'nothing'}); save "
        f"model.state_dict(), bare or under one of {', '.join(_WRAPPERS[:4])}"
    )


def _misfit(name: str, factory: str, chosen: Selection, names: _Names, others: Sequence[Selection]) -> str:
    """List what is missing, unexpected and misshaped."""
    where = f" under {chosen.name!r}" if chosen.name else ""
    lines = [f"{name}{where} does not fit {factory}:"]
    near = [f"{key}{did_you_mean(key, names.unexpected)}" for key in names.missing[:_LISTED]]
    lines += _listing("missing from the file", near, names.missing)
    lines += _listing("not in the architecture", names.unexpected[:_LISTED], names.unexpected)
    lines += _listing("of another shape", names.misshaped[:_LISTED], names.misshaped)
    lines.append(f"Check the factory and its arguments ({setting('model')}, {setting('arguments')}).")
    if others:
        named = ", ".join(repr(part.name or "the bare names") for part in others)
        example = next((part.name for part in others if part.name), None)
        lines.append(f"Of this file {named} fits" + (f": {setting('key', example)}" if example else ""))
    return "\n".join(lines)


def _listing(title: str, shown: Sequence[str], everything: Sequence[str]) -> list[str]:
    if not everything:
        return []
    more = f"\n    ... and {len(everything) - len(shown)} more" if len(everything) > len(shown) else ""
    return [f"  {len(everything)} {title}:\n    " + "\n    ".join(shown) + more]
