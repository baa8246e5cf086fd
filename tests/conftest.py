"""What many tests share: the trained fixture, traced once, and its images."""

from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHECKPOINT = FIXTURES / "digits-fed-mobilenet-v2-w025.safetensors"
DATA = FIXTURES / "digits-test.parquet"


@pytest.fixture(scope="session")
def program():
    """The trained fixture as a traced program, batch norm folded."""
    import torch
    from safetensors.torch import load_file

    from mobconv.trace import trace
    from mobconv.zoo.fed_mobilenet_v2 import fed_mobilenet_v2

    torch.set_num_threads(2)
    module = fed_mobilenet_v2(classes=10, width=0.25)
    module.load_state_dict(load_file(CHECKPOINT))
    return trace(module, {"image": np.zeros((1, 3, 32, 32), np.float32)})
