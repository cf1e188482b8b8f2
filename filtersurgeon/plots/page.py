"""Self-contained HTML pages: nothing is fetched, and all foreign text is escaped."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.atomic import check_ending, write_bytes

if TYPE_CHECKING:
    from jinja2 import Environment


def check_page_path(path: str | None, force: bool = False) -> None:
    """Refuse, before any work, a page that cannot be written.

    Raises:
        OptionError: it does not end in .html.
        CheckpointError: the path cannot be written.
    """
    check_ending(path, (".html", ".htm"), "a page ends in .html", force)


def write_page(template: str, path: str | Path, **values: Any) -> None:
    """Fill a template in and write the page.

    Args:
        template: its file in ``templates``.
        path: where to.
        values: for the template; texts are escaped.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_bytes(Path(path), fill_page(template, **values).encode())


def fill_page(template: str, **values: Any) -> str:
    """Fill a template in.

    Args:
        template: its file in ``templates``.
        values: for the template; texts are escaped.
    """
    page = _environment().get_template(template).render(**values)
    # The name of a file may hold bytes that are no text.
    return page.encode("utf-8", "backslashreplace").decode()


def picture_address(png: bytes) -> str:
    """Give a picture as an address that holds it."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def script_data(content: Any) -> str:
    """Write data as JSON that no browser takes for markup, whatever its texts say."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
