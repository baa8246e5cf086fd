"""A sweep to judge, in a folder of its own."""

import pytest
from measured import Sweep


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "out")
