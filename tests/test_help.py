"""What ``--help`` shows: groups, choices in brackets, and an example that is a command."""

import shlex

import pytest
import typer.main

from filtersurgeon.banks.learning import ORIGINS
from filtersurgeon.banks.search.search import CRITERIA
from filtersurgeon.cli.application import app
from filtersurgeon.cli.verbs import GENERAL, OWN, command_groups, option_groups
from filtersurgeon.explain.basis import SEPARABLE
from filtersurgeon.explain.explanation import EXPECTATIONS
from filtersurgeon.exports.exporting import SUFFIXES
from filtersurgeon.learn.jobs import BACKENDS
from filtersurgeon.learn.settings import PRECISIONS
from filtersurgeon.networks.modules.rectifier_kinds import KINDS
from filtersurgeon.plots.heat_map import SCALES
from filtersurgeon.pruning.settings import BORDERS, FILLS, MODES
from filtersurgeon.see.embedding import METHODS
from filtersurgeon.see.linear_rules import UPSAMPLINGS
from filtersurgeon.see.random_transforms import REGULARIZERS
from filtersurgeon.transforms._fabrication import DRAWS
from filtersurgeon.transforms.initialize import OTHERS
from filtersurgeon.transforms.packing.description import COEFFICIENTS
from filtersurgeon.transforms.replace import BIASES

APPLICATION = typer.main.get_command(app)
CONTEXT = APPLICATION.make_context("fsurgeon", [], resilient_parsing=True)
COMMANDS = {
    path: command
    for name, each in APPLICATION.commands.items()
    for path, command in (
        [(f"{name} {inner}", command) for inner, command in each.commands.items()]
        if hasattr(each, "commands")
        else [(name, each)]
    )
}
CHOICES = {
    "prune --mode": MODES,
    "prune --border": BORDERS,
    "prune --fill": FILLS,
    "replace --bias": BIASES,
    "fabricate --draw": DRAWS,
    "pack --coefficients": COEFFICIENTS,
    "initialize --others": OTHERS,
    "convert --activation": KINDS,
    "maximize --activation": KINDS,
    "maximize --regularize": REGULARIZERS,
    "decode --upsample": UPSAMPLINGS,
    "embed --method": METHODS,
    "explain --basis": (*SEPARABLE, "pca"),
    "explain --scale": SCALES,
    "explain --expect": EXPECTATIONS,
    "export --format": tuple(SUFFIXES.values()),
    "eval --backend": BACKENDS,
    "tune --precision": PRECISIONS,
    "bank sample --from": ORIGINS,
    "bank search --criterion": CRITERIA,
}


def _option(words):
    path, _, name = words.rpartition(" ")
    return next(each for each in COMMANDS[path].params if name in each.opts)


@pytest.mark.parametrize("path", COMMANDS)
def test_the_example_is_a_command(path):
    """It names the verb, its options exist, and their values are of the right type."""
    command = COMMANDS[path]
    for line in command.epilog.split(" | "):
        script, *words = shlex.split(line)
        assert script == "fsurgeon"
        assert path in command.epilog
        verb = APPLICATION.commands[words.pop(0)]
        if hasattr(verb, "commands"):
            verb = verb.commands[words.pop(0)]
        verb.make_context(path, words, parent=CONTEXT)


@pytest.mark.parametrize("words", CHOICES)
def test_choices_are_those_of_the_library(words):
    option = _option(words)
    assert option.metavar == f"[{'|'.join(CHOICES[words])}]"
    assert [each.value for each in option.shell_complete(CONTEXT, "")] == list(CHOICES[words])


@pytest.mark.parametrize("path", COMMANDS)
def test_options_stand_in_groups(path):
    command = COMMANDS[path]
    context = type(CONTEXT)(command, info_name=path, parent=CONTEXT)
    groups = option_groups(command, context)
    titles = [title for title, _ in groups]
    assert titles[-1] == GENERAL
    assert OWN not in titles[2:]
    shown = command.get_help(context)
    for title, rows in groups:
        assert f"\n{title}:\n" in shown
        assert all(text for _, text in rows)
    assert "[[" not in shown.partition("\n\n")[0]
    assert shown.rstrip().endswith(command.epilog)
    assert max(map(len, command.epilog.splitlines())) <= 78  # with two blanks before it
    known = [x for x in command.get_params(context) if not getattr(x, "hidden", False)]
    assert len(known) == sum(len(rows) for _, rows in groups)


def test_commands_stand_in_groups():
    groups = dict(command_groups(APPLICATION))
    listed = [name for rows in groups.values() for name, _ in rows]
    assert sorted(listed) == sorted(APPLICATION.commands)
    assert "prune" in dict(groups["Edit"])
    assert "bank" in dict(groups["Analyse"])
    for rows in groups.values():
        for _, summary in rows:
            assert len(summary) < 80
            assert "'" not in summary  # typer's script for zsh loses apostrophes


@pytest.mark.parametrize(
    "path", ["inspect", "rank", "replace", "fabricate", "pack", "initialize", "bank list", "schema"]
)
def test_examples_run(path, model, fsurgeon, monkeypatch):
    """Those that need no more than the weights, on a network of the tests."""
    monkeypatch.chdir(model.parent)
    done = fsurgeon(*shlex.split(COMMANDS[path].epilog)[1:])
    assert done.returncode == 0, done.stderr
