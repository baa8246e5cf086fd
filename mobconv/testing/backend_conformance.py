"""Conformance suite of backends: everything that mobconv expects of a format, tested on small networks that it makes.

In a test file of the package that registers the format:

    from mobconv.testing.backend_conformance import BackendConformance

    class TestMyFormat(BackendConformance):
        backend = "myformat"

and `pytest` runs it. Nothing is skipped: a format has to report the cells that it does not support. Outputs are
compared with PyTorch, on the weights that the quantizer chose. The name of each test says what it checks.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mobconv import backends
from mobconv.backends.base import Auditable, Backend, Entry, Runner, Sliceable
from mobconv.data.preprocessing import raw
from mobconv.errors import BackendError, InputError, UsageError
from mobconv.model import image_input
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Scheme
from mobconv.testing.bias_conformance import BiasConformance
from mobconv.testing.cells import SCHEMES, cell_named, every_cell
from mobconv.testing.comparing import CLOSE, assert_close, digest_of, files_of, size_of
from mobconv.testing.networks import (
    LABELS,
    PREPROCESSING,
    Arrays,
    Converted,
    convert,
    once,
    one_image,
    two_inputs,
)

RECORD = json.dumps({"cell": "any", "labels": LABELS, "text": "x" * 3000})


class BackendConformance(BiasConformance):
    """Tests of the backend of a name. Subclass it as `Test...`, and set `backend`."""

    backend: str = ""

    @pytest.fixture
    def tested(self) -> Backend:
        """The backend."""
        return backends.get(self.backend)

    @pytest.fixture
    def vectors(self, tested: Backend, tmp_path_factory: pytest.TempPathFactory) -> Converted:
        """A network of two inputs and two outputs, of linear layers, converted once."""

        def now() -> Converted:
            return convert(tested, Entry(two_inputs()), tmp_path_factory.mktemp("vectors"), tested.default_compute)

        return once(("vectors", self.backend, tested.default_compute), now)

    @pytest.fixture
    def images(self, tested: Backend, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Compute], Converted]:
        """A network of convolutions that takes an image, by precision of compute, each converted once."""

        def converted(compute: Compute) -> Converted:
            def now() -> Converted:
                entry = tested.image_entry(one_image(), PREPROCESSING, LABELS, "image", tested.options({}))
                return convert(tested, entry, tmp_path_factory.mktemp("images"), compute)

            return once(("images", self.backend, compute), now)

        return converted

    # what a backend says of itself

    def test_it_is_installed_and_describes_itself(self, tested: Backend) -> None:
        assert tested.name == self.backend and tested.missing() is None
        others = [backends.get(name).suffix for name in backends.names() if name != self.backend]
        assert tested.suffix and "." not in tested.suffix and tested.suffix not in others
        assert tested.versions() and all(isinstance(text, str) for text in tested.versions().values())
        assert tested.support(cell_named(tested, "fp32")).stored_bits == 32, "fp32 at the default precision of compute"

    def test_its_source_packages_exist_and_its_own_is_among_them(self, tested: Backend) -> None:
        assert all(find_spec(package) is not None for package in tested.source_packages)
        module = type(tested).__module__
        assert any(module == package or module.startswith(f"{package}.") for package in tested.source_packages)

    def test_it_loads_without_frameworks_and_vendors_packages(self, tested: Backend) -> None:
        known = {"mobconv", *sys.stdlib_module_names, *(package.split(".")[0] for package in tested.source_packages)}
        script = f"import sys; sys.path[:] = {sys.path}\nfrom mobconv import backends\n"
        script += f"known = {known} | set(sys.modules)\nbackends.get({self.backend!r})\n"
        script += "print({name.partition('.')[0] for name in sys.modules} - known)"
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert run.stdout == "set()\n", "imported with the backend's module; import these inside functions"

    def test_options_are_checked(self, tested: Backend) -> None:
        assert tested.options_schema["type"] == "object" and json.dumps(tested.options_schema)
        assert not tested.options({})
        with pytest.raises(UsageError, match="no_such_option"):
            tested.options({"no_such_option": 1})

    def test_support_has_a_width_or_a_reason_for_every_cell(self, tested: Backend) -> None:
        for cell in every_cell(tested):
            support = tested.support(cell)
            if support.stored_bits is None:
                assert support.reason, f"{cell}: unsupported, and no reason"
            else:
                assert support.stored_bits >= cell.scheme.bits, f"{cell}: codes lose bits"
                assert support.requires, f"{cell}: the oldest runtime is not named"
                assert support.stored_bits == cell.scheme.bits or support.reason, f"{cell}: wider, and no reason"

    def test_a_suggested_fix_is_python_with_the_networks_figures(self, tested: Backend, vectors: Converted) -> None:
        spec = backends.TensorSpec("image", (1, 3, 8, 8), "float32")
        text = tested.suggested_fix(spec, PREPROCESSING, raw())
        ast.parse(text)
        assert "0.4" in text and "0.2" in text

    # files

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_outputs_of_images_are_those_of_pytorch(
        self, tested: Backend, images: Callable[[Compute], Converted], scheme: str, tmp_path: Path
    ) -> None:
        cell = cell_named(tested, scheme)
        if _is_refused(tested, cell, images(tested.default_compute), tmp_path):
            return
        network, path = images(cell.compute), tmp_path / f"file.{tested.suffix}"
        encoded = network.encode(cell, path)
        assert encoded.support.stored_bits == tested.support(cell).stored_bits
        assert 0 < encoded.weight_bytes < size_of(path)
        runner = tested.open(path)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8)).astype(np.uint8)
        feeds = _fed(network.entry, runner, pixels)
        assert_close(runner.run(feeds), network.expected(cell.scheme, feeds), CLOSE[cell.compute])
        assert runner.labels in ((), LABELS)
        assert tested.runtime_label(runner.verified)
        runner.close()

    @pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "@fp16" not in scheme])
    def test_weights_in_the_file_are_the_quantizers_bit_for_bit(
        self, tested: Backend, vectors: Converted, scheme: str, tmp_path: Path
    ) -> None:
        """Rows of the identity matrix bring each weight of a linear layer to the output: one product, the rest 0."""
        cell = cell_named(tested, scheme)
        if _is_refused(tested, cell, vectors, tmp_path):
            return
        path = tmp_path / f"file.{tested.suffix}"
        vectors.encode(cell, path)
        runner = tested.open(path)
        feeds = {"first": np.eye(12, dtype=np.float32), "second": np.zeros((12, 5), np.float32)}
        columns = runner.run(feeds)["output_0"]
        runner.close()
        expected = vectors.model(cell.scheme).weights["first.weight"].dequantize().T
        np.testing.assert_array_equal(columns, expected)

    def test_inputs_and_outputs_have_the_programs_names_shapes_and_types(
        self, tested: Backend, vectors: Converted, tmp_path: Path
    ) -> None:
        runner = _opened(vectors, tmp_path)
        example = vectors.program.example
        assert {spec.name: spec.shape[1:] for spec in runner.inputs} == {n: v.shape[1:] for n, v in example.items()}
        assert {spec.name: spec.dtype for spec in runner.inputs} == {n: str(v.dtype) for n, v in example.items()}
        assert [spec.name for spec in runner.outputs] == list(vectors.program.outputs)
        runner.close()

    @pytest.mark.parametrize("count", [1, 4])
    def test_any_number_of_samples_runs(self, tested: Backend, vectors: Converted, count: int, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        shapes = {name: (count, *value.shape[1:]) for name, value in vectors.program.example.items()}
        feeds: Arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        runner = _opened(vectors, tmp_path, threads=1)
        # in another order: inputs go by name
        outputs = runner.run(dict(reversed(feeds.items())))
        runner.close()
        assert_close(outputs, vectors.expected(Scheme(32), feeds), CLOSE[tested.default_compute])

    def test_a_record_travels_and_counts_for_no_weight(
        self, tested: Backend, vectors: Converted, tmp_path: Path
    ) -> None:
        cell, path, bare = cell_named(tested, "fp32"), tmp_path / f"a.{tested.suffix}", tmp_path / f"b.{tested.suffix}"
        assert vectors.encode(cell, path, RECORD).weight_bytes == vectors.encode(cell, bare).weight_bytes
        for file, record in ((path, RECORD), (bare, "")):
            runner = tested.open(file)
            assert runner.record == record
            runner.close()

    def test_files_are_reproducible(self, tested: Backend, vectors: Converted, tmp_path: Path) -> None:
        again = convert(tested, vectors.entry, tmp_path / "template", tested.default_compute)
        cell = next(cell for cell in every_cell(tested) if cell.scheme.mode and tested.support(cell).stored_bits)
        digests = set()
        for number, network in enumerate((vectors, vectors, again)):
            path = tmp_path / f"{number}.{tested.suffix}"
            network.encode(cell, path, RECORD)
            digests.add(digest_of(path))
        assert len(digests) == 1

    # what goes wrong

    def test_unsupported_cells_are_refused(self, tested: Backend, vectors: Converted, tmp_path: Path) -> None:
        model = vectors.model(Scheme(32))
        for cell in every_cell(tested):
            if tested.support(cell).stored_bits is None:
                with pytest.raises(BackendError):
                    tested.encode(vectors.template, model, cell, tmp_path / "file")
        assert list(tmp_path.iterdir()) == []

    def test_a_failing_encoder_leaves_no_file_and_no_changed_one(
        self, tested: Backend, vectors: Converted, tmp_path: Path
    ) -> None:
        cell, path = cell_named(tested, "fp32"), tmp_path / f"file.{tested.suffix}"
        weights = dict(vectors.model(cell.scheme).weights)
        del weights["second.weight"]
        with pytest.raises(BackendError, match=r"second\.weight"):
            tested.encode(vectors.template, QuantizedModel(weights), cell, path)
        assert list(tmp_path.iterdir()) == []
        vectors.encode(cell, path)
        before = digest_of(path)
        with pytest.raises(BackendError):
            tested.encode(vectors.template, QuantizedModel(weights), cell, path)
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name] and digest_of(path) == before

    def test_activation_ranges_are_encoded_or_refused_by_name(
        self, tested: Backend, vectors: Converted, tmp_path: Path
    ) -> None:
        cell, path = cell_named(tested, "fp32"), tmp_path / f"file.{tested.suffix}"
        model = QuantizedModel(vectors.model(cell.scheme).weights, {}, {"first": (0.0, 1.0)})
        try:
            tested.encode(vectors.template, model, cell, path)
        except BackendError as error:
            assert "first" in str(error) and list(tmp_path.iterdir()) == []

    def test_missing_damaged_and_foreign_files_are_input_errors(
        self, tested: Backend, vectors: Converted, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError):
            tested.open(tmp_path / f"missing.{tested.suffix}")
        foreign = tmp_path / f"foreign.{tested.suffix}"
        foreign.write_text("something else\n" * 20)
        with pytest.raises(InputError, match="foreign"):
            tested.open(foreign)
        path = tmp_path / f"file.{tested.suffix}"
        vectors.encode(cell_named(tested, "fp32"), path)
        largest = max(files_of(path), key=lambda file: file.stat().st_size)
        content = largest.read_bytes()
        for damaged in (b"", content[: len(content) // 2]):
            largest.write_bytes(damaged)
            with pytest.raises(InputError):
                tested.open(path).close()
            if isinstance(tested, Auditable):
                with pytest.raises(InputError):
                    tested.size_audit(path)

    # images

    def test_a_tensor_input_stays_what_it_was(self, tested: Backend) -> None:
        program = one_image()
        entry = tested.image_entry(program, PREPROCESSING, LABELS, "tensor", None)
        assert entry.program is program and entry.preprocessing == PREPROCESSING

    def test_a_network_that_takes_no_images_keeps_its_tensors(self, tested: Backend) -> None:
        program = two_inputs()
        for kind in image_input.INPUTS:
            assert tested.image_entry(program, PREPROCESSING, (), kind, None).program is program
            assert tested.image_entry(program, None, (), kind, None).preprocessing is None

    @pytest.mark.parametrize("kind", ["image", "image-uint8"])
    def test_an_image_is_normalised_inside(self, tested: Backend, kind: str) -> None:
        """Whatever type and layout the backend chooses: pixels as they are in, the network's outputs out."""
        program = one_image()
        entry = tested.image_entry(program, PREPROCESSING, LABELS, kind, None)
        assert entry.preprocessing is not None and entry.preprocessing.untouched
        pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
        ((name, example),) = entry.program.example.items()
        fed = entry.preprocessing(pixels).astype(example.dtype)
        assert fed.shape == example.shape
        assert_close(entry.program.run({name: fed}), program.run({"image": PREPROCESSING(pixels)}), CLOSE[Compute.FP32])

    # optional parts

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_an_audit_accounts_for_the_file_and_finds_the_bits_that_support_promises(
        self, tested: Backend, images: Callable[[Compute], Converted], scheme: str, tmp_path: Path
    ) -> None:
        cell, path = cell_named(tested, scheme), tmp_path / f"file.{tested.suffix}"
        if not isinstance(tested, Auditable) or tested.support(cell).stored_bits is None:
            return
        network = images(cell.compute)
        support = network.encode(cell, path, RECORD).support
        audit = tested.size_audit(path)
        assert audit.file_bytes == size_of(path) and audit.record == RECORD
        assert sum(tensor.weights for tensor in audit.tensors) == sum(
            int(np.prod(site.shape)) for site in network.program.sites.values()
        )
        if cell.scheme.mode is not None:
            assert {tensor.stored for tensor in audit.tensors} == {support.stored_bits}

    @pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "@fp16" not in scheme])
    def test_a_graph_view_decodes_the_weights_and_computes_what_the_runner_does(
        self, tested: Backend, images: Callable[[Compute], Converted], scheme: str, tmp_path: Path
    ) -> None:
        cell, path = cell_named(tested, scheme), tmp_path / f"file.{tested.suffix}"
        if not isinstance(tested, Sliceable) or tested.support(cell).stored_bits is None:
            return
        network = images(cell.compute)
        network.encode(cell, path)
        view, runner = tested.graph_view(path), tested.open(path)
        stored = view.run({}, [op.weight for op in view.ops if op.weight])
        # layouts differ: what is compared is every value, as often as it is there
        decoded = [np.sort(values.ravel()) for values in stored.values()]
        for weight in network.model(cell.scheme).weights.values():
            values = np.sort(weight.dequantize().ravel())
            assert any(np.array_equal(values, other) for other in decoded), weight.name
        feeds = _fed(network.entry, runner, np.random.default_rng(1).integers(0, 256, (1, 3, 8, 8)).astype(np.uint8))
        view.settle(dict(zip(view.inputs, feeds.values(), strict=True)))
        outputs = view.run(dict(zip(view.inputs, feeds.values(), strict=True)), list(view.outputs))
        assert_close(
            dict(zip(network.program.outputs, outputs.values(), strict=True)),
            runner.run(feeds),
            CLOSE[tested.default_compute],
        )
        view.close()
        runner.close()


def _is_refused(backend: Backend, cell: Cell, network: Converted, folder: Path) -> bool:
    """Whether `support` has no width for a cell; `encode` then has to refuse it too."""
    if backend.support(cell).stored_bits is not None:
        return False
    with pytest.raises(BackendError):
        network.encode(cell, folder / "file")
    assert list(folder.iterdir()) == []
    return True


def _opened(network: Converted, folder: Path, threads: int = 0) -> Runner:
    """The fp32 file of a network."""
    path = folder / f"opened.{network.backend.suffix}"
    network.encode(cell_named(network.backend, "fp32"), path)
    return network.backend.open(path, threads)


def _fed(entry: Entry, runner: Runner, pixels: NDArray[np.uint8]) -> Arrays:
    """Pixels (N, 3, H, W) as a file takes them: in the layout and type of its own input."""
    assert entry.preprocessing is not None
    ((name, example),) = entry.program.example.items()
    assert [spec.name for spec in runner.inputs] == [name]
    return {name: entry.preprocessing(pixels.transpose(0, 2, 3, 1)).astype(example.dtype)}


__all__ = ["BackendConformance"]
