"""The ``fsurgeon`` command: its verbs and its exit codes."""

from __future__ import annotations

from typing import Annotated

import typer

from filtersurgeon import __version__
from filtersurgeon.cli import (
    activations,
    apply,
    archetypes,
    bank,
    compare,
    convert,
    decode,
    doctor,
    embed,
    eval,
    explain,
    export,
    fabricate,
    gradcam,
    initialize,
    inspect,
    maximize,
    pack,
    prune,
    rank,
    replace,
    report,
    schema,
    silence,
    study,
    tune,
    walk,
)
from filtersurgeon.cli.failures import run
from filtersurgeon.cli.verbs import Verbs, register

app = typer.Typer(
    name="fsurgeon",
    cls=Verbs,
    rich_markup_mode=None,  # plain help: importing rich would double the time to show it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fsurgeon {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def fsurgeon(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - acts through its callback
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Prune, rank, replace and visualise the filters of pretrained image networks.

    Commands read a checkpoint: a .safetensors, .pt, .pth or .bin file, a directory with
    config.json, timm:NAME, torchvision:NAME, hf-hub:NAME, or - for standard input. Commands that
    change it write safetensors to -o or to the next command of a pipeline:

    \b
      fsurgeon rank m.safetensors --method archetype
      fsurgeon replace m.safetensors --bank dog8 | fsurgeon inspect
    """  # noqa: D301 - the lone \b keeps the lines after it as they are
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_GROUPS = {
    "Analyse": (
        ("inspect", inspect.inspect), ("rank", rank.rank),
        ("archetypes", archetypes.archetypes), ("explain", explain.explain),
        ("study", study.study),
    ),
    "Edit": (
        ("prune", prune.prune), ("replace", replace.replace), ("silence", silence.silence),
        ("fabricate", fabricate.fabricate),
        ("initialize", initialize.initialize), ("convert", convert.convert), ("tune", tune.tune),
        ("apply", apply.apply), ("pack", pack.pack), ("unpack", pack.unpack),
        ("export", export.export),
    ),
    "Visualise": (
        ("activations", activations.activations), ("gradcam", gradcam.gradcam),
        ("decode", decode.decode), ("maximize", maximize.maximize), ("embed", embed.embed),
        ("walk", walk.walk), ("report", report.report),
    ),
    "Evaluate": (("eval", eval.evaluate), ("compare", compare.compare)),
    "Reference": (("schema", schema.schema), ("doctor", doctor.doctor)),
}  # fmt: skip
for _group, _verbs in _GROUPS.items():
    for _name, _function in _verbs:
        register(app, _function, _name, _group)
app.add_typer(bank.app, name="bank", rich_help_panel="Analyse")


def run_application() -> None:
    """Run the command line and exit with its code."""
    run(app)
