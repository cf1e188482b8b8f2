"""Manual pages in roff, written from the application itself: one for all, and one per command."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer.main

from filtersurgeon import __version__
from filtersurgeon.cli.application import app
from filtersurgeon.cli.verbs import option_groups, summary

STATUS = (
    ("0", "Done."),
    ("1", "A check that was asked for did not hold."),
    ("2", "Bad usage or bad input; no output was written."),
    ("130", "Interrupted."),
    ("143", "Terminated."),
)
SURROUNDINGS = (
    ("FSURGEON_CACHE", "The folder where found architectures are remembered."),
    ("FSURGEON_DEBUG", "If set, errors show their traceback, as with --debug."),
    ("TMPDIR", "Where a piped checkpoint is kept while it is read."),
    ("NO_COLOR", "If set, tables have no colours."),
)


def manual_pages() -> dict[str, str]:
    """Write every page: file name -> roff."""
    application: Any = typer.main.get_command(app)
    context = application.make_context("fsurgeon", [], resilient_parsing=True)
    commands = dict(application.commands.items())
    pages = {"fsurgeon.1": _overview(application, context)}
    for name, command in commands.items():
        pages[f"fsurgeon-{name}.1"] = _page(name, command, context)
    return pages


def _overview(application: Any, context: Any) -> str:
    commands = application.commands
    about = _paragraphs(application.help)
    listed = [
        (f"fsurgeon-{name}(1)", summary(command)) for name, command in sorted(commands.items())
    ]
    parts = [
        _head("fsurgeon", summary(application)),
        _section("SYNOPSIS", ".B fsurgeon\n.I VERB\n[\\fIINPUT\\fR] [\\fIoptions\\fR]"),
        _section("DESCRIPTION", about),
        _section("COMMANDS", _definitions(listed)),
        *_parameters(application, context),
        _section("EXIT STATUS", _definitions(STATUS)),
        _section("ENVIRONMENT", _definitions(SURROUNDINGS)),
    ]
    return "\n".join(parts) + "\n"


def _page(name: str, command: Any, parent: Any) -> str:
    context = type(parent)(command, info_name=name, parent=parent)
    parts = [_head(f"fsurgeon-{name}", summary(command))]
    inner = getattr(command, "commands", None)
    if inner is None:
        parts.append(_section("SYNOPSIS", _synopsis(f"fsurgeon {name}", command, context)))
        parts.append(_section("DESCRIPTION", _paragraphs(command.help)))
        parts += _parameters(command, context)
        parts.append(_section("EXAMPLE", _example(command)))
    else:
        pieces = []
        for key, each in inner.items():
            below = type(parent)(each, info_name=key, parent=context)
            rows = [row for _, rows in option_groups(each, below) for row in rows]
            described = f"{_paragraphs(each.help)}\n{_definitions(rows)}.PP\n{_example(each)}"
            synopsis = _synopsis(f"fsurgeon {name} {key}", each, below)
            pieces.append(f".SS {_quoted(key)}\n{synopsis}\n.PP\n{described}")
        parts.append(_section("DESCRIPTION", _paragraphs(command.help)))
        parts.append(_section("COMMANDS", "\n".join(pieces)))
    parts.append(_section("EXIT STATUS", _definitions(STATUS)))
    parts.append(_section("SEE ALSO", ".BR fsurgeon (1)"))
    return "\n".join(parts) + "\n"


def _parameters(command: Any, context: Any) -> list[str]:
    return [
        _section(title.upper(), _definitions(rows))
        for title, rows in option_groups(command, context)
    ]


def _example(command: Any) -> str:
    return f".nf\n{_text(command.epilog)}\n.fi"


def _synopsis(words: str, command: Any, context: Any) -> str:
    pieces = command.collect_usage_pieces(context)
    usage = " ".join(piece.strip("{}").replace("OPTIONS", "options") for piece in pieces)
    return f".B {_text(words)}\n{_text(usage)}"


def _head(name: str, summary: str) -> str:
    release = _quoted(f"filtersurgeon {__version__}")
    title = f".TH {_text(name.upper())} 1 {_quoted('')} {release} {_quoted('filtersurgeon')}"
    return f"{title}\n.SH NAME\n{_text(name)} \\- {_text(summary.rstrip('.'))}"


def _section(title: str, body: str) -> str:
    return f".SH {title}\n{body.strip()}"


def _definitions(rows: Any) -> str:
    return "".join(f".TP\n.B {_text(term)}\n{_text(text)}\n" for term, text in rows)


def _paragraphs(text: str) -> str:
    """Turn a help text into roff; a lone backspace keeps the lines after it as they are."""
    parts = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if block.startswith("\b"):
            lines = "\n".join(_text(line.strip()) for line in block.splitlines()[1:])
            parts.append(f".RS\n.nf\n{lines}\n.fi\n.RE")
        else:
            parts.append(_text(" ".join(block.split())))
    return "\n.PP\n".join(parts)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _text(text: str) -> str:
    """Escape what roff would read as its own: backslashes, hyphens, dots that begin a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
