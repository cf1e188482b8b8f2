"""Lines of the user's code: which one is running, and which files are a library's."""

from __future__ import annotations

import linecache
import sys
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

_OWN = Path(__file__).resolve().parents[1]
_LONGEST = 50
"""Characters of a line of code in a message."""

_HIDDEN, _LIBRARY, _USERS = range(3)


@dataclass(frozen=True, slots=True)
class CodeLine:
    """A line of code.

    Attributes:
        path: of the file.
        number: of the line, from 1.
        code: what the line is a part of.
        instruction: the one that was running, as frames count them.
    """

    path: str
    number: int
    code: CodeType | None = field(default=None, compare=False, repr=False)
    instruction: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{Path(self.path).name}:{self.number}"

    @property
    def source(self) -> str:
        """The expression that was running, shortened; empty where the file cannot be read."""
        text = " ".join(self.whole.split())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4].rstrip()} ..."

    @property
    def whole(self) -> str:
        """The expression that was running, as far as it is on one line, or else all of the line."""
        line = linecache.getline(self.path, self.number)
        if self.code is None:
            return line.strip()
        places = islice(self.code.co_positions(), self.instruction // 2, None)
        first, last, start, stop = next(places, (None, None, None, None))
        if first != self.number or start is None:
            return line.strip()
        inside = line.encode()[start : stop if last == first else None]
        return inside.decode(errors="replace").strip()


def running_line(outermost: CodeType) -> CodeLine | None:
    """Give the line that is running: of the user's code, or else of the library that called torch.

    Args:
        outermost: the function at which the search ends; its callers are not looked at.

    Returns:
        None where only torch and this package are running.
    """
    frame: FrameType | None = sys._getframe(1)
    library = None
    while frame is not None and frame.f_code is not outermost:
        kind = _kind(frame.f_code.co_filename)
        if kind == _USERS:
            return _line_of(frame)
        if kind == _LIBRARY and library is None:
            library = _line_of(frame)
        frame = frame.f_back
    return library


def _line_of(frame: FrameType) -> CodeLine:
    code = frame.f_code
    return CodeLine(code.co_filename, frame.f_lineno, code, frame.f_lasti)


@cache
def _kind(filename: str) -> int:
    path = Path(filename)
    if not is_installed(path):
        return _USERS
    torch = Path(sys.modules["torch"].__file__ or "").parent
    hidden = path.name.startswith("<") or _OWN in path.parents or torch in path.parents
    return _HIDDEN if hidden or not _PACKAGES.intersection(path.parts) else _LIBRARY


_PACKAGES = {"site-packages", "dist-packages"}


def is_installed(path: Path) -> bool:
    """Tell whether a file of code is not the user's: of a package, of Python, or of none."""
    if path.name.startswith("<") or _OWN in path.parents:
        return True
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return not {*_PACKAGES, python}.isdisjoint(path.parts)
