"""mobconv: one PyTorch checkpoint to Core ML, TFLite and ONNX, fp32 down to 1 bit, every file measured.

The functions below are the Python API; the command line calls the same ones. Each is imported when it is first used,
so that `import mobconv` loads neither torch nor a vendor's package.

    import mobconv

    checkpoint = mobconv.load("net.safetensors")
    rows = mobconv.export(checkpoint, to=["onnx", "coreml"], scheme="w4-kmeans", out="out")
    print(mobconv.evaluate("out/onnx/w4-kmeans.onnx", "test.parquet").score)

`evaluate`, `sweep`, `compare` and `report` are packages as well: calling the package calls the function.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mobconv.common.version import __version__

if TYPE_CHECKING:
    from mobconv.compare.comparison import compare as compare
    from mobconv.gate.check import check as check
    from mobconv.model.loading import load as load
    from mobconv.pipeline.artifact import open_artifact as open
    from mobconv.pipeline.evaluation import evaluate as evaluate
    from mobconv.pipeline.export import export as export
    from mobconv.pipeline.inspection import inspect as inspect
    from mobconv.report.write import report as report
    from mobconv.sweep.run import sweep as sweep

# name -> module and attribute of the function
API = {
    "load": ("mobconv.model.loading", "load"),
    "export": ("mobconv.pipeline.export", "export"),
    "open": ("mobconv.pipeline.artifact", "open_artifact"),
    "evaluate": ("mobconv.pipeline.evaluation", "evaluate"),
    "sweep": ("mobconv.sweep.run", "sweep"),
    "compare": ("mobconv.compare.comparison", "compare"),
    "inspect": ("mobconv.pipeline.inspection", "inspect"),
    "check": ("mobconv.gate.check", "check"),
    "report": ("mobconv.report.write", "report"),
}

__all__ = ["API", "__version__", "check", "compare", "evaluate", "export", "inspect", "load", "open", "report", "sweep"]


def _function(name: str) -> Any:
    module, attribute = API[name]
    return getattr(import_module(module), attribute)


class _CallablePackage(ModuleType):
    """A package with the name of a function of the API: called, it is the function."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return _function(self.__name__.rpartition(".")[2])(*arguments, **keywords)

    @property
    def __signature__(self) -> Any:
        """The function's, for `inspect.signature` and editors."""
        import inspect

        return inspect.signature(_function(self.__name__.rpartition(".")[2]))


class _Root(ModuleType):
    """This package. The import system sets each subpackage as an attribute of it, whoever imports it first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in API and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = _function(name)
    # a package of that name was set as an attribute by its import
    return globals().get(name, function)


def __dir__() -> list[str]:
    return sorted(__all__)
