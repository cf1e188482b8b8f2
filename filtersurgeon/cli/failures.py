"""Turn errors into one line on standard error and an exit code.

0 done; 1 a check that was asked for did not hold; 2 bad usage or bad input; 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from itertools import pairwise
from types import FrameType

import typer

from filtersurgeon.cli import show, spelling, streams
from filtersurgeon.cli.usage import describe_usage
from filtersurgeon.cli.verbs import KeptError
from filtersurgeon.errors import (
    FilterSurgeonError,
    NetworkCodeError,
    OptionError,
    PipeError,
    ran_out_of_memory,
)

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
LONGEST = 1000
"""Characters of a message; names in files may have millions."""
_DEBUG = "--debug shows the traceback"
_LINE = 160
"""Characters of the line about an unexpected error."""


class _Stopped(BaseException):
    """Raised by SIGINT and SIGTERM, so that half-written files are cleared away.

    typer would turn KeyboardInterrupt into an exit code and say nothing.
    """

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, _frame: FrameType | None) -> None:
    raise _Stopped(number)


def _catch_signals() -> None:
    signal.signal(signal.SIGTERM, _stop)
    # The shell has a command in the background ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)


def _stand_in_for_closed_streams() -> None:
    """Replace standard streams that are closed, before another file takes their place.

    Standard output is opened for reading, so that writing to it fails as it should.
    """
    for name, mode, flag in (
        ("stdin", "r", os.O_RDONLY),
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flag), mode))


def run(app: typer.Typer) -> None:
    """Run the application; ends the process with its exit code."""
    _stand_in_for_closed_streams()
    _catch_signals()
    sys.exit(_run(app))


def _run(app: typer.Typer) -> int:
    streams.opened_names.clear()
    spelling.remember_command(None)
    try:
        _refuse_empty(sys.argv[1:])
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # of libraries, about what no user can change
            code = int(app(standalone_mode=False) or 0)
        show.tell_waiting()
        with show.standard_output():
            return _fail("interrupted", INTERRUPTED) if code == INTERRUPTED else code
    except BaseException as error:
        if wants_traceback() and not isinstance(error, _Stopped):
            traceback.print_exc()
        return _told(error)


def _told(error: BaseException) -> int:
    """Print an exception as one line; return the exit code."""
    if isinstance(error, NetworkCodeError):
        return _fail(f"{error}; {_DEBUG}")
    if isinstance(error, PipeError):
        return _fail(str(error), word="note")
    if isinstance(error, FilterSurgeonError):
        return _fail(str(error))
    if isinstance(error, _Stopped) and error.number == signal.SIGTERM:
        return _fail("terminated", TERMINATED)
    if isinstance(error, _Stopped | KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    if isinstance(error, KeptError) and error.__cause__ is not None:
        return _told(error.__cause__)
    if isinstance(error, SystemExit) and "_FSURGEON_COMPLETE" in os.environ:
        return error.code if isinstance(error.code, int) else 0  # completion ends so
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return BAD_INPUT  # nobody is left to read the help
    if ran_out_of_memory(error):
        return _fail("out of memory; select fewer --layers or a smaller --batch-size")
    # Usage errors of the argument parser, whose class typer does not export.
    if hasattr(error, "format_message"):
        return _fail(describe_usage(error))
    if isinstance(error, ValueError) and "set_int_max_str_digits" in str(error):
        return _fail("an option, or a file, holds a number of thousands of digits; shorten it")
    if isinstance(error, OSError) and error.filename:
        return _fail(f"cannot use {error.filename}: {error.strerror}")
    if isinstance(error, OSError) and error.errno in _FULL:
        return _fail(f"cannot write to standard output: {error.strerror}")
    return _fail(_unforeseen(error))


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Reasons why the help cannot be written; other outputs are named in their errors."""


def _unforeseen(error: BaseException) -> str:
    """Describe an exception that nothing else caught, and what the command was doing."""
    from filtersurgeon.networks.failing import reason, shorten

    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    files = " and ".join(dict.fromkeys(streams.opened_names))
    doing = shorten(" ".join(filter(None, ("fsurgeon", verb, files))), _LINE // 3)
    if isinstance(error, SystemExit):
        return f"{doing}: the network's own code ended the process; {_DEBUG}"
    room = _LINE - len(f"error: {doing}: ; {_DEBUG}")
    return f"{doing}: {reason(error, room)}; {_DEBUG}"


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse empty words: no option and no argument takes one, and a path would be this folder.

    Raises:
        OptionError: there is one, as an unset variable leaves it.
    """
    for before, word in pairwise(("", *words)):
        name, equals, value = word.partition("=")
        if not word:
            place = f"the value of {before}" if before.startswith("-") else "an argument"
            raise OptionError(f"{place} is empty; is a variable of the shell not set?")
        if name.startswith("--") and equals and not value:
            raise OptionError(f"the value of {name} is empty; is a variable of the shell not set?")


def _fail(message: str, code: int = BAD_INPUT, word: str = "error") -> int:
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    show.tell_waiting(forget=True)
    show.note(f"{word}: {line}")
    return code


def wants_traceback() -> bool:
    """Tell whether ``--debug`` was given."""
    return os.environ.get("FSURGEON_DEBUG", "") not in ("", "0")
