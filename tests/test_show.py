"""Tables as people see them."""

from __future__ import annotations

import pytest

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
