"""Files with a mistake between pixels and network, made with the vendors' own converters.

A module in front of the network turns pixels of 0 to 255 into what the network then sees: factor * pixel + offset for
each channel, channels turned around, axes read in the wrong order. Where Core ML's own ImageType can say it, it does.
"""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch

from mobconv.backends.apple.vendor import coremltools, quiet

BACKENDS = ("onnx", "tflite", "coreml", "coreml-mlmodel")
SUFFIX = {"onnx": "onnx", "tflite": "tflite", "coreml": "mlpackage", "coreml-mlmodel": "mlmodel"}


class Front(torch.nn.Module):
    """A network behind a mistake; takes (1, C, H, W), or with nhwc (1, H, W, C)."""

    def __init__(self, network, mistake, nhwc=False):
        super().__init__()
        self.network, self.mistake, self.nhwc = network, mistake, nhwc
        for name in ("factor", "offset"):
            values = torch.tensor(getattr(mistake, name), dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1))

    def forward(self, pixels):
        x = pixels.permute(0, 3, 1, 2) if self.nhwc else pixels
        if not self.mistake.late:
            x = self.mixed(x)
        x = x * self.factor + self.offset
        if self.mistake.late:
            x = self.mixed(x)
        return self.network(x)

    def mixed(self, x):
        n, c, h, w = x.shape
        if self.mistake.turned:
            x = x[:, [2, 1, 0]]
        if self.mistake.axes == "nhwc as nchw":
            return x.permute(0, 2, 3, 1).reshape(n, c, h, w)
        if self.mistake.axes == "nchw as nhwc":
            return x.reshape(n, h, w, c).permute(0, 3, 1, 2)
        return x.transpose(2, 3) if self.mistake.axes == "hw" else x


def make(backend: str, network: torch.nn.Module, mistake, size: tuple[int, int], folder: Path) -> Path:
    """Convert with the backend's own vendor -> the file."""
    path = folder / f"planted.{SUFFIX[backend]}"
    maker = {"onnx": _onnx, "tflite": _tflite, "coreml": _coreml, "coreml-mlmodel": _coreml}[backend]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        maker(backend, network, mistake, size, path)
    return path


def _onnx(backend, network, mistake, size, path):
    module = Front(network, mistake).eval()
    torch.onnx.export(module, (torch.zeros(1, 3, *size),), str(path), dynamo=True, external_data=False, verbose=False)


def _tflite(backend, network, mistake, size, path):
    from mobconv.backends.tflite.quiet import quiet as silent

    with silent():
        import litert_torch

        litert_torch.convert(Front(network, mistake, nhwc=True).eval(), (torch.zeros(1, *size, 3),)).export(str(path))


def _coreml(backend, network, mistake, size, path):
    ct = coremltools()
    simple = not mistake.axes and not mistake.late and np.ptp(mistake.factor) < 1e-12
    module = network if simple else Front(network, mistake)
    layout = ct.colorlayout.BGR if simple and mistake.turned else ct.colorlayout.RGB
    said = {"scale": float(mistake.factor[0]), "bias": [float(v) for v in mistake.offset]} if simple else {}
    with quiet():
        ct.convert(
            torch.export.export(module.eval(), (torch.zeros(1, 3, *size),)).run_decompositions({}),
            inputs=[ct.ImageType(name="image", shape=(1, 3, *size), color_layout=layout, **said)],
            convert_to="mlprogram" if backend == "coreml" else "neuralnetwork",
            minimum_deployment_target=ct.target.iOS16 if backend == "coreml" else ct.target.iOS14,
            compute_precision=ct.precision.FLOAT32 if backend == "coreml" else None,
            skip_model_load=True,
        ).save(str(path))
