"""Image classifiers of transformers in small random configurations, and their files of three formats, measured.

`python tests/families/classifiers.py [FAMILY ...]` prints the table of docs/your-own.md, a line for each family.
"""

import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import lively

FORMATS = {"onnx": "ONNX", "tflite": "TFLite", "coreml": "Core ML"}
SCHEMES = ("fp32", "w4-kmeans")
CLOSE = 1e-3  # of the largest output: far above rounding in fp32, far below a wrong constant

# hidden size, layers and so on of a plain vision transformer
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_IMAGES = {"image_size": 32, "patch_size": 8}
_PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 3, 4]}
_SHIFTED = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
_STAGES = {"hidden_sizes": [8, 16, 16, 24], "depths": [1] * 4}
_TOWER = {"vision_config": {**_VIT, **_IMAGES}}

# family -> class without ForImageClassification, settings of its configuration, shape where they do not say it
FAMILIES = {
    "beit": ("Beit", {**_VIT, **_IMAGES}, None),
    "bit": ("Bit", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4}, 32),
    "clip": ("CLIP", _TOWER, 32),
    "convnext": ("ConvNext", {**_STAGES, "layer_scale_init_value": 0.3}, 64),
    "convnextv2": ("ConvNextV2", _STAGES, 64),
    "cvt": ("Cvt", {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}, 32),
    "data2vec-vision": ("Data2VecVision", {**_VIT, **_IMAGES}, None),
    "deit": ("DeiT", {**_VIT, **_IMAGES}, None),
    "dinov2": ("Dinov2", {**_VIT, **_IMAGES, "mlp_ratio": 2}, None),
    "dinov2_with_registers": ("Dinov2WithRegisters", {**_VIT, **_IMAGES, "mlp_ratio": 2}, None),
    "donut-swin": ("DonutSwin", _SHIFTED, None),
    "efficientnet": (
        "EfficientNet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": 32},
        None,
    ),
    "focalnet": (
        "FocalNet",
        {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
        None,
    ),
    "hgnet_v2": (
        "HGNetV2",
        {
            "embedding_size": 8,
            "depths": [1, 1],
            "hidden_sizes": [16, 24],
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 16],
            "stage_mid_channels": [8, 8],
            "stage_out_channels": [16, 24],
            "stage_num_blocks": [1, 1],
            "stage_numb_of_layers": [2, 2],
            "stage_downsample": [False, True],
            "stage_light_block": [False, True],
            "stage_kernel_size": [3, 5],
        },
        32,
    ),
    "hiera": (
        "Hiera",
        {
            "image_size": [32, 32],
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "num_query_pool": 1,
            "masked_unit_size": [4, 4],
        },
        None,
    ),
    "ijepa": ("IJepa", {**_VIT, **_IMAGES}, None),
    "imagegpt": ("ImageGPT", {"n_positions": 16, "vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 2}, (1, 16)),
    "levit": (
        "Levit",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1] * 3,
            "key_dim": [8] * 3,
        },
        None,
    ),
    "metaclip_2": ("MetaClip2", _TOWER, 32),
    "mobilenet_v1": ("MobileNetV1", {"depth_multiplier": 0.25, "image_size": 32}, None),
    "mobilenet_v2": ("MobileNetV2", {"depth_multiplier": 0.25, "image_size": 32}, None),
    "mobilevit": (
        "MobileViT",
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
            "num_attention_heads": 2,
            "image_size": 64,
        },
        None,
    ),
    "mobilevitv2": (
        "MobileViTV2",
        {
            "width_multiplier": 0.25,
            "base_attn_unit_dims": [64, 96, 128],
            "n_attn_blocks": [1] * 3,
            "image_size": 64,
        },
        None,
    ),
    "perceiver": (
        "Perceiver",
        {
            "num_latents": 8,
            "d_latents": 16,
            "d_model": 32,
            "num_blocks": 1,
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 1,
            "image_size": 16,
        },
        (1, 3, 16, 16),
    ),
    "poolformer": ("PoolFormer", _STAGES, 32),
    "pp_lcnet": ("PPLCNet", {"scale": 0.25}, 32),
    "pvt": ("Pvt", {**_PYRAMID, "image_size": 32}, None),
    "pvt_v2": ("PvtV2", {**_PYRAMID, "image_size": 32}, None),
    "regnet": ("RegNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4}, 32),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}, 32),
    "segformer": ("Segformer", _PYRAMID, 32),
    "siglip": ("Siglip", _TOWER, 32),
    "swiftformer": ("SwiftFormer", {"image_size": 32, "embed_dims": [8, 16, 16, 24], "depths": [1] * 4}, None),
    "swin": ("Swin", _SHIFTED, None),
    "swinv2": ("Swinv2", _SHIFTED, None),
    "textnet": ("TextNet", {}, 32),
    "vit": ("ViT", {**_VIT, **_IMAGES}, None),
    "vit_msn": ("ViTMSN", {**_VIT, **_IMAGES}, None),
}
CLASSES = {"perceiver": "PerceiverForImageClassificationLearned"}


@dataclass
class Family:
    """What became of one family.

    error      of each format's fp32 file against the module of transformers, over its largest output
    quantized  of each format's w4-kmeans file against PyTorch with the same quantized weights
    apart      the largest difference of two formats' w4-kmeans files
    changed    of the reference with quantized weights from the float module: that these are other weights at all
    varied     of the module's outputs for two inputs: that it computes something of its input
    seconds    of conversion and both files, by format
    refused    why a format has no file
    """

    name: str
    error: dict = field(default_factory=dict)
    quantized: dict = field(default_factory=dict)
    apart: float = float("nan")
    changed: float = float("nan")
    varied: float = float("nan")
    seconds: dict = field(default_factory=dict)
    refused: dict = field(default_factory=dict)


def make(name, folder):
    """Save a family's network as the library does -> the module, and the shape to load it with; None for its own."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    stem, settings, shape = FAMILIES[name]
    torch.manual_seed(0)
    architecture = getattr(transformers, CLASSES.get(name, f"{stem}ForImageClassification"))
    config = architecture.config_class(**settings, num_labels=5)
    module = lively(architecture(config))
    shape = (1, 3, shape, shape) if isinstance(shape, int) else shape
    if module.main_input_name == "pixel_values":
        size = shape[2:] if shape else np.broadcast_to(config.image_size, 2)
        _calibrate(module, torch.randn(8, 3, *size))
    module.save_pretrained(folder)
    return module, shape


def _calibrate(module, images):
    """Give batch norms roughly the statistics of their inputs, so that a deep network still depends on its input."""
    norms = [each for each in module.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(pixel_values=images)
        for norm in norms:
            norm.running_mean.add_(0.2 * norm.running_var.sqrt() * torch.randn(len(norm.running_mean)))
            norm.running_var.mul_(torch.rand(len(norm.running_var)) + 0.5)
    module.eval()


def measure(name, formats=tuple(FORMATS), folder=None):
    """Save, load, export and run one family. folder: an empty one, or None for a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            return measure(name, formats, Path(scratch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _measured(name, formats, folder)


def _measured(name, formats, folder):
    from mobconv import backends
    from mobconv.errors import MobconvError
    from mobconv.model.checkpoint import Options, load
    from mobconv.pipeline.build import build
    from mobconv.pipeline.context import Context, Plan
    from mobconv.pipeline.reference import reference

    family = Family(name)
    module, shape = make(name, folder / "net")
    checkpoint = load(str(folder / "net"), Options(input_shape=shape))
    context = Context(lambda: checkpoint, Plan(input="tensor", threads=1), folder)
    inputs, others = (_inputs(checkpoint.example, seed) for seed in (1, 2))
    wanted = _run(module, inputs)
    family.varied = _departure(_run(module, others), wanted)
    outputs = {}
    for scheme in SCHEMES:
        for each in formats:
            if each in family.refused:
                continue
            backend, start = backends.get(each), time.perf_counter()
            cell = backends.cell(f"{each}/{scheme}@fp32")
            try:
                path = build(cell, context, folder / cell.path(backend.suffix)).path
                outputs[each, scheme] = _run_file(backend.open(path, 1), inputs)
            except MobconvError as error:
                family.refused[each] = str(error)
            family.seconds[each] = family.seconds.get(each, 0) + time.perf_counter() - start
    cell = backends.cell(f"onnx/{SCHEMES[1]}")
    model = context.quantized(cell.scheme).model
    same_weights = reference(context.program, model, cell.scheme).run(inputs)
    (same_weights,) = same_weights.values()
    family.changed = _departure(same_weights, wanted)
    for each in formats:
        if each not in family.refused:
            family.error[each] = _departure(outputs[each, SCHEMES[0]], wanted)
            family.quantized[each] = _departure(outputs[each, SCHEMES[1]], same_weights)
    pairs = combinations([value for (_, scheme), value in outputs.items() if scheme == SCHEMES[1]], 2)
    family.apart = max((_departure(first, second) for first, second in pairs), default=float("nan"))
    return family


def _inputs(example, seed):
    """Random inputs of the example's shapes and dtypes; a mask stays full."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=value.shape).astype(np.float32)
        if value.dtype.kind == "f"
        else value
        if name.endswith("mask")
        else rng.integers(0, 10, value.shape)
        for name, value in example.items()
    }


def _run(module, inputs):
    """Logits of the library's own module."""
    name = module.main_input_name
    tensors = {name if key == "image" else key: torch.from_numpy(value) for key, value in inputs.items()}
    with torch.inference_mode():
        return module(**tensors)[0].numpy()


def _run_file(runner, inputs):
    """Outputs of a file's only output, read back from disk."""
    try:
        (output,) = runner.run({spec.name: inputs[spec.name] for spec in runner.inputs}).values()
        return output
    finally:
        runner.close()


def _departure(outputs, wanted):
    """The largest difference over the largest wanted value; NaN stays NaN."""
    return float(np.abs(outputs.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max())


def vendor(name):
    """Convert a family with coremltools alone, at its newest target -> what it raises, or '' where it converts."""
    import coremltools
    import transformers

    class Logits(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, images):
            return self.module(pixel_values=images)[0]

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, shape = make(name, folder)
        size = shape[2:] if shape else np.broadcast_to(module.config.image_size, 2)
        transformers.utils.logging.set_verbosity_error()
        exported = torch.export.export(Logits(module), (torch.randn(1, 3, *map(int, size)),)).run_decompositions({})
        try:
            target = coremltools.target.iOS18
            coremltools.convert(exported, minimum_deployment_target=target, skip_model_load=True)
        except Exception as error:  # dozens of types
            return str(error)
    return ""


def line(family):
    """A row of the table: errors of fp32 files, the largest difference between w4-kmeans files, seconds."""
    errors = [f"{family.error[each]:.0e}" if each in family.error else "refused" for each in FORMATS]
    seconds = sum(family.seconds.values())
    return f"| `{family.name}` | {' | '.join(errors)} | {family.apart:.0e} | {seconds:.0f} |"


def main(names):
    """Print the table, and below a family why a format has no file."""
    print(f"| family | {' | '.join(FORMATS.values())} | w4-kmeans | seconds |")
    print("| --- |" + " ---: |" * (len(FORMATS) + 2))
    for name in names or FAMILIES:
        family = measure(name)
        print(line(family), flush=True)
        for each, reason in family.refused.items():
            print(f"  {each}: {reason}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
