"""Draw what a command shows in a terminal, as an SVG picture for a page.

python docs/terminal.py docs/pictures/inspect.svg 'fsurgeon inspect m.safetensors'

Run it in the folder that holds the files that the command names. The picture asks for no font from
elsewhere, and the same output gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text


def output_of(command: str, width: int) -> str:
    """Run a command as if in a terminal of a width; give standard output and error."""
    reader, writer = pty.openpty()
    surroundings = {**os.environ, "COLUMNS": str(width), "LINES": "60", "TERM": "xterm-256color"}
    with subprocess.Popen(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=writer, stderr=writer,
        env=surroundings, close_fds=True,
    ) as process:  # fmt: skip
        os.close(writer)
        parts = []
        while part := _read(reader):
            parts.append(part)
        os.close(reader)
    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}")
    return b"".join(parts).decode()


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 16)
    except OSError:  # how Linux tells that nobody writes any more
        return b""


def drawing(command: str, shown: str, width: int, name: str) -> str:
    """Give the SVG of a command and the lines below it."""
    lines = [Text(f"$ {command}", style="bold")]
    lines += [_trimmed(line) for line in shown.replace("\r\n", "\n").rstrip().split("\n")]
    width = max(width, *(line.cell_len for line in lines))
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    code_format = _without_fonts(CONSOLE_SVG_FORMAT)
    return console.export_svg(title="", theme=MONOKAI, code_format=code_format, unique_id=name)


def _trimmed(line: str) -> Text:
    text = Text.from_ansi(line)
    text.rstrip()
    return text


def _without_fonts(code_format: str) -> str:
    """Leave out the fonts that rich fetches; every browser has one of equal widths."""
    while "@font-face" in code_format:
        begin = code_format.index("@font-face")
        code_format = code_format[:begin] + code_format[code_format.index("}}", begin) + 2 :]
    return code_format.replace("Fira Code, monospace", "monospace")


def main() -> None:
    """Draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("command")
    parser.add_argument("--width", type=int, default=80)
    given = parser.parse_args()
    shown = output_of(given.command, given.width)
    given.picture.write_text(drawing(given.command, shown, given.width, given.picture.stem))


if __name__ == "__main__":
    main()
