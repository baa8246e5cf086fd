"""docs/your-own.md and the README's second screen, typed as they stand: two checkpoints, from scripts to a gate."""

import re
import subprocess
import sys

import pytest
from support import FIXTURES
from walkthrough import FENCE, Block, Reader, commands, missing

ROOT = FIXTURES.parent
PAGE = (ROOT / "docs" / "your-own.md").read_text()
README = (ROOT / "README.md").read_text()


def section(page, title):
    """The fenced blocks below a heading."""
    text = re.split(r"^## ", page.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]
    return [Block(found[1], found[2] or "", found[3]) for found in FENCE.finditer(text)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "fixtures").symlink_to(FIXTURES)
    with Reader(folder) as started:
        yield started


def typed(reader, blocks):
    for block in blocks:
        if block.title:
            (reader.folder / block.title).write_text(block.text)
            continue
        for command in commands(block):
            name, _, rest = command.line.partition(" ")
            if name == "pip":
                continue
            if name == "python":
                subprocess.run([sys.executable, rest], check=True, capture_output=True, cwd=reader.folder)
                continue
            code, output = reader.types(command)
            assert code == command.code, f"$ {command.line}\n{output}"
            shown = [line.partition("  ")[0] for line in command.shown]
            printed = "\n".join(line.partition("  ")[0] for line in output.splitlines())
            assert missing(shown, printed) == [], f"$ {command.line}\n{output}"


@pytest.mark.slow
def test_both_ways_in_go_from_a_script_to_a_gate(reader):
    pytest.importorskip("transformers")
    typed(reader, section(PAGE, "A folder of Hugging Face transformers"))
    typed(reader, section(PAGE, "A Lightning file"))
    for path in ("onnx/w8-linear.onnx", "tflite/w8-linear.tflite", "coreml/w8-linear.mlpackage"):
        assert (reader.folder / "out" / path).exists()
    typed(reader, section(README, "Your own model"))  # of the same files


def test_the_readme_shows_commands_of_the_page():
    """The second screen is short; its files are those that the page makes."""
    on_page = [
        command.line.split(" #")[0].split()
        for block in FENCE.finditer(PAGE)
        if block[1] == "console"
        for command in commands(Block(block[1], "", block[3]))
    ]
    shown = [
        command.line.split(" #")[0].split()
        for block in section(README, "Your own model")
        for command in commands(block)
    ]
    assert len(shown) == 5
    for words in shown[1:]:
        assert words in on_page
