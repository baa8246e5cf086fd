"""A package of `tests/plugins` as pip would have installed it, without installing anything."""

import contextlib
import importlib
import sys
import tomllib
from pathlib import Path

PLUGINS = Path(__file__).parent


@contextlib.contextmanager
def registered(name, site):
    """`tests/plugins/<name>` on sys.path, its entry points in a dist-info folder below `site`; gone afterwards."""
    package = PLUGINS / name
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{point} = {target}" for point, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    added = [str(site), str(package)]
    sys.path += added
    importlib.invalidate_caches()
    try:
        yield package
    finally:
        for path in added:
            sys.path.remove(path)
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            del sys.modules[module]
        importlib.invalidate_caches()
