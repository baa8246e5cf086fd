"""Plain English in docstrings, comments, messages and documents: words that need a second reading stay out."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("mobconv", "docs", "benchmarks", "fixtures") for path in sorted((ROOT / folder).rglob("*.py"))
]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "fixtures").glob("*.md")])

# a word or phrase -> what to write instead
WORDS = {
    r"\btold\b": "say, print, name: 'the command line says'",
    r"\blest\b": "so that ... not",
    r"\banew\b": "again",
    r"\bfor want of\b": "because there is no",
    r"(?<!there )\bis no (?!longer\b|more\b|less\b|larger\b|slower\b|better\b|bound\b|limit\b)\w+": "is not a; unknown",
    r"(?<!there )\bare no (?!longer\b|more\b|less\b|larger\b|slower\b|better\b|independent\b)\w+": "are not",
    r"\bwhat is there\b": "name it",
    r"\bfor all its\b": "in spite of",
    r"\bheld (against|to)\b": "compared with, checked against",
    r"\bhold(s|ing)? (against|to)\b": "compare with, check against",
    r"\bbut for\b": "except",
    r"\bnone the\b": "no",
    r"\bmade of it\b": "name it",
}
ALLOWED = {"CHANGELOG.md"}  # past releases' lines stay as they were written
# variables named so say nothing of what they contain
NAMES = {"found", "held", "told", "own", "left", "takes"}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings, texts and comments of a module, with their lines."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def complaints(number: int, text: str) -> Iterator[str]:
    """Words of a text that are on the list."""
    for pattern, instead in WORDS.items():
        for word in re.finditer(pattern, " ".join(text.split()), re.IGNORECASE):
            yield f"line {number}: {word[0]!r} ({instead})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_messages_and_comments_are_plain(path):
    assert [complaint for number, text in texts(path) for complaint in complaints(number, text)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_have_the_name_of_what_they_contain(path):
    names = {node.id: node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    names |= {node.arg: node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.arg)}
    arguments = {node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.arg)}
    allowed = {"left"} if {"right", "top"} & set(names) else set()  # the side of a box
    allowed |= {"takes"} & arguments  # the setting of that name
    assert {name: line for name, line in names.items() if name in NAMES - allowed} == {}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_plain(path):
    if path.name in ALLOWED:
        return
    text = path.read_text()
    assert [each for number, line in enumerate(text.splitlines(), 1) for each in complaints(number, line)] == []


def test_the_list_finds_what_it_lists():
    assert list(complaints(1, "w9 is no scheme, lest it be told anew")) != []
    assert list(complaints(1, "there is no longer a file")) == []
