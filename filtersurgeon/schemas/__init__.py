"""JSON Schemas of what the commands print: ``NAME-VERSION.json``, one file each.

A document names its schema in its key ``schema``, such as ``filtersurgeon.ranking/1``. The version
goes up when a key goes or changes its meaning; new keys leave it as it is, so readers should pass
over keys that they do not know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filtersurgeon.errors import OptionError, near_misses

_FOLDER = Path(__file__).parent
_PREFIX = "filtersurgeon."


def schema_names() -> list[str]:
    """List the names of all schemas, without versions.

    Examples:
        >>> import filtersurgeon as fs
        >>> fs.schema_names()[:3]
        ['activations', 'archetypes', 'bank']
    """
    return sorted(_versions())


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the output of a command.

    Args:
        name: such as ``ranking``, ``ranking/1`` or ``filtersurgeon.ranking/1``; without a version
            the newest.

    Raises:
        OptionError: there is none of that name or version; names the near misses.

    Examples:
        >>> import filtersurgeon as fs
        >>> fs.schema("ranking/1")["type"]
        'object'
    """
    stem, _, version = name.removeprefix(_PREFIX).partition("/")
    known = _versions()
    if stem not in known:
        raise OptionError(f"no schema called {stem!r}{near_misses(stem, known)}")
    wanted = version or str(max(known[stem]))
    if wanted not in map(str, known[stem]):
        there = ", ".join(map(str, sorted(known[stem])))
        raise OptionError(f"schema {stem} has no version {wanted!r}; there is {there}")
    content: dict[str, Any] = json.loads((_FOLDER / f"{stem}-{wanted}.json").read_text("utf-8"))
    return content


def _versions() -> dict[str, list[int]]:
    """Find the versions of each schema by the names of the files."""
    found: dict[str, list[int]] = {}
    for path in sorted(_FOLDER.glob("*.json")):
        stem, _, version = path.stem.rpartition("-")
        found.setdefault(stem, []).append(int(version))
    return found
