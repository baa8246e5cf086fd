"""The laboratory of the matrix: one for the whole session."""

import pytest
from laboratory import Laboratory


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("e2e"))


@pytest.fixture(scope="session")
def digits():
    """The test images, all of them."""
    from support import DATA

    from mobconv.data.labelled import load

    return load(str(DATA))
