"""Write measured results into the pages that quote them, from ``results.json``.

A result is quoted in words around ``{1}`` or ``{2}``: the value with so many digits after the
point.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")


def quoted_pages() -> list[str]:
    """List the pages that quote results, as paths from the root of the project."""
    return sorted({page for each in _results().values() for page in each["quoted"]})


def fill(page: str, text: str) -> str:
    """Give the text of a page with every result that it quotes as it was measured.

    Raises:
        ValueError: the page does not quote a result in the words that ``results.json`` has.
    """
    for name, result in _results().items():
        for words in result["quoted"].get(page, ()):
            before, digits, after = re.split(r"\{(\d)\}", words)
            pattern = rf"({re.escape(before)})\d+\.\d+({re.escape(after)})"
            found = f"{result['top1']:.{digits}f}"
            text, count = re.subn(pattern, rf"\g<1>{found}\g<2>", text)
            if count != 1:
                raise ValueError(f"{page} has {words!r} of {name!r} {count} times, not once")
    return text


def _results() -> dict[str, dict]:
    return dict(json.loads(RESULTS.read_text("utf-8")))
