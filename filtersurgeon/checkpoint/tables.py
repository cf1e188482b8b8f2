"""Results as tables: shown by notebooks, and given to pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib import import_module
from itertools import islice
from numbers import Integral, Real
from typing import Any

from filtersurgeon.errors import OptionError, printable

Row = Mapping[str, Any]

_MOST = 60
"""Rows that a notebook shows; the rest are counted."""

_LONGEST = 80


class Tabular:
    """A result that notebooks show as a table, and that becomes a data frame of pandas.

    A subclass has a ``rows`` of its own; ``records`` may be more detailed.
    """

    def rows(self) -> Iterable[Row]:
        """Give the rows that a notebook shows, each with its columns by name."""
        raise NotImplementedError

    def records(self) -> Iterable[Row]:
        """Give the rows of the data frame; those that a notebook shows, unless there are finer."""
        return self.rows()

    def to_pandas(self) -> Any:
        """Give the result as a data frame of pandas.

        Raises:
            OptionError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as problem:
            raise OptionError(
                f"pandas cannot be imported ({problem}): pip install pandas"
            ) from None
        return pandas.DataFrame([dict(row) for row in self.records()])

    def _repr_html_(self) -> str:
        head = repr(self).split("\n", 1)[0]
        rows = iter(self.rows())
        shown = list(islice(rows, _MOST))
        more = sum(1 for _ in rows)
        left_out = f"<p>and {more:,} more</p>" if more else ""
        return f"<div><p><code>{_text(head)}</code></p>{_table(shown)}{left_out}</div>"


def _table(rows: list[Row]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    lines = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in columns)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _cell(value: Any) -> str:
    side = "right" if isinstance(value, Real) and not isinstance(value, bool) else "left"
    return f'<td style="text-align: {side}">{_text(_format(value))}</td>'


def _format(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return f"{float(value):.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def _text(words: str) -> str:
    """Write words of any file as text of a page."""
    clipped = words if len(words) <= _LONGEST * 4 else f"{words[: _LONGEST * 4 - 3]}..."
    return escape(printable(clipped))
