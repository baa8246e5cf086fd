"""A kind of checkpoint is added by one new file and one line."""

SOURCE = '''
"""A text file that names a safetensors file beside it."""

from pathlib import Path

KIND = "a .link file"


def accepts(reference):
    """By its suffix."""
    return reference.endswith(".link") and Path(reference).is_file()


def _linked(reference):
    return str(Path(reference).parent / Path(reference).read_text().strip())


def fingerprint(reference, options):
    """That of the named file."""
    from mobconv.model.checkpoint import fingerprint as of_file

    return of_file(_linked(reference), options)


def load(reference, options):
    """The named file."""
    from mobconv.model.checkpoint import load as of_file

    return of_file(_linked(reference), options)
'''


def test_a_source_is_one_file_and_one_line(copy):
    copy.add("model/sources/link.py", SOURCE)
    copy.register("model/sources/__init__.py", "SOURCES = {", '    "link": "mobconv.model.sources.link",')
    assert copy.touched() == (["model/sources/link.py"], ["model/sources/__init__.py: 1"])
    (copy.folder / "net.link").write_text("net.safetensors\n")
    copy.export("net.link", "--to", "onnx")
    rows = copy.sweep("checkpoint: net.link\nbackends: onnx\nschemes: fp32")
    assert rows[0]["status"] == "ok" and rows[0]["conversion_loss"] == 0
    assert "met" in copy.check("max_drop: 1")
