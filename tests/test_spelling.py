"""Parameters in messages of the library become options of the command that runs."""

import pytest
import typer.main

from filtersurgeon.cli import spelling
from filtersurgeon.cli.application import app
from filtersurgeon.errors import OptionError

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(
    ("verb", "message", "shown"),
    [
        ("prune", "`sparsity` 1.0 should be below 1", "--sparsity 1.0 should be below 1"),
        ("prune", "`per_layer` needs `sparsity`", "--per-layer needs --sparsity"),
        ("prune", "pass `mode='exact'` or `fill=zero`", "pass --mode exact or --fill zero"),
        ("prune", "pass `verify=False`", "pass --no-verify"),
        ("prune", "pass `verify=True`", "pass --verify"),
        ("prune", "pass `round_to=8`", "pass --round-to 8"),
        ("prune", "`skip_bad=False` and `data=None`", "`skip_bad=False` and `data=None`"),
        ("prune", "run `fsurgeon unpack` first", "run `fsurgeon unpack` first"),
        ("prune", "`no_such_thing` and --sparsity", "`no_such_thing` and --sparsity"),
        ("rank", "`as_json` and `json`", "--json and --json"),
        ("rank", "`sparsity` is of prune", "`sparsity` is of prune"),
        ("rank", "`source` is an argument", "`source` is an argument"),
        ("rank", "`options` has no 'x'", "-p has no 'x'"),
        ("tune", "`folder` holds a run", "--run holds a run"),
        ("gradcam", "`target` 7 of 5", "--class 7 of 5"),
    ],
)
def test_parameters_become_options(verb, message, shown):
    assert spelling.spell_options(message, COMMANDS[verb]) == shown


def test_an_error_names_options_on_the_command_line_and_parameters_in_python(monkeypatch, capsys):
    from filtersurgeon import inspection
    from filtersurgeon.cli import failures

    def fail(*_args, **_options):
        raise OptionError("`allow_pickle` and `layers='x'` are wrong")

    monkeypatch.setattr(inspection, "inspect", fail)
    monkeypatch.setattr("sys.argv", ["fsurgeon", "inspect", "m.safetensors"])
    monkeypatch.setattr("filtersurgeon.networks.files.load", fail)
    assert failures._run(app) == 2
    assert capsys.readouterr().err == "error: --allow-pickle and --layers x are wrong\n"
    with pytest.raises(OptionError, match="`allow_pickle`"):
        fail()


def test_without_a_command_names_stay_as_they_are():
    spelling.remember_command(None)
    assert spelling.spell("`sparsity` is wrong") == "`sparsity` is wrong"
