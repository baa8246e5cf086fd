"""Families of transformers' image classifiers, from folders of save_pretrained to files that compute what PyTorch does.

Files are read back from disk and run in their runtimes, Core ML in our executor, against the module of transformers.
"""

import pytest

pytest.importorskip("transformers")
from classifiers import CLOSE, FAMILIES, FORMATS, measure, vendor

# what a format refuses for a limit of the vendor's, and words of the vendor's own converter
REFUSED = {("hiera", "coreml"): "rank <= 5"}
QUICK = {"resnet": ("onnx",), "vit": ("onnx",)}


def check(family, formats):
    """Each format has a file that computes what the module does, or is on the list of those that cannot."""
    refused = {each for name, each in REFUSED if name == family.name}
    assert set(family.refused) == refused.intersection(formats), family.refused
    assert set(family.error) == set(formats) - refused
    # of a network whose outputs depend on its input, and whose quantized weights are others
    assert family.varied > 0.01 and family.changed > CLOSE
    assert all(error < CLOSE for error in family.error.values()), family.error
    assert all(error < CLOSE for error in family.quantized.values()), family.quantized
    assert len(formats) == 1 or family.apart < CLOSE


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FAMILIES)
def test_files_compute_what_the_module_does(name, tmp_path):
    check(measure(name, tuple(FORMATS), tmp_path), tuple(FORMATS))


@pytest.mark.parametrize("name", QUICK)
def test_some_formats_of_quick_families(name, tmp_path):
    check(measure(name, QUICK[name], tmp_path), QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "format_name"), REFUSED)
def test_the_vendors_converter_alone_refuses_it_too(name, format_name):
    assert format_name == "coreml" and REFUSED[name, format_name] in vendor(name)


def test_at_least_twenty_families_and_few_refusals():
    assert len(FAMILIES) >= 20 and len(REFUSED) <= len(FAMILIES) * len(FORMATS) * 3 // 60
