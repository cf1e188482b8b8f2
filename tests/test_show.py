"""Tables as people see them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filtersurgeon.cli import show

_WORDS = "running text that may go over several lines"


def _printed(capsys: pytest.CaptureFixture[str], columns: int) -> str:
    names = [("network", "left"), *((f"run {k}", "right") for k in range(columns))]
    cells = ("n" * 20, *(f"{k}2.345 ± 0.123" for k in range(columns)), _WORDS)
    made = show.table("title", [*names, ("remark", "wrap")], [cells])
    show.result({}, lambda: [made], as_json=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [1, 4, 9])
def test_no_cell_is_cut_however_narrow_the_terminal_is(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = _printed(capsys, columns)
    assert "…" not in shown
    assert all(f"{k}2.345 ± 0.123" in shown for k in range(columns))
    assert all(word in shown for word in _WORDS.split())


def test_a_table_that_fits_stays_within_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, _printed(capsys, 1).splitlines())) <= 100


_TEXTS = st.lists(st.text("abcdef'.", min_size=1, max_size=20), max_size=6).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(*[_TEXTS] * 4), min_size=1, max_size=4), st.integers(20, 140))
def test_no_letter_is_lost_at_any_width(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[str, ...]],
    width: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [("first", "right"), ("second", "wrap"), ("third", "wrap"), ("fourth", "wrap")]
    show.result({}, lambda: [show.table("title", columns, rows)], as_json=False)
    shown = capsys.readouterr().out
    assert all(cell in shown for cell, *_ in rows)
    assert all(word in shown for _, *texts in rows for text in texts for word in text.split())
