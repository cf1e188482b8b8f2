"""A progress bar: what is done, the rate, the time left, and a running metric."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.text import Text

_WIDTH = 10
"""Characters of the bar; the numbers beside it need the rest of 80."""


class ProgressBar:
    """A progress bar on a terminal, to call with what is done and what is to be done.

    Args:
        console: the terminal.
        label: what is being done.
        in_bytes: bytes are counted.
    """

    def __init__(self, console: Console, label: str, *, in_bytes: bool = False) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=_WIDTH),
            _Numbers(in_bytes), TextColumn("{task.fields[metric]}"),
            console=console, transient=True, redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._task = self._bars.add_task(label, total=None, metric="")

    def __enter__(self) -> ProgressBar:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show how much is done, and how much there is."""
        self._bars.update(self._task, completed=done, total=total)

    def tell_metric(self, text: str) -> None:
        """Show a metric beside the bar."""
        self._bars.update(self._task, metric=text)


class _Numbers(TextColumn):
    """Done and total, the rate, and the time left."""

    def __init__(self, in_bytes: bool) -> None:
        self._in_bytes = in_bytes
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Write them; before the first unit is done there are none."""
        return Text(describe(task, in_bytes=self._in_bytes), no_wrap=True)


def describe(task: Any, *, in_bytes: bool = False) -> str:
    """Describe a task of rich: ``320/1,000  64.2/s  0:10 left``.

    Args:
        task: its ``completed``, ``total``, ``speed`` (or None) and ``time_remaining`` (or None).
        in_bytes: bytes are counted.
    """
    if task.total is None:
        return ""
    if in_bytes:
        amounts = [decimal(int(number)) for number in (task.completed, task.total)]
    else:
        amounts = [f"{int(number):,}" for number in (task.completed, task.total)]
    parts = ["/".join(amounts)]
    if task.speed:
        parts.append(f"{decimal(int(task.speed)) if in_bytes else _few_digits(task.speed)}/s")
    if task.time_remaining is not None and not task.finished:
        minutes, seconds = divmod(int(task.time_remaining), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        parts.append(f"{clock} left")
    return "  ".join(parts)


def _few_digits(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}" if speed >= 1 else f"{speed:.2g}"
