"""Write the generated pages: references of commands and methods, the first page, manual pages.

Measured results that several pages quote come from ``results.json``.

``--check`` compares instead of writing, and exits with 1 where a page is out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from command_page import command_page
from manual_pages import manual_pages
from method_pages import method_pages
from results import fill, quoted_pages
from schema_page import schema_page

DOCS = Path(__file__).parent
DO_NOT_EDIT = "<!-- Written by docs/generate.py; do not edit. -->\n\n"


def index() -> str:
    """Write the first page: the README, its links turned to where the pages lie."""
    text = fill("README.md", (DOCS.parent / "README.md").read_text("utf-8"))
    # Files that are no pages of the site lose their links.
    text = re.sub(r"\[([^\]]+)\]\((?!docs/|https?:)[^)]+\)", r"\1", text)
    return DO_NOT_EDIT + text.replace("(docs/", "(")


def pages() -> dict[str, str]:
    """Write every page: its path below docs -> its text."""
    manual = {f"man/{name}": text for name, text in manual_pages().items()}
    quoting = {
        str(Path("..", page)): fill(page, (DOCS.parent / page).read_text("utf-8"))
        for page in quoted_pages()
    }
    written = {
        "index.md": index(),
        "commands.md": DO_NOT_EDIT + command_page(),
        "schemas.md": DO_NOT_EDIT + schema_page(),
        **{name: DO_NOT_EDIT + text for name, text in method_pages().items()},
    }
    return written | manual | quoting


def main() -> None:
    """Write the pages and remove those of things that are gone, or compare with ``--check``."""
    wanted = pages()
    written = (*DOCS.glob("man/*"), *DOCS.glob("methods/*/*"))
    present = {str(path.relative_to(DOCS)) for path in written}
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
