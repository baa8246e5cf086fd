"""Our formats pass the suite that third parties run on theirs, and so does a format in a package of its own."""

import pytest
from plugins.registered import registered

from mobconv.testing.backend_conformance import BackendConformance


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory):
    with registered("toyformat", tmp_path_factory.mktemp("site")) as package:
        yield package


class TestOnnx(BackendConformance):
    backend = "onnx"


@pytest.mark.slow
class TestTFLite(BackendConformance):
    backend = "tflite"


class TestCoreML(BackendConformance):
    backend = "coreml"


@pytest.mark.slow
class TestCoreMLNeuralNetwork(BackendConformance):
    backend = "coreml-mlmodel"


class TestToyFormat(BackendConformance):
    backend = "toyformat"
