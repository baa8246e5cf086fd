"""A format of its own: every width packed, the graph of ATen operations as JSON, run in PyTorch.

| file       | what it does                                    |
|------------|-------------------------------------------------|
| graph.py   | graph of a program <-> JSON, and running it     |
| weights.py | weights <-> named tensors                       |
| files.py   | templates and files, written and read           |
"""

from mobconv.backends.base import NO_OPTIONS, Encoded, Support, no_options, weights_alone
from mobconv.errors import BackendError
from mobconv.schemes import Compute, Storage


class ToyFormat:
    """See mobconv.backends.base.Backend."""

    name = suffix = "toyformat"
    default_compute = Compute.FP32
    source_packages = ("toyformat",)
    options_schema = NO_OPTIONS

    def missing(self):
        return None

    def versions(self):
        from importlib.metadata import version

        return {"safetensors": version("safetensors")}

    def support(self, cell):
        if cell.compute is Compute.FP16:
            return Support(None, reason="toy files compute in fp32")
        if cell.storage is Storage.NATIVE and cell.scheme.mode is not None:
            return Support(None, reason="toy files have no integer types: leave out @native")
        return Support(cell.scheme.bits, requires="toy 1.0")

    def options(self, values):
        return no_options(self.name, values)

    def image_entry(self, program, preprocessing, labels, kind, options):
        from mobconv.backends.entry import pixel_entry

        return pixel_entry(program, preprocessing, labels, kind)

    def convert(self, program, compute, directory, options=None):
        from toyformat import files

        files.write_template(program, directory)

    def encode(self, template, model, cell, path, record=""):
        from toyformat import files

        support = self.support(cell)
        if support.stored_bits is None:
            raise BackendError(f"{cell}: {support.reason}")
        return Encoded(files.write(template, weights_alone(model, cell), cell, path, record), support)

    def open(self, path, threads=0):
        from toyformat.files import ToyRunner

        return ToyRunner(path)

    def runtime_label(self, verified):
        return "PyTorch, on this machine's CPU"

    def suggested_fix(self, spec, network, caller):
        from mobconv.backends.suggestion import wrapper

        return wrapper(network, caller) + "toyformat.convert(Normalised(model))"


backend = ToyFormat()
