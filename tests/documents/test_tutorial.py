"""The tutorial, typed as it stands: every command, in order, with its exit code and what it shows."""

import pytest
from walkthrough import missing

from mobconv.cli.app import app

KNOWN = {command.name for command in app.registered_commands}


def test_every_command_does_what_the_tutorial_shows(tutorial):
    done, folder = tutorial
    for command, code, output in done:
        if command.line.startswith("mobconv report") and "report" not in KNOWN:
            assert code == 2 and "No such command" in output
            continue
        assert code == command.code, f"$ {command.line}\n{output}"
        assert missing(command.shown, output) == [], f"$ {command.line}\n{output}"
    used = {command.line.split()[1] for command, _, _ in done if command.line.startswith("mobconv ")}
    assert used == {"export", "evaluate", "inspect", "sweep", "report", "check", "baseline", "compare"}
    assert {command.code for command, _, _ in done} == {0, 1}
    assert (folder / "report.html").exists() == ("report" in KNOWN)


@pytest.mark.parametrize(
    ("shown", "output", "gone"),
    [
        (["size 9 kB", "...", "took 3 s"], "size   9 kB\nx\ntook 41 s\n", []),
        (["size 9 kB"], "size 8 kB", ["size 9 kB"]),
        (["a", "b"], "b\na", ["b"]),
        (["top-1 94.50 %  1.02x"], "top-1 95.00 %  1.02x", ["top-1 94.50 %  1.02x"]),
    ],
)
def test_what_counts_as_shown(shown, output, gone):
    assert missing(shown, output) == gone
