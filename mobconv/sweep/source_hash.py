"""Hashes of source code: of what builds a network, and of mobconv itself. Nothing is imported for it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mobconv import backends

_ROOT = Path(backends.__file__).parents[1]
_FOLLOWED = ("sweep", "zoo")  # imports are followed from here; checkpoints name factories of the zoo as text
_IMPORT = re.compile(rb"^\s*(?:from|import) mobconv(?:\.(\w+)| import ([\w, ]+))", re.MULTILINE)


@cache
def of_mobconv(backend: str | None = None) -> str:
    """Hash over mobconv's own source: of the packages that all cells share, or of those of one backend.

    A version number would do for a release; while mobconv is being changed it would keep rows that its code no longer
    makes. The packages are those that `mobconv.sweep` imports, directly or not, without the folders of formats: what
    lies above (command line, report) or beside (compare, gate) is not among them, so it has no part in a key.
    """
    if backend is not None:
        return _digest([path for name in backends.get(backend).source_packages for path in _sources_of(name)])
    return _digest([path for package in shared_packages() for path in _sources_of(f"mobconv.{package}", formats=False)])


@cache
def shared_packages() -> tuple[str, ...]:
    """Packages and modules below `mobconv` that a sweep imports, directly or not."""
    seen: set[str] = set()
    waiting = [*_FOLLOWED]
    while waiting:
        package = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        for path in _sources_of(f"mobconv.{package}", formats=False):
            for below, names in _IMPORT.findall(path.read_bytes()):
                imported = [below.decode()] if below else [name.strip() for name in names.decode().split(",")]
                waiting += [name for name in imported if (_ROOT / name).exists() or (_ROOT / f"{name}.py").exists()]
    return tuple(sorted(seen))


def _sources_of(package: str, formats: bool = True) -> list[Path]:
    """Source files of a package or module; formats: also in folders below `mobconv.backends`."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin)
    if path.name != "__init__.py":
        return [path]
    nested = formats or path.parent != _ROOT / "backends"
    return sorted(path.parent.rglob("*.py") if nested else path.parent.glob("*.py"))


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        name = path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def of_factory(factory: str, here: Path) -> dict[str, str]:
    """Sources of `package.module:factory`: sha256 of each file that it imports, by module name, and versions of
    installed packages.

    here: the folder that is searched before sys.path, as `model.factory.build` does. Modules imported by a computed
    name, and files that the code reads, are not seen. Empty where the module is not found: building it will say so.
    """
    module = factory.partition(":")[0]
    first = module.partition(".")[0]
    sources: dict[str, str] = {}
    if first == "mobconv":  # its own source is in every key
        return sources
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
            sources[top] = _version(top)
            continue
        for part, path in _files(name, spec):
            sources[part] = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.suffix == ".py":
                waiting += _imports(path, part)
    return dict(sorted(sources.items()))


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
    """The files of a module and of its parent packages, by name; none for a last part that is not a module."""
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
