"""What many tests share: the trained fixture, traced once, its images, and the command line in a folder of its own."""

import os
import re
import sys

import numpy as np
import pytest
from support import CHECKPOINT, USER_MODULE, CommandLine

# as the command line does, before torch is there: see mobconv.cli.app.main
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_itemcollected(item):
    """Leave the laboratory's cells of 7 and 6 bits to the slow matrix: 5 and 3 are stored as they are."""
    if "lab" in getattr(item, "fixturenames", ()) and re.search(r"\bw[76]-", item.name):
        item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def program():
    """The trained fixture as a traced program, batch norm folded."""
    from safetensors.torch import load_file

    from mobconv.model.trace import trace
    from mobconv.zoo.fed_mobilenet_v2 import fed_mobilenet_v2

    module = fed_mobilenet_v2(classes=10, width=0.25)
    module.load_state_dict(load_file(CHECKPOINT))
    return trace(module, {"image": np.zeros((1, 3, 32, 32), np.float32)})


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    """The command line; `user_nets.py` is a module of the user's beside him."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "user_nets.py").write_text(USER_MODULE)
    sys.path.insert(0, str(tmp_path))  # `import user_nets` in a test finds the module that the command line finds
    yield CommandLine(tmp_path, capsys)
    sys.modules.pop("user_nets", None)
