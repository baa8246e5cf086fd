"""Kinds of checkpoints, one file a kind; each is a mobconv.model.checkpoint.Source.

To add a kind: write a module here, or in a package of your own, and add its line to SOURCES. They are asked in order,
and imported when they are asked. mobconv.testing.source_conformance checks one. in_memory.py is not asked: it loads an
object.
"""

SOURCES = {
    "safetensors": "mobconv.model.sources.safetensors",
    "exported_program": "mobconv.model.sources.exported_program",
    "torchscript": "mobconv.model.sources.torchscript",
    "torch_save": "mobconv.model.sources.torch_save",
    "pretrained": "mobconv.model.sources.pretrained",
    "timm": "mobconv.model.sources.timm",
    "torchvision": "mobconv.model.sources.torchvision",
}
