"""Tables as people see them."""

from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from filtersurgeon.checkpoint.progress import tell_metric
from filtersurgeon.cli import show
from filtersurgeon.cli.progress_bar import ProgressBar, describe

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


def test_tables_have_no_blank_lines_and_stand_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("a", 1, "running text that takes more than one line"), ("b", 2, "short")]
    made = show.table("title", [("name", "left"), ("n", "right"), ("text", "wrap")], rows)
    show.result({}, lambda: [made, "a sentence", made], as_json=False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    first, second = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert first == [*second, "a sentence"]
    assert second[0] == "title"
    assert second[1].split() == ["name", "n", "text"]
    assert "" not in second
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ((0, None, None, None), ""),
        ((0, 1000, None, None), "0/1,000"),
        ((320, 1000, 64.16, 10.6), "320/1,000  64.2/s  0:10 left"),
        ((3, 8, 0.0123, 4065), "3/8  0.012/s  1:07:45 left"),
        ((8, 8, 250.4, 0), "8/8  250/s"),
    ],
)
def test_progress_in_numbers(task: tuple, shown: str) -> None:
    done, total, speed, left = task
    made = SimpleNamespace(
        completed=done, total=total, speed=speed, time_remaining=left, finished=done == total
    )
    assert describe(made) == shown


def test_progress_in_bytes() -> None:
    made = SimpleNamespace(
        completed=5e6, total=9.4e7, speed=2e6, time_remaining=44.5, finished=False
    )
    assert describe(made, in_bytes=True) == "5.0 MB/94.0 MB  2.0 MB/s  0:44 left"


def test_a_bar_fits_80_columns_with_its_metric() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with ProgressBar(console, "training") as bar:
        tell_metric(bar, "loss 0.259, top-1 93.4 %")
        bar(1_000, 10_000)
        time.sleep(0.01)
        bar(9_000, 10_000)
        bar._bars.refresh()
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", console.file.getvalue())
    last = [line for line in re.split(r"[\r\n]+", shown) if line.strip()][-1]
    assert "9,000/10,000" in last
    assert "/s " in last
    assert "left loss 0.259, top-1 93.4 %" in last
    assert len(last.rstrip()) <= 80


def test_evaluating_tells_the_running_accuracy() -> None:
    import torch
    from torch import nn

    from filtersurgeon.data.kinds import CLASSES
    from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate

    class Data(list):
        kind, class_names = CLASSES, ()

    class Told(list):
        def __call__(self, done: int, total: int) -> None:
            self.append((done, total))

        def tell_metric(self, text: str) -> None:
            self.append(text)

    images = torch.eye(4).reshape(4, 4, 1, 1)
    data = Data((image, label) for image, label in zip(images, (0, 1, 0, 3), strict=True))
    told = Told()
    evaluate(nn.Flatten(), data, 4, EvaluationSettings(batch_size=2), told)
    assert told == ["top-1 100.00 %", (2, 4), "top-1 75.00 %", (4, 4)]
    tell_metric(None, "nothing is shown")
    tell_metric(print, "nor here")
