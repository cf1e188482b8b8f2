"""A page for every method, from its docstring, its parameters and its formula."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filtersurgeon.registry import (
    BANKS,
    COMPENSATIONS,
    INITIALIZERS,
    RANKING_METHODS,
    STUDIES,
    TRANSFORMS,
    Registry,
)

FORMULAS = Path(__file__).parent / "formulas"


@dataclass(frozen=True)
class Family:
    """Methods of one kind.

    Attributes:
        title: of its section.
        folder: below ``methods`` and ``formulas``.
        registry: where its members are found.
        usage: a command with one of them; ``{}`` stands for its name.
    """

    title: str
    folder: str
    registry: Registry
    usage: str


FAMILIES = (
    Family("Ranking methods", "ranking", RANKING_METHODS, "rank m.safetensors --method {}"),
    Family("Transforms", "transforms", TRANSFORMS, "{} m.safetensors -o out.safetensors"),
    Family(
        "Compensations", "compensations", COMPENSATIONS,
        "prune m.safetensors --per-layer --sparsity 0.3 --compensate {} -o out.safetensors",
    ),
    Family(
        "Initialisations", "initializations", INITIALIZERS,
        "initialize m.safetensors --method {} -o out.safetensors",
    ),
    Family("Banks", "banks", BANKS, "replace m.safetensors --bank {} -o out.safetensors"),
    Family("Studies", "studies", STUDIES, "study {} m.safetensors"),
)  # fmt: skip


def method_pages() -> dict[str, str]:
    """Write the overview and a page per method: path below docs -> Markdown."""
    pages = {"methods.md": _overview()}
    for family in FAMILIES:
        for name in family.registry.names():
            pages[f"methods/{family.folder}/{name}.md"] = _page(family, name)
    return pages


def _overview() -> str:
    parts = [
        "# Methods\n\nA page for each, with its formula, its parameters and where it comes from. "
        "Parameters are given with `-p name=value`, or in a [recipe](recipes.md) by their names."
    ]
    for family in FAMILIES:
        rows = "\n".join(
            f"| [`{name}`](methods/{family.folder}/{name}.md) | {family.registry.summary(name)} |"
            for name in family.registry.names()
        )
        parts.append(f"## {family.title}\n\n| | |\n|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def _page(family: Family, name: str) -> str:
    registry = family.registry
    sections = _sections(inspect.getdoc(registry.function(name)) or "")
    about, source = _sourced(sections[""])
    parts = [f"# {name}\n\n{registry.summary(name)}"]
    formula = FORMULAS / family.folder / f"{name}.md"
    if formula.exists():
        parts.append(formula.read_text("utf-8").strip())
    parts.append(f"```sh\nfsurgeon {family.usage.format(name)}\n```")
    parts.append(_marked(about))
    if rows := list(_parameters(registry, name, sections.get("Args", ""))):
        head = "| parameter | default | meaning |\n|---|---|---|\n"
        parts.append("## Parameters\n\n" + head + "\n".join(rows))
    if "Returns" in sections:
        parts.append(f"## Returns\n\n{_marked(sections['Returns'])}")
    if "Raises" in sections:
        parts.append(f"## Raises\n\n{_listed(sections['Raises'])}")
    if "Examples" in sections:
        parts.append(f"## Example\n\n```pycon\n{sections['Examples']}\n```")
    if source:
        parts.append(f"## Source\n\n{_marked(source)}")
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _sourced(text: str) -> tuple[str, str]:
    """Cut off the source where there is one and it ends the text."""
    pieces = re.split(r"^Source[^:]*:\s", text, flags=re.MULTILINE)
    alone = len(pieces) == 2 and text.count("Source") == 1
    return (pieces[0], pieces[1]) if alone else (text, "")


def _sections(document: str) -> dict[str, str]:
    """Cut a docstring at ``Args:``, ``Returns:`` and so on; what comes first is ``""``."""
    pieces = re.split(r"^(Args|Returns|Raises|Yields|Examples):\n", document, flags=re.MULTILINE)
    named = zip(pieces[1::2], pieces[2::2], strict=True)
    return {"": pieces[0], **{title: inspect.cleandoc("\n" + text) for title, text in named}}


def _parameters(registry: Registry, name: str, text: str) -> Iterator[str]:
    described = dict(_entries(text))
    for key, parameter in registry.options(name).items():
        default = "" if parameter.default is parameter.empty else f"`{parameter.default}`"
        meaning = _sentence(_marked(described.get(key, ""))).replace("|", "\\|")
        yield f"| `{key}` | {default} | {meaning} |"


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Give name and description of every entry of a section."""
    for entry in re.split(r"\n(?=\S)", text):
        name, _, description = entry.partition(":")
        yield name.strip(), " ".join(description.split())


def _listed(text: str) -> str:
    return "\n".join(f"- `{name}`: {_marked(meaning)}" for name, meaning in _entries(text))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _marked(text: str) -> str:
    """Turn the marks of docstrings into Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").strip()
