"""The order of the rooms and of their modules: no import goes up, and none goes round."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "filtersurgeon"

# Lowest first; rooms of one line do not import each other.
ORDER = [
    ["errors"],
    ["registry", "schemas"],
    ["checkpoint"],
    ["networks"],
    ["archetypes", "filters", "doctor"],
    ["graph"],
    ["data"],
    ["learn"],
    ["banks"],
    ["ranking"],
    ["explain"],
    ["pruning"],
    ["transforms"],
    ["inspection", "recipe"],
    ["plots"],
    ["see"],
    ["report", "walk", "exports"],
    ["studies"],
    ["cli"],
]
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
APART = {"__init__", "__main__", "timm_hook"}  # the public names, lazily, and two entry points


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def _imported(path: Path, known: set[str], types: bool) -> Iterator[str]:
    """Give the modules that a file imports, wherever the line stands."""
    tree = ast.parse(path.read_text("utf-8"))
    left_out = set() if types else _typing_only(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("filtersurgeon."):
                inner = name.removeprefix("filtersurgeon.")
                yield inner if inner in known else inner.rpartition(".")[0] or inner


def _edges(types: bool = True) -> list[tuple[str, str]]:
    modules = dict(_modules())
    return [
        (name, other)
        for name, path in modules.items()
        for other in _imported(path, set(modules), types)
        if name not in APART and other in modules and other != name
    ]


def test_every_room_has_its_place():
    rooms = {name.partition(".")[0] for name, _ in _modules()} - APART
    assert rooms == set(LEVELS)


def test_rooms_and_the_imports_between_them_are_few():
    pairs = {(name.partition(".")[0], other.partition(".")[0]) for name, other in _edges()}
    assert len(LEVELS) <= 32
    assert len({(room, its) for room, its in pairs if room != its}) <= 200


def test_no_room_imports_a_higher_one():
    wrong = [
        f"{name} imports {other}"
        for name, other in _edges()
        if (room := name.partition(".")[0]) != (its := other.partition(".")[0])
        and LEVELS[its] >= LEVELS[room]
    ]
    assert not wrong, "\n".join(wrong)


def _typing_only(tree: ast.AST) -> set[ast.AST]:
    """Give the nodes below ``if TYPE_CHECKING``, which never run."""
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    guarded = (n for n in tests if isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING")
    return {inner for node in guarded for inner in ast.walk(node)}


def test_no_modules_import_each_other():
    modules = dict(_modules())
    edges = {name: set() for name in modules if name not in APART}
    for name, other in _edges(types=False):
        edges[name].add(other)
    # Modules that import nothing any more are taken away until none is left, or a cycle.
    while ready := {name for name, others in edges.items() if not others & edges.keys()}:
        edges = {name: others for name, others in edges.items() if name not in ready}
    assert not edges, {name: sorted(others & edges.keys()) for name, others in edges.items()}


def test_contributing_names_the_rooms_in_their_order():
    tree = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("```\n")[2].partition("```")[0]
    assert [line.split()[0] for line in tree.splitlines()] == [r for rooms in ORDER for r in rooms]


def test_the_paths_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for title, most in (
        ("How a cut is made", 20),
        ("How replace works", 10),
        ("How rank works", 10),
    ):
        table = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
        assert most / 2 <= len(re.findall(r"(?m)^\| `", table)) <= most
    paths = re.findall(r"`((?:filtersurgeon|tests)/[\w./-]+)`", text)
    assert len(paths) > 25
    for path in paths:
        # A file to add is called `my_...`; its folder is there.
        found = ROOT / path
        assert (found.parent if found.name.startswith("my") else found).exists(), path
