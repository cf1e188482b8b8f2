"""Output: results go to standard output; progress, notes and warnings to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from filtersurgeon.cli.spelling import spell
from filtersurgeon.errors import CheckpointError, FilterSurgeonWarning, PipeError, printable

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.cli.progress_bar import ProgressBar


_ENDLESS = 10_000
_TEXT = 16
"""Minimum width of running text in a table."""
_BETWEEN = 2
"""Blanks from one column to the next, for padding and the box."""


def wants_json(flag: bool | None) -> bool:
    """Tell whether to print JSON: as asked for, else if standard output is no terminal."""
    return not stdout().isatty() if flag is None else flag


def result(
    content: dict[str, Any],
    render: Callable[[], Iterable[Any]],
    *,
    as_json: bool | None,
    output: str | None = None,
) -> None:
    """Print the result of an analysis, or write it to its file.

    Args:
        content: the JSON of it.
        render: makes what a person sees.
        as_json: ``--json`` or ``--table`` was given, or None.
        output: a ``.json`` file to write instead.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tell_waiting()
    if output:
        write_json(content, output)
    elif wants_json(as_json):
        with standard_output() as stream:
            stream.write(json.dumps(content, indent=1) + "\n")
    else:
        with standard_output():
            from rich.console import Group

            for place, part in enumerate(render()):
                if place and isinstance(part, Group):
                    console().print()  # a title stands apart from what is above it
                _print_whole(_text(part) if isinstance(part, str) else part)


def _text(part: str) -> Text:
    """Make a text of a result as it is: its names come from files, and may look like markup."""
    from rich.text import Text

    return Text("\n".join(printable(line) for line in spell(part).split("\n")))


def _print_whole(part: Any) -> None:
    """Print without cutting columns; lines may be longer than the terminal is wide."""
    out = console()
    needed = out.measure(part, options=out.options.update(width=_ENDLESS)).minimum
    out.width = max(out.width, needed)
    out.print(part)


def check_json_path(output: str | None, force: bool, others: Sequence[str] = ()) -> None:
    """Refuse, before any work, a result file that cannot be written.

    Args:
        output: the file, or None.
        force: replace a file that exists.
        others: endings besides .json that the command takes.
    """
    from filtersurgeon.checkpoint.atomic import check_target

    if output is None:
        return
    if not output.endswith(".json"):
        endings = " or ".join(filter(None, (", ".join((".json", *others[:-1])), *others[-1:])))
        what = "results are written as JSON" if not others else "its ending chooses the form"
        raise CheckpointError(f"{output}: {what}; end the name in {endings}")
    check_target(Path(output), force)


def write_json(content: dict[str, Any], output: str) -> None:
    """Write a result file atomically."""
    from filtersurgeon.checkpoint.atomic import write_bytes

    write_bytes(Path(output), (json.dumps(content, indent=1) + "\n").encode())


def console(stderr: bool = False) -> Console:
    """Return the console of standard output or standard error."""
    from rich.console import Console

    return Console(file=sys.stderr if stderr else stdout(), highlight=False)


def _words(text: str) -> list[str]:
    """Cut running text where a line may end: at blanks, and behind commas of long words."""
    found: list[str] = []
    for word in text.split():
        parts = re.findall(r"[^,]*,|[^,]+", word) if len(word) > _TEXT else [word]
        found += [*parts[:-1], f"{parts[-1]} "]
    return found


def _wrapped(text: str, width: int) -> str:
    """Break running text into lines of this width, without cutting a word."""
    from rich.cells import cell_len

    lines = [""]
    for word in _words(text):
        if lines[-1] and cell_len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def _widths(texts: Sequence[Sequence[str]], wrapped: Sequence[bool]) -> list[int]:
    """Distribute the width of the terminal over the columns; no word and no other cell is cut.

    Rich's own shares cut letters where columns cannot be as narrow as it would have them.
    """
    from rich.cells import cell_len

    lines = [[line for text in column for line in text.split("\n")] for column in texts]
    wanted = [max(map(cell_len, column)) for column in lines]
    words = [max((cell_len(x.rstrip()) for text in column for x in _words(text)), default=0)
             for column in lines]  # fmt: skip
    widths = [max(word, min(most, _TEXT)) if wraps else most
              for word, most, wraps in zip(words, wanted, wrapped, strict=True)]  # fmt: skip
    free = console().width - sum(widths) - _BETWEEN * (len(widths) - 1)
    while free > 0 and (short := [k for k, most in enumerate(wanted) if widths[k] < most]):
        widths[min(short, key=widths.__getitem__)] += 1
        free -= 1
    return widths


def table(
    title: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]]
) -> Group:
    """Make a table.

    Args:
        title: the line above it.
        columns: name and alignment of each: ``left``, ``right``, or ``wrap`` for running text.
        rows: cells; floats are shown with three digits after the point. A tuple is several
            paragraphs of running text.
    """
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [[cell(value) for value in row] for row in rows]
    texts = [[name, *(row[place] for row in shown)] for place, (name, _) in enumerate(columns)]
    wrapped = [justify == "wrap" for _, justify in columns]
    widths = _widths(texts, wrapped)
    for (name, justify), width in zip(columns, widths, strict=True):
        side: Any = "right" if justify == "right" else "left"
        made.add_column(name, justify=side, no_wrap=True, width=width)
    for row in shown:
        cells = [
            "\n".join(_wrapped(line, width) for line in text.split("\n")) if wraps else text
            for text, wraps, width in zip(row, wrapped, widths, strict=True)
        ]
        made.add_row(*map(escape, cells))
    return Group(Text(printable(title), style="bold"), made)


def listing(title: str, name: str, asked: str, entries: Iterable[Mapping[str, Any]]) -> Group:
    """Make a table of methods or studies, each with its parameters below what it does.

    Args:
        title: the line above it.
        name: the first column's.
        asked: the second column's.
        entries: with ``name``, ``summary`` and ``parameters``.
    """
    rows = []
    for entry in entries:
        given = " ".join(f"{key}={value}" for key, value in entry["parameters"].items())
        rows.append((entry["name"], (entry["summary"], given and f"parameters: {given}")))
    return table(title, [(name, "left"), (asked, "wrap")], rows)


def cell(value: object) -> str:
    """Format a value for a table."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return "\n".join(map(cell, filter(None, value)))
    return printable(spell(str(value)))


def note(text: str, quiet: bool = False) -> None:
    """Print a note on standard error."""
    if not quiet:
        tell_waiting()
        _print_note(text)


def _print_note(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody is left to be told
        line = printable(spell(text))
        print(_fitted(line) if sys.stderr.isatty() else line, file=sys.stderr)


def _fitted(line: str) -> str:
    """Break a line for the terminal, which would cut words itself."""
    return textwrap.fill(
        line, console(stderr=True).width, break_long_words=False, break_on_hyphens=False,
        replace_whitespace=False, drop_whitespace=True,
    )  # fmt: skip


_waiting: list[str] = []
"""Notes on images, which wait until the command has something to show: an error is one line."""


def tell_waiting(forget: bool = False) -> None:
    """Print the notes that wait, or forget them."""
    texts = [] if forget else list(_waiting)
    _waiting.clear()
    for text in texts:
        _print_note(text)


def teller(quiet: bool = False) -> Callable[[str], None]:
    """Return a function that prints notes, each once, and warnings, even if quiet.

    They are printed before the next output, or at the end; an error is printed without them.
    """
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            warns = text.startswith("warning: ")
            if warns or not quiet:
                _waiting.append(text if warns else f"note: {text}")

    return tell


@contextlib.contextmanager
def warnings_as_notes(quiet: bool = False) -> Iterator[None]:
    """Print warnings of this package as notes, each once; others are not changed."""
    tell = teller(quiet)
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *a: Any, **k: Any) -> None:
            if issubclass(category, FilterSurgeonWarning):
                tell(str(message))
            else:
                others(message, category, *a, **k)

        warnings.simplefilter("always", FilterSurgeonWarning)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def progress(
    label: str, quiet: bool = False, unit: str | None = None
) -> Iterator[ProgressBar | None]:
    """Show a progress bar, if standard error is a terminal.

    Args:
        label: what is being done.
        quiet: show nothing.
        unit: ``bytes``, if that is what is counted.

    Yields:
        A function to call with what is done and what is to be done, or None.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from filtersurgeon.cli.progress_bar import ProgressBar

    with ProgressBar(console(stderr=True), label, in_bytes=unit == "bytes") as bar:
        yield bar


_own: list[TextIO] = []
"""Standard output, while ``sys.stdout`` is standard error."""


def stdout() -> TextIO:
    """Return standard output, also while the output of networks is diverted from it."""
    return _own[0] if _own else sys.stdout


@contextlib.contextmanager
def prints_diverted() -> Iterator[None]:
    """Divert what a network's own code prints inside the block to standard error.

    Standard output holds results and checkpoints, which the next command reads.
    """
    before = sys.stdout
    _own.append(before)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = before
        _own.pop()


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """Write to standard output inside the block, to the last byte.

    Raises:
        CheckpointError: its reader has closed it, its disk is full, or it is closed.
    """
    stream = stdout()
    try:
        yield stream
        stream.flush()
    except OSError as error:
        # Whatever Python still holds must not be tried again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            raise PipeError("the command after the pipe ended before all was written") from None
        raise CheckpointError(f"cannot write to standard output: {error.strerror}") from None


def class_namer(checkpoint: Checkpoint) -> Callable[[int], str]:
    """Give a function from the index of a class to its name, where the checkpoint tells one."""
    names = (checkpoint.pretrained_cfg or {}).get("label_names")
    listed = names if isinstance(names, list | tuple) else ()
    return lambda index: str(listed[index]) if index < len(listed) else str(index)
