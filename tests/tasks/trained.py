"""Small networks of each task, trained in seconds: checkpoint, data and recipe, written into a folder.

`python tests/tasks/trained.py TASK FOLDER` writes one of them to try by hand.
"""

import sys
from pathlib import Path

import numpy as np

NETS = '''
import torch
from torch import nn


class Tokens(nn.Module):
    """int64 tokens (N, 7) below 50 -> 4 classes."""

    def __init__(self):
        super().__init__()
        self.e, self.c, self.fc = nn.Embedding(50, 16), nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, tokens):
        return self.fc(torch.relu(self.c(self.e(tokens).transpose(1, 2))).mean(2))


class Field(nn.Module):
    """A field (N, 2, 12, 20) and settings (N, 3) -> two numbers."""

    def __init__(self):
        super().__init__()
        self.c, self.m, self.fc = nn.Conv2d(2, 8, 3, 2, 1), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, field, settings):
        return self.fc(torch.relu(self.c(field)).mean((2, 3)) + torch.relu(self.m(settings)))


class Segmenter(nn.Module):
    """Images of 12x20 -> 3 classes for each pixel."""

    def __init__(self):
        super().__init__()
        self.e, self.bn, self.d = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return self.d(torch.relu(self.bn(self.e(x))))


class Signal(nn.Module):
    """A signal (N, 1, 40) -> a vector (N, 8)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv1d(1, 8, 5, 2, 2), nn.Conv1d(8, 8, 5, 2, 2), nn.Linear(80, 8)

    def forward(self, x):
        return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).flatten(1))


class Detector(nn.Module):
    """Images of 16x24 with one square -> its box, and scores of two classes, by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, 2, 1)
        self.box, self.kind = nn.Linear(12 * 4 * 6, 4), nn.Linear(12 * 4 * 6, 2)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x)))).flatten(1)
        return {"found": self.box(x) * 24, "kind": self.kind(x)}


def tokens():
    return Tokens()


def field():
    return Field()


def segmenter():
    return Segmenter()


def signal():
    return Signal()


def detector():
    return Detector()


def boxes(sample):
    """One sample's outputs -> boxes, scores, classes."""
    odds = torch.tensor(sample["kind"]).softmax(0).numpy()
    return {"boxes": sample["found"][None], "scores": odds.max()[None], "classes": odds.argmax()[None]}
'''
SEEN, NEW = 600, 160  # samples to train on, and those that files are measured on
HALF = "preprocessing: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}\n"


def tokens(rng):
    x = rng.integers(0, 50, (SEEN + NEW, 7))
    return {"tokens": x}, {"label": (x < 12).sum(1).clip(0, 3)}


def field(rng):
    x = rng.normal(size=(SEEN + NEW, 2, 12, 20)).astype(np.float32) + rng.normal(size=(SEEN + NEW, 2, 1, 1))
    settings = rng.uniform(size=(SEEN + NEW, 3))
    target = np.stack([np.abs(x).mean((1, 2, 3)) + settings[:, 0], settings[:, 1] * 2], 1)
    return {"field": x.astype(np.float32), "settings": settings.astype(np.float32)}, {"target": target}


def segmenter(rng):
    masks = np.zeros((SEEN + NEW, 12, 20), np.uint8)
    for mask in masks:
        for kind in (1, 2):
            top, side = rng.integers(0, 8), rng.integers(0, 14)
            mask[top : top + 4, side : side + 6] = kind
    colours = np.array([[60, 60, 60], [200, 80, 60], [60, 90, 200]])
    pixels = colours[masks] + rng.normal(0, 25, (*masks.shape, 3))
    return {"image": pixels.clip(0, 255).astype(np.uint8)}, {"mask": masks}


def signal(rng):
    label = rng.integers(0, 4, SEEN + NEW)
    time = np.linspace(0, 1, 40)[None] + rng.uniform(size=(SEEN + NEW, 1)) * 0.1
    wave = np.sin(2 * np.pi * (label[:, None] + 1) * time) + 0.2 * rng.normal(size=(SEEN + NEW, 40))
    return {"x": wave[:, None].astype(np.float32)}, {"label": label}


def detector(rng):
    count = SEEN + NEW
    pixels = rng.integers(0, 60, (count, 16, 24, 3)).astype(np.uint8)
    boxes, kinds = np.zeros((count, 1, 4), np.float32), rng.integers(0, 2, (count, 1))
    for number in range(count):
        size, top, side = rng.integers(5, 9), rng.integers(0, 7), rng.integers(0, 15)
        pixels[number, top : top + size, side : side + size, kinds[number, 0] * 2] = 230
        boxes[number, 0] = side, top, side + size, top + size
    return {"image": pixels}, {"target_boxes": boxes, "target_classes": kinds}


def losses(name, outputs, targets):
    from torch.nn import functional

    if name == "detector":
        kinds = functional.cross_entropy(outputs["kind"], targets["target_classes"][:, 0])
        return kinds + (outputs["found"] - targets["target_boxes"][:, 0]).abs().mean()
    (target,) = targets.values()
    return (outputs - target).square().mean() if name == "field" else functional.cross_entropy(outputs, target.long())


# task -> network, its data, steps of training, more lines of the recipe, and the largest or least score that it reaches
TASKS = {
    "classification": ("tokens", tokens, 120, "", 70),
    "regression": ("field", field, 200, "", 0.1),
    "segmentation": ("segmenter", segmenter, 60, f"{HALF}input_shape: [1, 3, 12, 20]\n", 75),
    "embedding": ("signal", signal, 80, "input_shape: [1, 1, 40]\n", 0.99),
    "detection": (
        "detector", detector, 250, f"{HALF}input_shape: [1, 3, 16, 24]\npostprocess: task_nets:boxes\n", 30,
    ),
    "fidelity": ("segmenter", segmenter, 60, f"{HALF}input_shape: [1, 3, 12, 20]\n", 0),
}  # fmt: skip


def make(task: str, folder: Path) -> str:
    """Write task_nets.py, net.pt2 or net.safetensors, and set.npz -> the recipe without backends and schemes."""
    import torch
    from safetensors.torch import save_file

    (folder / "task_nets.py").write_text(NETS)
    names: dict = {}
    exec(NETS, names)
    name, data, steps, more, _ = TASKS[task]
    torch.manual_seed(0)
    inputs, targets = data(np.random.default_rng(0))
    net = names[name]()
    fed = {key: torch.from_numpy(value) for key, value in inputs.items()}
    if "image" in fed:
        fed = {"image": (fed["image"].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5}
    wanted = {
        key: torch.from_numpy(value.astype(np.float32 if value.dtype.kind == "f" else np.int64))
        for key, value in targets.items()
    }
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(steps):
        places = torch.randint(SEEN, (128,))
        optimizer.zero_grad()
        outputs = net(*(value[places] for value in fed.values()))
        losses(name, outputs, {key: value[places] for key, value in wanted.items()}).backward()
        optimizer.step()
    net.eval()
    if task == "fidelity":
        targets = {}
    np.savez(folder / "set.npz", **{key: value[SEEN:] for key, value in {**inputs, **targets}.items()})
    save_file(net.state_dict(), folder / "net.safetensors")
    if len(fed) > 1 or next(iter(fed.values())).dtype == torch.int64:
        program = torch.export.export(net, tuple(value[:1] for value in fed.values()))
        torch.export.save(program, folder / "net.pt2")
        where = "checkpoint: net.pt2\n"
    else:
        where = f"checkpoint: net.safetensors\nmodel: task_nets:{name}\n"
    return f"{where}{more}data: set.npz\ntask: {task}\n"


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    recipe = make(sys.argv[1], folder) + "backends: [onnx, tflite, coreml]\nschemes: [fp32, w8-linear]\n"
    (folder / "recipe.yaml").write_text(recipe)
