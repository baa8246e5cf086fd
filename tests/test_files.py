"""Whole or not at all, and a full disk is OutputError."""

import errno
import os
import sys
from pathlib import Path

import pytest

from mobconv.common import files
from mobconv.errors import OutputError


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_written_whole(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    files.write_whole(path, b"one")
    files.write_whole(path, "two")
    assert path.read_text() == "two" and names(path.parent) == ["file.bin"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.bin"
    files.write_whole(path, b"old")
    with pytest.raises(RuntimeError), files.aside(path) as partial:
        partial.write_bytes(b"half of the ne")
        raise RuntimeError
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_nothing(tmp_path, stop):
    with pytest.raises(stop), files.aside(tmp_path / "pack") as partial:
        partial.mkdir()
        (partial / "part").write_bytes(b"1")
        raise stop
    assert names(tmp_path) == []


def test_a_folder_replaces_a_folder(tmp_path):
    for content in ("one", "two"):
        with files.aside(tmp_path / "pack") as partial:
            partial.mkdir()
            (partial / content).touch()
    assert names(tmp_path) == ["pack"] and names(tmp_path / "pack") == ["two"]


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_whole(tmp_path / "mine", b"")
    assert (tmp_path / "mine" / "thesis.tex").exists() and names(tmp_path) == ["mine"]


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "mine").write_text("years of work")
    with pytest.raises(OutputError, match="cannot be written"), files.aside(tmp_path / "mine") as partial:
        partial.mkdir()
    assert (tmp_path / "mine").read_text() == "years of work" and names(tmp_path) == ["mine"]


@pytest.mark.parametrize("below", ["onnx", "onnx/deep"])
def test_a_file_where_a_folder_should_be(tmp_path, below):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot be written.*choose another folder \(out=\)") as found:
        files.write_whole(tmp_path / "out" / below / "fp32.onnx", b"")
    assert found.value.message("cli").endswith("choose another folder (-o)")
    assert names(tmp_path) == ["out"]


def test_what_to_do_where_there_is_no_such_option(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot be written \(.*\); name another file$"):
        files.write_whole(tmp_path / "out" / "a.xml", "", "name another file")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(tmp_path, code):
    with pytest.raises(OutputError, match="the disk is full"), files.aside(tmp_path / "a.onnx") as partial:
        partial.write_bytes(b"half")
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_is_not_writable(tmp_path, code):
    with pytest.raises(OutputError, match="cannot be written"), files.aside(tmp_path / "a.onnx"):
        raise OSError(code, os.strerror(code))


@pytest.mark.skipif(sys.platform != "linux", reason="a file system that says so of names that cannot be made")
def test_a_name_that_cannot_be_made():
    for place in ("/proc/out", "/proc/out/onnx/a.onnx"):
        with pytest.raises(OutputError, match="cannot be written"):
            files.write_whole(Path(place), b"")
        with pytest.raises(OutputError, match="cannot be written"):
            files.ensure_folder(Path(place))


def test_other_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError), files.aside(tmp_path / "a.onnx"):
        (tmp_path / "gone").read_bytes()


def test_size_and_hash_of_a_folder(tmp_path):
    for folder, moved in (("a", "x/1"), ("b", "x/1"), ("c", "x1")):
        target = tmp_path / folder / moved
        target.parent.mkdir(parents=True)
        target.write_bytes(b"12345")
    assert files.size(tmp_path / "a") == 5 == files.size(tmp_path / "a" / "x" / "1")
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b") != files.sha256(tmp_path / "c")


def test_remove_takes_what_is_there_and_minds_nothing_else(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    files.remove(tmp_path / "link")
    assert names(tmp_path) == ["folder"]
    files.remove(tmp_path / "folder")
    files.remove(tmp_path / "gone")
    assert names(tmp_path) == []
