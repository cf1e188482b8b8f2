"""The reference of all commands, in Markdown, written from the application itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer.main

from filtersurgeon.cli.application import app
from filtersurgeon.cli.verbs import command_groups, option_groups


def command_page() -> str:
    """Write the page."""
    application: Any = typer.main.get_command(app)
    context = application.make_context("fsurgeon", [], resilient_parsing=True)
    return "\n\n".join(_described("fsurgeon", application, context, "# Commands")) + "\n"


def _described(path: str, command: Any, context: Any, heading: str) -> Iterator[str]:
    yield heading
    # A lone \b keeps the terminal help from wrapping; in Markdown a block of code does.
    text = inspect.cleandoc(command.help)
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        yield _code(map(str.strip, lines[1:])) if lines[0] == "\b" else paragraph
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"**Usage**:\n\n{_code([f'$ {path} {usage}'])}"
    for title, rows in option_groups(command, context):
        yield f"**{title}**:\n\n" + "\n".join(f"* `{name}`: {text}" for name, text in rows)
    if command.epilog:
        yield f"**Example**:\n\n{_code([f'$ {command.epilog}'])}"
    inner = getattr(command, "commands", {})
    if not inner:
        return
    level = heading.partition(" ")[0] + "#"
    for title, rows in command_groups(command):
        listed = (f"* `{path} {name}`: {text}" for name, text in rows)
        yield f"**{title}**:\n\n" + "\n".join(listed)
    for name, each in inner.items():
        below = type(context)(each, info_name=name, parent=context)
        yield from _described(f"{path} {name}", each, below, f"{level} `{path} {name}`")


def _code(lines: Any) -> str:
    return "\n".join(("```console", *lines, "```"))
