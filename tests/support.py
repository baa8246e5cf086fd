"""Where the fixtures lie, and the command line as tests call it."""

import zipfile
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHECKPOINT = FIXTURES / "digits-fed-mobilenet-v2-w025.safetensors"
DATA = FIXTURES / "digits-test.parquet"
CALIBRATION = FIXTURES / "digits-calibration.parquet"

USER_MODULE = """
import torch
from torch import nn

def tiny(classes=3, width=4):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, classes),
    )

def raises():
    raise KeyError("no such layer")

def number():
    return 7
"""


class CommandLine:
    """`mobconv` in this process, in an empty folder."""

    def __init__(self, folder, capsys):
        self.folder, self._capsys = folder, capsys

    def __call__(self, *arguments):
        """Exit code, stdout, stderr."""
        from mobconv.cli.app import run

        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *self._capsys.readouterr()

    def refuses(self, code, *words, arguments):
        """The command ends with this code and a message of these words; no traceback, nothing half-written."""
        found, out, err = self(*arguments)
        assert found == code, err
        for word in words:
            assert word in err, f"{word!r} is not in: {err}"
        assert "Traceback" not in err and out == ""
        assert leftovers(self.folder) == []
        return err


def leftovers(folder):
    """Files that only a writer at work may have, and artifacts; not what a sweep keeps for the next one."""
    kinds = (".onnx", ".tflite", ".mlpackage", ".mlmodel", ".npz")
    found = [p for p in folder.rglob("*") if "partial" in p.name or p.name == "making" or p.suffix in kinds]
    return [p for p in found if p.suffix != ".npz" or ".cells" not in p.parts]


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def lively(module):
    """Give a network of a library weights and statistics that make every layer count; fresh ones are near zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point() and value.dim() > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return module.eval()


def export(path, *more):
    """The command that a bad checkpoint is tried with."""
    return ["export", path, "--to", "onnx", "-o", "out", *more]


def rewrite(source, target, members):
    """A zip with some members replaced, added, or (None) left out."""
    with zipfile.ZipFile(source) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held.update(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in held.items():
            if content is not None:
                archive.writestr(name, content)
