"""neuralnetwork files built layer by layer, for tests of how they are run."""

import numpy as np

from mobconv.backends.apple.vendor import proto
from mobconv.backends.mlmodel import model, params, runner

RNG = np.random.default_rng(0)


class Spec:
    """A neuralnetwork, built layer by layer; each takes the last result unless told otherwise."""

    def __init__(self, *shape, name="x", exact=True):
        self.spec = proto().Model_pb2.Model(specificationVersion=4 if exact else 3)
        self.net = self.spec.neuralNetwork
        self.net.arrayInputShapeMapping = self.net.imageInputShapeMapping = int(exact)
        if shape:
            feature = self.spec.description.input.add(name=name)
            feature.type.multiArrayType.shape.extend(shape)
            feature.type.multiArrayType.dataType = 65568
        self.last = name

    def add(self, kind, inputs=None, outputs=None, **fields):
        """fields: of the layer's parameters; arrays become WeightParams, dicts messages."""
        layer = self.net.layers.add(name=f"{kind} {len(self.net.layers)}")
        layer.input.extend([self.last] if inputs is None else inputs)
        layer.output.extend(outputs or [f"v{len(self.net.layers)}"])
        held = getattr(layer, kind)
        held.SetInParent()
        fill(held, fields)
        self.last = layer.output[0]
        return held

    def save(self, path):
        if not self.spec.description.output:
            self.spec.description.output.add(name=self.last).type.multiArrayType.dataType = 65568
        path.write_bytes(model.serialize(self.spec))
        return path

    def run(self, path, **feeds):
        found = runner.open_model(self.save(path), platform="linux").run(feeds)
        return next(iter(found.values()))


def fill(message, fields):
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            params.put_floats(getattr(message, name), value)
        elif isinstance(value, dict):
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for each in value:
                fill(getattr(message, name).add(), each)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)


def borders(top, bottom, left, right):
    edges = [{"startEdgeSize": top, "endEdgeSize": bottom}, {"startEdgeSize": left, "endEdgeSize": right}]
    return {"borderAmounts": edges}


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)
