"""The source behind a network and behind mobconv itself, as hashes: what it is, without importing it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mobconv import backends

# What lies above a sweep, or beside it, and has no part in a cell; tests/sweep/test_sources.py holds it to that.
ABOVE = {
    "cli", "exporting.py", "report", "comparison.py", "gate.py", "rules.py", "compare", "probe.py", "advice.py",
    "paired.py", "baseline.py", "mistakes.py", "diagnosis.py", "budget.py", "changes.py", "intervals.py",
}  # fmt: skip
_ROOT = Path(backends.__file__).parents[1]


@cache
def of_mobconv(backend: str | None = None) -> str:
    """Hash over mobconv's own source: of all that cells share, or of one backend.

    A version number would do for a release; while mobconv is changed it would keep rows that its code no longer makes.
    180 small files take 10 ms.
    """
    if backend is None:
        files = [path for path in _ROOT.rglob("*.py") if _shared(path.relative_to(_ROOT).parts)]
        return _digest(_ROOT, files)
    if backend not in backends.BUILT_IN:
        spec = importlib.util.find_spec(type(backends.get(backend)).__module__)
        held = Path(spec.origin) if spec and spec.origin else _ROOT
        return _digest(held.parent, list(held.parent.rglob("*.py")) if held.name == "__init__.py" else [held])
    own = backends.BUILT_IN[backend].rpartition(".")[2]
    # neural networks run in the executor of ML Programs
    folders = [_ROOT / "backends" / name for name in {own, "coreml" if own == "mlmodel" else own}]
    return _digest(_ROOT, [path for folder in folders for path in folder.rglob("*.py")])


def _shared(parts: tuple[str, ...]) -> bool:
    return parts[0] not in ABOVE and not (parts[0] == "backends" and len(parts) > 2)


def _digest(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def of_factory(factory: str, here: Path) -> dict[str, str]:
    """What `package.module:factory` is made of: sha256 of each source file that it imports, by the module's name, and
    versions of installed packages.

    here: the folder that is searched before sys.path, as `architecture.build` does. What is imported by a computed
    name, and files that the code reads, are not seen. Empty where the module is not found: building it will say so.
    """
    module = factory.partition(":")[0]
    first = module.partition(".")[0]
    found: dict[str, str] = {}
    if first == "mobconv":  # its own source is in every key
        return found
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] in sys.stdlib_module_names:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        spec = _spec(top, here)
        base = _base(spec)
        if spec is None or base is None:
            continue
        if _installed(base) and top != first:
            found[top] = _version(top)
            continue
        for part, path in _files(name, spec):
            found[part] = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.suffix == ".py":
                waiting += _imports(path, part)
    return dict(sorted(found.items()))


def folder_of(factory: str, beside: Path) -> Path:
    """The folder to look for a factory in: the current one, unless its module is only found in `beside`.

    One folder, so that what is hashed is what is imported.
    """
    module, here = factory.partition(":")[0], Path.cwd()
    top = module.partition(".")[0]
    if not _has(_spec(top, here), module) and _has(PathFinder.find_spec(top, [str(beside)]), module):
        return beside.absolute()
    return here


def _has(spec: ModuleSpec | None, module: str) -> bool:
    return spec is not None and any(name == module for name, _ in _files(module, spec))


def _spec(top: str, here: Path) -> ModuleSpec | None:
    try:
        return PathFinder.find_spec(top, [str(here)]) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _base(spec: ModuleSpec | None) -> Path | None:
    """The folder that a top-level module or package lies in."""
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.origin and spec.has_location else None


def _installed(base: Path) -> bool:
    return base.name in ("site-packages", "dist-packages")


def _version(top: str) -> str:
    try:
        return version(top)
    except PackageNotFoundError:
        return ""


def _files(name: str, spec: ModuleSpec) -> Iterator[tuple[str, Path]]:
    """The files of a module and of the packages that it lies in, by name; a last part that is no module has none."""
    parts = name.split(".")
    if not spec.submodule_search_locations:
        if spec.origin:
            yield parts[0], Path(spec.origin)
        return
    base = Path(next(iter(spec.submodule_search_locations))).parent
    for count in range(1, len(parts) + 1):
        stem = base.joinpath(*parts[:count])
        for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if path.is_file():
                yield ".".join(parts[:count]), path


def _imports(path: Path, name: str) -> Iterator[str]:
    """Every name that a file imports, anywhere in it; those of `from a import b` as a.b too, which may be a module."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
