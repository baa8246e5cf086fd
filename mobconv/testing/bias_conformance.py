"""The part of the conformance suite that is about biases which a model gives in place of the network's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobconv import backends
from mobconv.backends.base import Backend, Entry
from mobconv.errors import BackendError
from mobconv.model.biases import bias_names, distinct
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Compute
from mobconv.testing.cells import cell_named
from mobconv.testing.comparing import CLOSE, assert_close, size_of
from mobconv.testing.networks import Converted, convert, equal_biases, once, two_equal_layers

# in every way that a format may store what stands beside a bias
BIASED = ("fp32", "fp16", "w4-linear", "w3-kmeans", "w4-symmetric@native", "w4-linear@fp16")


class BiasConformance:
    """Tests of biases. Our own formats encode all of them; another format may refuse them by name."""

    backend: str = ""

    @pytest.fixture
    def biased(self, tested: Backend, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Compute], Converted]:
        """A network with equal biases, given distinct ones, by precision of compute, each converted once."""

        def converted(compute: Compute) -> Converted:
            def now() -> Converted:
                entry = Entry(distinct(equal_biases())[0])
                return convert(tested, entry, tmp_path_factory.mktemp("biased"), compute)

            return once(("biased", self.backend, compute), now)

        return converted

    def test_other_biases_are_encoded_or_refused_by_name(
        self, tested: Backend, vectors: Converted, tmp_path: Path
    ) -> None:
        cell, path = cell_named(tested, "fp32"), tmp_path / f"file.{tested.suffix}"
        biases = {"second.bias": np.arange(20, dtype=np.float32)}
        model = QuantizedModel(vectors.model(cell.scheme).weights, biases)
        try:
            tested.encode(vectors.template, model, cell, path)
        except BackendError as error:
            assert "second.bias" in str(error) and list(tmp_path.iterdir()) == []
            return
        feeds = {name: np.ones(value.shape, np.float32) for name, value in vectors.program.example.items()}
        runner = tested.open(path)
        assert_close(runner.run(feeds), vectors.program.with_values(biases).run(feeds), CLOSE[tested.default_compute])
        runner.close()

    @pytest.mark.parametrize("scheme", BIASED)
    def test_each_bias_goes_to_its_own_layer(
        self, tested: Backend, biased: Callable[[Compute], Converted], scheme: str, tmp_path: Path
    ) -> None:
        """Biases of zero and equal ones, in the network and among the new ones; our own formats refuse none."""
        cell, path = cell_named(tested, scheme), tmp_path / f"file.{tested.suffix}"
        if tested.support(cell).stored_bits is None:
            return
        rng, network = np.random.default_rng(0), biased(cell.compute)
        values = network.program.floats()
        biases = {name: rng.normal(size=values[name].shape).astype(np.float32) for name in bias_names(network.program)}
        biases["depthwise.bias"], biases["first.bias"] = biases["stem.bias"].copy(), np.zeros(8, np.float32)
        model = QuantizedModel(network.model(cell.scheme).weights, biases)
        try:
            encoded = tested.encode(network.template, model, cell, path)
        except BackendError as error:
            assert self.backend not in backends.BUILT_IN and "stem.bias" in str(error)
            return
        assert 0 < encoded.weight_bytes < size_of(path)
        feeds = {"image": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)}
        runner = tested.open(path)
        assert_close(runner.run(feeds), network.expected(cell.scheme, feeds, biases), CLOSE[cell.compute])
        runner.close()

    def test_a_bias_that_equals_another_is_placed_or_refused_by_name(self, tested: Backend, tmp_path: Path) -> None:
        """In the file of a network as it is, two equal biases look alike: neither may go to the layer of the other."""
        network = convert(tested, Entry(two_equal_layers()), tmp_path / "template", tested.default_compute)
        cell, path = cell_named(tested, "fp32"), tmp_path / f"file.{tested.suffix}"
        biases = {"second.bias": np.arange(1, 9, dtype=np.float32)}
        model = QuantizedModel(network.model(cell.scheme).weights, biases)
        feeds = {"image": np.ones((1, 4), np.float32)}
        try:
            tested.encode(network.template, model, cell, path)
        except BackendError as error:
            assert "second.bias" in str(error) and not path.exists()
            return
        runner = tested.open(path)
        assert_close(runner.run(feeds), network.expected(cell.scheme, feeds, biases), CLOSE[cell.compute])
        runner.close()
