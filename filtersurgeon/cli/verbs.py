"""The classes of commands: how their help is laid out, and what happens around a call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from filtersurgeon.cli import spelling
from filtersurgeon.cli.usage import unknown_command, write_anew
from filtersurgeon.errors import OptionError

OWN = "Options"
INPUT, IMAGES, COMPUTATION, OUTPUT, GENERAL = "Input", "Images", "Computation", "Output", "General"
_WIDEST = 26
"""Characters of a column of options; longer ones have a line of their own."""
_DECORATED = re.compile(r"(?:\[(?=\[)|\{)(.*)[\]}](?:\.\.\.)?")
"""What typer writes around the name of an argument that has brackets of its own, or needs none."""
_LAST = (INPUT, IMAGES, COMPUTATION, OUTPUT, GENERAL)
"""Groups of shared options; those of the command itself come first."""


class KeptError(Exception):
    """Stands for the exception that it was raised from, which typer would take for its own."""


class Verb(TyperCommand):
    """A command: its help shows groups of options and an example."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line, former spellings of options too."""
        try:
            return super().parse_args(ctx, write_anew(args, self))
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # names the command in the message
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """List the arguments of the usage line, those that may be omitted in brackets."""
        pieces = super().collect_usage_pieces(ctx)
        hidden = {
            piece
            for each in self.get_params(ctx)
            if getattr(each, "hidden", False)
            for piece in each.get_usage_pieces(ctx)
        }
        shown = [piece for piece in pieces if piece not in hidden]
        return [_DECORATED.sub(r"\1", piece) for piece in shown]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; messages name its options from now on."""
        spelling.remember_command(self)
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the groups of options."""
        groups = option_groups(self, ctx)
        width = min(_WIDEST, max(len(name) for _, rows in groups for name, _ in rows))
        for title, rows in groups:
            with formatter.section(title):
                formatter.write_dl(_pad(rows, width), col_max=width)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        """Write the example, unwrapped."""
        if self.epilog:
            with formatter.section("Example"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Verbs(TyperGroup):
    """A group of commands: its help shows them by what they are for."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what it raises reaches ``failures.run`` as it is."""
        try:
            return super().invoke(ctx)
        except (EOFError, OSError) as error:
            raise KeptError from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by its name.

        Raises:
            OptionError: there is none; the message suggests what was meant.
        """
        word = args[0]
        if self.get_command(ctx, word) is None and not ctx.resilient_parsing and word[:1] != "-":
            raise OptionError(unknown_command(word, ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        """Write the groups of commands, each command with the first sentence of its help."""
        width = max(map(len, self.commands))
        for title, rows in command_groups(self):
            with formatter.section(title):
                formatter.write_dl(_pad(rows, width))


def _pad(rows: list[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    """Make first columns equally wide, so that second columns of all groups are aligned."""
    return [(f"{name:{width}}", text) for name, text in rows]


def register(
    application: typer.Typer, function: Callable[..., Any], name: str | None = None, group: str = ""
) -> None:
    """Add a function made by ``bundles.verb`` as a command.

    Args:
        application: what to add it to.
        function: the command.
        name: what it is called, if not as the function.
        group: the heading under which ``--help`` lists it.
    """
    application.command(
        name,
        cls=Verb,
        short_help=(inspect.getdoc(function) or "").partition("\n")[0],
        epilog=getattr(function, "example", None),
        rich_help_panel=group or None,
    )(function)


def option_groups(command: Any, context: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """List the arguments and options of a command, as help shows them, by group."""
    groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], OWN: []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            name, text = record
            # Every argument is a word; typer would add that it is a str.
            name = name.partition(" <")[0] if parameter.param_type_name == "argument" else name
            groups.setdefault(_title(parameter), []).append((name, text))
    last = [title for title in _LAST if title in groups]
    first = [title for title in groups if title not in last]
    return [(title, groups[title]) for title in (*first, *last) if groups[title]]


def _title(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    general = "--help" in parameter.opts
    return getattr(parameter, "rich_help_panel", None) or (GENERAL if general else OWN)


def command_groups(group: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """List the commands of a group, each with a summary, by what they are for."""
    titles: dict[str, list[tuple[str, str]]] = {}
    for name, command in group.commands.items():
        title = command.rich_help_panel or "Commands"
        titles.setdefault(title, []).append((name, summary(command)))
    yield from titles.items()


def summary(command: Any) -> str:
    """Give the first sentence of a command's help."""
    return str(inspect.cleandoc(command.help)).partition("\n")[0]
