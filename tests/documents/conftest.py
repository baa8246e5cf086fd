"""The tutorial, typed once."""

import pytest
from support import FIXTURES
from walkthrough import Reader, blocks, commands


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory):
    """(command, exit code, output) of each command of the tutorial, and the folder that it ends in."""
    start = tmp_path_factory.mktemp("checkout")
    (start / "fixtures").symlink_to(FIXTURES)
    done = []
    with Reader(start) as reader:
        for block in blocks("tutorial.md"):
            if block.title:
                (reader.folder / block.title).write_text(block.text)
                continue
            assert block.language == "console"
            done += [(command, *reader.types(command)) for command in commands(block)]
    assert reader.folder == start / "out" / "tutorial"
    return done, reader.folder
