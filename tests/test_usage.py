"""Wrong usage: one line in this package's words, with what was meant."""

import pytest
import typer.main

from filtersurgeon.cli.application import app
from filtersurgeon.cli.options import archetype_counts
from filtersurgeon.cli.usage import _COMMANDS, _OPTIONS, describe_usage
from filtersurgeon.errors import OptionError
from filtersurgeon.pruning.settings import read_ratios
from filtersurgeon.pruning.target import Target, read_target
from filtersurgeon.registry import read_share

APPLICATION = typer.main.get_command(app)
CONTEXT = APPLICATION.make_context("fsurgeon", [], resilient_parsing=True)


def _parse(verb, *words):
    return APPLICATION.commands[verb].make_context(verb, list(words), parent=CONTEXT)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("prune", "--amount", "0.5"),
            "fsurgeon prune has no option --amount; did you mean --sparsity?",
        ),
        (("prune", "--sparsty", "0.5"), "did you mean --sparsity?"),
        (
            ("rank", "--ratio", "0.5"),
            "fsurgeon rank has no option --ratio; see fsurgeon rank --help",
        ),
        (("eval", "--batch_size", "2"), "did you mean --batch-size?"),
        (("tune", "--weight-decay", "0.1"), "did you mean -p NAME=VALUE?"),
        (("prune", "--flops", "0.5"), "did you mean --target macs=0.5x?"),
        (("walk", "--original", "x"), "did you mean --against?"),
        (("prune", "-z"), "fsurgeon prune has no option -z; see fsurgeon prune --help"),
        (("prune", "--sparsity", "x"), "--sparsity x should be a share such as 0.3 or 30%; see"),
        (
            ("decode", "--threshold", "120%"),
            "--threshold 120% should be from 0 to 1, or 0% to 100%",
        ),
        (("tune", "--epochs", "1.5"), "--epochs 1.5 should be a whole number; see"),
        (("tune", "--epochs", "0"), "--epochs 0 should be at least 1; see"),
        (("walk", "--port", "99999"), "--port 99999 should be at most 65535; see"),
        (("tune", "--lr", "x"), "--lr x should be a number; see"),
        (("prune", "m.safetensors", "--sparsity"), "needs a value; see fsurgeon prune --help"),
        (("prune", "a", "b", "c"), "too many arguments: b c; see fsurgeon prune --help"),
        (("prune", "--sparsity"), "--sparsity needs a value"),
        (("prune", "--per-layer=3"), "--per-layer takes no value"),
    ],
)
def test_wrong_usage_is_described(words, said):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - typer does not export the class
        _parse(*words)
    line = describe_usage(caught.value)
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "fsurgeon has no command train; did you mean tune?"),
        (["prun"], "fsurgeon has no command prun; did you mean prune?"),
        (["bank", "lst"], "fsurgeon bank has no command lst; did you mean list?"),
        (["zzz"], "fsurgeon has no command zzz; see fsurgeon --help"),
    ],
)
def test_unknown_commands_suggest_what_was_meant(words, said):
    with pytest.raises(OptionError) as caught:
        APPLICATION.main(words, prog_name="fsurgeon", standalone_mode=False)
    assert str(caught.value) == said


def test_words_of_other_tools_lead_to_what_there_is():
    commands = APPLICATION.commands
    assert set(_COMMANDS) <= set(commands)
    options = {x for each in commands.values() for p in each.params for x in p.opts}
    assert {here.split()[0] for here in _OPTIONS} <= options
    assert not [word for words in _COMMANDS.values() for word in words if word in commands]


@pytest.mark.parametrize("text", ["0.25", "25%", " 25 % ", 0.25])
def test_shares_are_also_percentages(text):
    assert read_share(text) == 0.25
    assert read_ratios({"conv1": text}) == (("conv1", 0.25),)


def test_options_take_percentages():
    assert _parse("prune", "--sparsity", "50%").params["sparsity"] == 0.5
    found = _parse("fabricate", "--archetypes", "12.5%").params["archetypes"]
    assert archetype_counts(found) == 0.125
    assert _parse("decode", "--threshold", "40%").params["threshold"] == 0.4
    assert read_target("macs=70%") == Target("macs", 0.7)
    with pytest.raises(OptionError, match="should read"):
        read_target("macs=170%")


def test_a_ratio_without_layers_names_the_option_for_all():
    from filtersurgeon.cli.options import key_values

    with pytest.raises(OptionError, match=r"pass --per-layer --sparsity 0\.5"):
        key_values(["0.5"], "--ratio")
