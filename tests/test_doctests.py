"""The examples in docstrings run, and give what they say."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import filtersurgeon as fs

PACKAGE = Path(__file__).parents[1] / "filtersurgeon"
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    done = doctest.testmod(import_module(name))
    assert done.attempted
    assert not done.failed


@pytest.mark.parametrize("name", [x for x in fs.__all__ if inspect.isfunction(getattr(fs, x))])
def test_every_public_function_has_an_example(name):
    assert f"fs.{name}(" in inspect.getdoc(getattr(fs, name))
