"""What becomes of errors: one line on standard error, and an exit code.

0 done; 1 a check that was asked for did not hold; 2 bad usage or bad input; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from types import FrameType

import typer

from filtersurgeon.cli import show
from filtersurgeon.errors import FilterSurgeonError

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM


class _Terminated(BaseException):
    """Raised by SIGTERM, so that half-written files are cleared away."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def run(app: typer.Typer) -> None:
    """Run the application; ends the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    code = _run(app)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.exit(code)
    show.silence_stdout()
    sys.exit(_fail("standard output was closed before everything was written"))


def _run(app: typer.Typer) -> int:
    try:
        return int(app(standalone_mode=False) or 0)
    except FilterSurgeonError as error:
        if wants_traceback():
            traceback.print_exc()
        return _fail(str(error))
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except _Terminated:
        return _fail("terminated", TERMINATED)
    except MemoryError:
        return _fail("out of memory")
    except Exception as error:
        # Usage errors of the argument parser, whose class typer does not export.
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "fsurgeon"
        return _fail(f"{usage().rstrip('.')}; see {path} --help")


def _fail(message: str, code: int = BAD_INPUT) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def wants_traceback() -> bool:
    """Tell whether ``--debug`` was given."""
    return os.environ.get("FSURGEON_DEBUG", "") not in ("", "0")
