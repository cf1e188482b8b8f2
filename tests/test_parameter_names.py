"""Messages of the library name parameters of Python; the command line spells them as options."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import filtersurgeon as fs

PACKAGE = Path(fs.__file__).parent
LIBRARY = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "cli"
)
COMMAND = re.compile(r"fsurgeon( [a-z]+)+( --[a-z-]+)?")
"""Another command is named whole; so is the option that matters."""
OPTION = re.compile(r"(?<![\w{}-])(--[a-z][a-z-]*|-[a-zA-Z](?=[ =]|$))")
PARAMETER = re.compile(r"`([A-Za-z_]\w*)(?:=[^`]*)?`")


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Give the texts of a file but docstrings: line, and text with ``{}`` for what is filled in."""
    tree = ast.parse(path.read_text("utf-8"))
    passed = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed.update(map(id, node.values))
            parts = [x.value if isinstance(x, ast.Constant) else "{}" for x in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, "" if id(node) in passed else node.value


def _parameters() -> set[str]:
    found: set[str] = set()
    for name in fs.__all__:
        value = getattr(fs, name)
        if inspect.isfunction(value):
            found.update(inspect.signature(value).parameters)
        elif dataclasses.is_dataclass(value):
            found.update(field.name for field in dataclasses.fields(value))
    return found


@pytest.mark.parametrize("path", LIBRARY, ids=lambda x: str(x.relative_to(PACKAGE)))
def test_messages_name_no_options(path):
    wrong = [
        f"{path.name}:{line}: {text}"
        for line, text in _texts(path)
        if OPTION.search(COMMAND.sub("", text))
    ]
    assert not wrong


def test_what_messages_name_are_parameters_of_public_functions():
    texts = [text for path in LIBRARY for _, text in _texts(path)]
    named = {name for text in texts for name in PARAMETER.findall(text)}
    assert len(named) > 40
    assert named <= _parameters()
