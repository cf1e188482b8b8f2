"""Run the commands that a page shows, and compare what they print with what the page says.

In a ``console`` block a command follows ``$``, with further lines while it ends in a backslash or a
pipe or has an open quote; what it prints follows, or nothing is said of it. All blocks of a page
run in order in one shell and one folder; ``python`` blocks run there, too. Printed lines must be
those of the page: a line ``...`` stands for any lines, whole numbers must be equal, other numbers
may be off by two units of their last digit or 1 %, numbers with an exponent (rounding errors) and
those of a time or a speed are not compared. Right answers, ``(N of M)``, may be off by 1 % of M,
and what comes of training (losses of epochs, differences of outputs) by 5 %, since other processors
add in another order.

    python tests/console.py README.md    # in a folder with the files that the page names
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_FENCE = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
_COUNTED = re.compile(r"\(([\d,]+) of ([\d,]+)\)")
_TRAINED = re.compile(r"^epoch \d+:|relative difference")
_TIMED = re.compile(r"per second|\b\d+(?:\.\d+)? ?(?:ms|s|min)\b")


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        text: as it is typed.
        shown: the lines that the page shows below it.
        line: where it stands in the page.
    """

    text: str
    shown: tuple[str, ...]
    line: int


def blocks(text: str, *languages: str) -> Iterator[tuple[str, str, int]]:
    """Give language, content and first line of every fenced block of these languages."""
    for match in _FENCE.finditer(text):
        if match[1] in languages:
            yield match[1], match[2], text.count("\n", 0, match.start()) + 2


def commands(block: str, first: int = 1) -> list[Command]:
    """Read the commands of a block and what it shows below each."""
    lines = block.splitlines()
    starts = [k for k, line in enumerate(lines) if line.startswith("$ ")]
    found = []
    for start, end in pairwise([*starts, len(lines)]):
        last = start + 1
        while last < end and _goes_on("\n".join(lines[start:last])):
            last += 1
        text = "\n".join([lines[start][2:], *lines[start + 1 : last]])
        found.append(Command(text, tuple(lines[last:end]), first + start))
    return found


def _goes_on(text: str) -> bool:
    bare = re.sub(r"\s#\s.*$", "", text).rstrip()
    if bare.endswith(("\\", "|", "&&")):
        return True
    try:
        shlex.split(bare)
    except ValueError:
        return True
    return False


def differences(shown: Sequence[str], printed: str) -> list[str]:
    """Say where printed lines are not those that a page shows; blank lines do not count."""
    wanted = [line.rstrip() for line in shown if line.strip()]
    left = [line.rstrip() for line in printed.splitlines() if line.strip()]
    if not wanted:
        return []
    found, skipping = [], False
    for line in wanted:
        if line.strip() == "...":
            skipping = True
            continue
        while skipping and left and not _same(line, left[0]):
            left.pop(0)
        skipping = False
        if not left or not _same(line, left[0]):
            return [*found, f"- {line}", f"+ {left[0] if left else '(nothing more)'}"]
        left.pop(0)
    return [] if skipping or not left else [f"+ {left[0]}"]


def _same(wanted: str, printed: str) -> bool:
    # How wide a column is depends on the numbers in it.
    shapes = [re.sub(r"\s+|─+", " ", _NUMBER.sub("0", line)).strip() for line in (wanted, printed)]
    if shapes[0] != shapes[1]:
        return False
    if _TIMED.search(wanted):
        return True
    counts = [_COUNTED.search(line) for line in (wanted, printed)]
    if counts[0] and counts[1]:
        right, images = (int(word.replace(",", "")) for word in counts[0].groups())
        if abs(right - int(counts[1][1].replace(",", ""))) > images / 100:
            return False
        wanted, printed = (_COUNTED.sub("", line) for line in (wanted, printed))
    numbers = zip(_NUMBER.findall(wanted), _NUMBER.findall(printed), strict=True)
    share = 0.05 if _TRAINED.search(wanted) else 0.01
    return all(_close(*pair, share) for pair in numbers)


def _close(wanted: str, printed: str, share: float) -> bool:
    if "e" in wanted:
        return True
    if "." not in wanted:
        return wanted == printed
    first, second = (float(word.replace(",", "")) for word in (wanted, printed))
    unit = 10.0 ** -len(wanted.partition(".")[2])
    return abs(first - second) <= max(2.01 * unit, share * abs(first))


def run_page(page: Path, folder: Path) -> list[str]:
    """Run every console and Python block of a page in a folder.

    Returns:
        What went wrong, in words; empty if all is as the page says.
    """
    listed: list[Command] = []
    for language, content, first in blocks(page.read_text("utf-8"), "console", "python"):
        if language == "console":
            listed += commands(content, first)
        else:
            listed.append(Command(f"python -W ignore -c {shlex.quote(content)}", (), first))
    if not listed:
        return []
    return [
        problem
        for command, (code, printed) in zip(listed, _run(listed, folder), strict=True)
        for problem in _judge(page.name, command, code, printed)
    ]


def _judge(page: str, command: Command, code: int, printed: str) -> list[str]:
    head = f"{page}:{command.line}: $ {command.text}"
    if code:
        return [f"{head}\nends with {code}:\n{printed}"]
    found = differences(command.shown, printed)
    return ["\n".join([head, *found])] if found else []


def _run(listed: Sequence[Command], folder: Path) -> list[tuple[int, str]]:
    """Run commands one after the other in one shell; give their exit codes and what they print."""
    with tempfile.TemporaryDirectory() as outputs:
        script = "set -o pipefail\n" + "".join(
            f"{{ {command.text}\n}} >{outputs}/{k} 2>&1 </dev/null; echo $? >{outputs}/{k}.code\n"
            for k, command in enumerate(listed)
        )
        surroundings = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
        subprocess.run(["bash", "-c", script], cwd=folder, env=surroundings, check=True)
        return [
            (int(Path(outputs, f"{k}.code").read_text()), Path(outputs, str(k)).read_text("utf-8"))
            for k in range(len(listed))
        ]


def main() -> None:
    """Run pages in the current folder; exit with 1 where one is not what it says."""
    found = [problem for page in sys.argv[1:] for problem in run_page(Path(page), Path.cwd())]
    print("\n\n".join(found) or f"{', '.join(sys.argv[1:])}: every command does what it says")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
