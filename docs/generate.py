"""Write the generated pages: references of commands and methods, the first page, manual pages.

``--check`` compares instead of writing, and exits with 1 where a page is out of date.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from manual_pages import manual_pages
from schema_page import schema_page

from filtersurgeon.registry import (
    BANKS,
    COMPENSATIONS,
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
    """Write the page of ranking methods, transforms, what belongs to them, banks and studies."""
    sections = (
        ("Ranking methods", RANKING_METHODS),
        ("Transforms", TRANSFORMS),
        ("Compensations", COMPENSATIONS),
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


def pages() -> dict[str, str]:
    """Write every page: its path below docs -> its text."""
    manual = {f"man/{name}": text for name, text in manual_pages().items()}
    return {
        "index.md": index(),
        "commands.md": commands(),
        "methods.md": methods(),
        "schemas.md": DO_NOT_EDIT + schema_page(),
        **manual,
    }


def main() -> None:
    """Write the pages and remove those of things that are gone, or compare with ``--check``."""
    wanted = pages()
    present = {str(path.relative_to(DOCS)) for path in DOCS.glob("man/*")}
    gone = sorted(present - wanted.keys())
    stale = [
        name
        for name, text in wanted.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text("utf-8") != text
    ]
    if "--check" in sys.argv:
        if stale or gone:
            sys.exit(f"out of date: {', '.join(stale + gone)}; run `make format`")
        return
    for name in stale:
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(wanted[name], "utf-8")
    for name in gone:
        (DOCS / name).unlink()


if __name__ == "__main__":
    main()
