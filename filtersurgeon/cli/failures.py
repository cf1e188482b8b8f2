"""What becomes of errors: one line on standard error, and an exit code.

0 done; 1 a check that was asked for did not hold; 2 bad usage or bad input; 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType

import typer

from filtersurgeon.cli import show
from filtersurgeon.errors import FilterSurgeonError, ran_out_of_memory

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
LONGEST = 1000
"""Characters of a message; names in files may have millions."""


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
    try:
        code = int(app(standalone_mode=False) or 0)
        show.tell_waiting()
        with show.standard_output():
            return code
    except FilterSurgeonError as error:
        if wants_traceback():
            traceback.print_exc()
        return _fail(str(error))
    except _Stopped as stop:
        if stop.number == signal.SIGTERM:
            return _fail("terminated", TERMINATED)
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and error.filename and not wants_traceback():
            return _fail(f"cannot use {error.filename}: {error.strerror}")
        if ran_out_of_memory(error):
            return _fail("out of memory; fewer --layers or a smaller --batch-size need less")
        # Usage errors of the argument parser, whose class typer does not export.
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "fsurgeon"
        return _fail(f"{usage().rstrip('.')}; see {path} --help")


def _fail(message: str, code: int = BAD_INPUT) -> int:
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    show.tell_waiting(forget=True)
    show.note(f"error: {line}")
    return code


def wants_traceback() -> bool:
    """Tell whether ``--debug`` was given."""
    return os.environ.get("FSURGEON_DEBUG", "") not in ("", "0")
