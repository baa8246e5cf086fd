"""recipes/thesis-listing.yaml end to end: the sweep, and what `compare` says of its file."""

import json
from pathlib import Path

import pytest
from support import DATA, FIXTURES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_listing_loses_to_preprocessing_and_the_probe_names_the_sign_of_the_bias(cli, tmp_path):
    code, _, err = cli("sweep", ROOT / "recipes" / "thesis-listing.yaml", "-o", tmp_path / "listing")
    assert code == 0, err
    file = tmp_path / "listing" / "coreml" / "fp32.mlpackage"
    code, out, err = cli("compare", FIXTURES / "digits-mobilenet-v2.safetensors", file, "--data", DATA, "--json")
    assert code == 0, err
    comparison = json.loads(out)
    losses = {step["name"]: step["loss"] for step in comparison["steps"]}
    assert losses["preprocessing"] > 50
    assert losses["preprocessing"] >= 0.9 * comparison["total"]["loss"]
    # every step after quantization but the last: at most 2 of 2,000 images
    assert max(abs(losses["graph"]), abs(losses["precision"])) <= 0.1
    probe = comparison["probe"]
    assert probe["named"].startswith("the sign of the bias")
    assert abs(probe["restored_score"] - probe["reference_score"]) <= 100 * 2 / comparison["images"]
    assert "bias=[-1.0, -1.0, -1.0]" in probe["corrected_call"]
    # the file that the README shows is this one, as it was printed
    shown = (ROOT / "docs" / "listing.txt").read_text()
    assert f"{losses['preprocessing']:.2f} are lost to preprocessing" in shown
