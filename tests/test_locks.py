"""One process at a time in a folder, and no trace of one that was killed."""

import os
import signal
import subprocess
import sys

import pytest

from mobconv.common import locks
from mobconv.errors import LockedError

HOLD = """
import sys, pathlib
from mobconv.common import locks
with locks.folder(pathlib.Path(sys.argv[1]), "mobconv sweep"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_of_the_first(tmp_path, holder):
    told = rf"in use by mobconv sweep, process {holder.pid}\. Wait .* another folder \(out=\)"
    with pytest.raises(LockedError, match=told) as found, locks.folder(tmp_path, "mobconv export"):
        pytest.fail("both are in")
    assert found.value.exit_code == 6
    assert all(found.value.message(style).endswith("another folder (-o)") for style in ("cli", "recipe"))
    holder.communicate("")
    with locks.folder(tmp_path, "mobconv export"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / locks.NAME).exists()
    with locks.folder(tmp_path, "mobconv sweep"):
        assert str(os.getpid()) in (tmp_path / locks.NAME).read_text()
    assert list(tmp_path.iterdir()) == []


def test_two_threads_of_one_process_are_two(tmp_path):
    held, told = locks.folder(tmp_path, "mobconv sweep"), pytest.raises(LockedError, match=str(os.getpid()))
    with held, told, locks.folder(tmp_path, "mobconv sweep"):
        pytest.fail("both are in")


def test_a_name_that_its_holder_removed_meanwhile_is_not_a_lock(tmp_path, monkeypatch):
    """Opened, and before it is locked its last holder leaves: a third one would make the name anew, and both be in."""
    real, gone = locks._lock, []

    def late(stream, wait):
        if not gone:
            gone.append(True)
            (tmp_path / locks.NAME).unlink()
        return real(stream, wait)

    monkeypatch.setattr(locks, "_lock", late)
    with locks.folder(tmp_path, "first"):
        assert (tmp_path / locks.NAME).exists()
        with pytest.raises(LockedError), locks.folder(tmp_path, "second"):
            pytest.fail("both are in")
