"""What mkdocs does beside its plugins: formulas as MathML, and the pages of methods in the menu."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_FAMILIES = ("ranking", "transforms", "compensations", "initializations", "banks", "studies")


def on_config(config: Any) -> Any:
    """Put a page per method below ``Methods``, so that a new one needs no edit."""
    docs = Path(config["docs_dir"])
    for section in config["nav"]:
        if "Methods" in section:
            for family in _FAMILIES:
                pages = sorted((docs / "methods" / family).glob("*.md"))
                listed = [{page.stem: str(page.relative_to(docs))} for page in pages]
                section["Methods"].append({family.capitalize(): listed})
    return config


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers show without a script or a request."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match["tag"] == "div" else "inline"
    drawn = str(convert(html.unescape(match["latex"]).strip(), display=display))
    # Bars of a norm are as high as letters; stretched, they would not stand on the line.
    return drawn.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
