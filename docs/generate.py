"""Write the generated pages: the command reference, and the tables of methods and banks.

``--check`` compares instead of writing, and exits with 1 where a page is out of date.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from filtersurgeon.registry import (
    BANKS,
    INITIALIZERS,
    RANKING_METHODS,
    STUDIES,
    TRANSFORMS,
    Registry,
)

DOCS = Path(__file__).parent
DO_NOT_EDIT = "<!-- Written by docs/generate.py; do not edit. -->\n\n"


def commands() -> str:
    """Write the reference of every command from the application itself."""
    command = [sys.executable, "-m", "typer", "filtersurgeon.cli.application", "utils", "docs"]
    plain = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    shown = subprocess.run(
        [*command, "--name", "fsurgeon", "--title", "Commands"],
        capture_output=True,
        text=True,
        check=True,
        env=plain,
        cwd=DOCS.parent,
    )
    # A lone \b keeps the terminal help from wrapping; in Markdown the indent does.
    lines = (line.rstrip() for line in shown.stdout.splitlines() if line.strip() != "\b")
    return DO_NOT_EDIT + "\n".join(lines).strip() + "\n"


def drop_ins(title: str, registry: Registry) -> str:
    """Write a section with the docstrings of every drop-in of a registry."""
    parts = [f"## {title}\n"]
    for name in registry.names():
        document = inspect.getdoc(registry.function(name)) or ""
        parts.append(f"### `{name}`\n\n{registry.summary(name)}\n\n```text\n{document}\n```\n")
    return "\n".join(parts)


def methods() -> str:
    """Write the page of ranking methods, transforms, initialisations, banks and studies."""
    sections = (
        ("Ranking methods", RANKING_METHODS),
        ("Transforms", TRANSFORMS),
        ("Initialisations", INITIALIZERS),
        ("Banks", BANKS),
        ("Studies", STUDIES),
    )
    pages = [drop_ins(title, registry) for title, registry in sections]
    return DO_NOT_EDIT + "# Methods\n\n" + "\n".join(pages)


def index() -> str:
    """Write the front page: the README, its links turned to where the pages lie."""
    text = (DOCS.parent / "README.md").read_text("utf-8")
    # Files that are no pages of the site lose their links.
    text = re.sub(r"\[([^\]]+)\]\((?!docs/|https?:)[^)]+\)", r"\1", text)
    return DO_NOT_EDIT + text.replace("(docs/", "(")


def main() -> None:
    """Write the pages, or compare them with ``--check``."""
    pages = {"index.md": index(), "commands.md": commands(), "methods.md": methods()}
    stale = [
        name
        for name, text in pages.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text("utf-8") != text
    ]
    if "--check" in sys.argv:
        if stale:
            sys.exit(f"out of date: {', '.join(stale)}; run `make format`")
        return
    for name in stale:
        (DOCS / name).write_text(pages[name], "utf-8")


if __name__ == "__main__":
    main()
