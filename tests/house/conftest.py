import pytest
from copied import Copy


@pytest.fixture
def copy(tmp_path):
    copy = Copy(tmp_path)
    yield copy
    copy.close()
