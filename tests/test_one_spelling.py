"""One name for one thing: the second network, the form of an output, lists and shares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from filtersurgeon.cli import failures
from filtersurgeon.cli.application import app
from filtersurgeon.cli.usage import FORMER

Run = Callable[..., tuple[int, str, str]]
PNG = b"\x89PNG"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path) -> Run:
    """Run a command in this process, in the folder of the small network."""
    monkeypatch.chdir(model.parent)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fsurgeon", *map(str, words)])
        code = failures._run(app)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def _verb(name: str):
    return typer.main.get_command(app).commands[name]


@pytest.mark.parametrize(
    ("name", "words", "field", "value"),
    [
        ("report", ("x", "--before", "y"), "against", "y"),
        ("report", ("x", "--against", "y"), "against", "y"),
        ("walk", ("x", "--beside=y"), "against", "y"),
        ("rank", ("--list-methods",), "list_methods", True),
        ("initialize", ("--list",), "list_methods", True),
        ("compare", ("a", "b", "--arch-b", "z"), "arch_against", "z"),
        ("compare", ("a", "b", "--factory-b=m:f"), "factory_against", "m:f"),
        ("explain", ("a", "b", "--saliency-b", "z"), "saliency_against", "z"),
        ("eval", ("a", "--min-top1", "90"), "min_top1", 0.9),
        ("eval", ("a", "--min-top1", "0.9"), "min_top1", 0.9),
        ("eval", ("a", "--min-top1", "90%"), "min_top1", 0.9),
        ("compare", ("a", "b", "--max-drop", "0.5%"), "max_drop", 0.5),
        ("compare", ("a", "b", "--max-drop", "3"), "max_drop", 3.0),
        ("compare", ("a", "b", "--max-drop", "0"), "max_drop", 0.0),
    ],
)
def test_former_spellings_and_shares_are_read(
    name: str, words: tuple[str, ...], field: str, value: object
) -> None:
    assert _verb(name).make_context(name, list(words)).params[field] == pytest.approx(value)


def test_every_share_is_read_as_a_percentage_too() -> None:
    application = typer.main.get_command(app)
    shares = [
        (verb, each)
        for verb in application.commands.values()
        for each in verb.params
        if each.metavar == "SHARE"
    ]
    assert len(shares) >= 6
    for verb, each in shares:
        read = verb.make_context(verb.name, ["x", each.opts[0], "30%"]).params[each.name]
        assert read == pytest.approx(0.3), each.opts


def test_former_spellings_are_not_shown() -> None:
    application = typer.main.get_command(app)
    verbs = [*application.commands.values(), *application.commands["bank"].commands.values()]
    shown = {x for verb in verbs for each in verb.params for x in each.opts}
    assert not shown & FORMER.keys()
    assert set(FORMER.values()) <= shown


def test_a_word_like_a_former_spelling_is_told(run: Run) -> None:
    assert "did you mean --against?" in run("report", "x", "--original", "y")[2]
    assert "has no option --before" in run("rank", "x", "--before", "y")[2]


def test_the_ending_of_the_output_chooses_its_form(run: Run) -> None:
    assert run("explain", "m.safetensors", "-o", "a.png") == (0, "", "")
    assert Path("a.png").read_bytes().startswith(PNG)
    assert run("explain", "m.safetensors", "-o", "a.json", "--picture", "b.png")[:2] == (0, "")
    assert json.loads(Path("a.json").read_text())["schema"] == "filtersurgeon.explanation/1"
    assert Path("b.png").read_bytes().startswith(PNG)
    code, printed, _ = run("explain", "m.safetensors", "-o", "c.svg", "--table")
    assert code == 0
    assert "m: dct spectra" in printed
    assert Path("c.svg").exists()


def test_other_endings_and_two_pictures_are_refused(run: Run) -> None:
    for words, expected in (
        (("-o", "a.txt"), "a.txt: its ending chooses the form; end the name in .json, .png"),
        (("-o", "a.png", "--picture", "b.png"), "leave out --picture, or end -o in .json"),
        (("-o", "gone/a.png"), "gone"),
    ):
        code, printed, told = run("explain", "m.safetensors", *words)
        assert (code, printed) == (2, "")
        assert expected in told
    assert "channels" in run("inspect", "m.safetensors", "-o", "a.png")[2]
    assert "exactly" not in run("embed", "m.safetensors", "--data", "d", "-o", "a.gif")[2]
    assert not list(Path().glob("*.png"))


def test_a_bank_is_written_or_drawn(run: Run) -> None:
    sample = ("bank", "sample", "--from", "dct", "--count", 4, "--size", 3)
    assert run(*sample, "-o", "bank.png")[0] == 0
    assert Path("bank.png").read_bytes().startswith(PNG)
    assert run(*sample, "-o", "bank.safetensors", "--picture", "two.png")[0] == 0
    assert Path("bank.safetensors").exists()
    assert Path("two.png").exists()
    search = ("bank", "search", "m.safetensors", "--bank", "bank.safetensors", "--size", 3)
    search += ("--criterion", "error", "--to", 3, "--all-spatial")
    assert run(*search, "-o", "found.png")[:2] == (0, "")
    assert Path("found.png").read_bytes().startswith(PNG)
    code, printed, _ = run(*search, "-o", "left.safetensors")
    assert (code, json.loads(printed)["schema"]) == (0, "filtersurgeon.bank-search/1")
    assert Path("left.safetensors").exists()


def test_the_second_network_is_against_or_the_second_argument(run: Run) -> None:
    Path("n.safetensors").write_bytes(Path("m.safetensors").read_bytes())
    words = ("explain", "m.safetensors", "--json")
    assert run(*words, "n.safetensors")[1] == run(*words, "--against", "n.safetensors")[1] != ""
    assert "two networks" in run(*words, "n.safetensors", "--against", "n.safetensors")[2]
    assert "B --against A" in run("compare")[2]
    assert "leave one out" in run("compare", "a", "b", "--against", "c")[2]
    assert "only one of A and B" in run("compare", "--against", "-")[2]


def test_lists_of_percentages_take_the_sign() -> None:
    from filtersurgeon.studies._lab import percentages

    assert percentages("10%, 5,2.5%", "removed") == pytest.approx([0.025, 0.05, 0.1])


def test_a_bank_is_shown_as_numbers_where_there_are_no_colours(run: Run) -> None:
    code, printed, _ = run("bank", "show", "dog8", "--size", 3, "--table")
    assert code == 0
    kernels = [line.split() for line in printed.splitlines() if len(line.split()) == 3]
    values = [[float(word) for word in words] for words in kernels if "." in words[0]]
    assert len(values) == 8 * 3
    assert 0.4 < max(abs(value) for row in values for value in row) < 2
