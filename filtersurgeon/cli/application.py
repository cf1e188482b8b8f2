"""The ``fsurgeon`` command: its verbs, and what becomes of errors."""

from __future__ import annotations

from typing import Annotated

import typer

from filtersurgeon import __version__
from filtersurgeon.cli import (
    activations,
    apply,
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
    study,
    tune,
    walk,
)
from filtersurgeon.cli.failures import Verb, Verbs, run

app = typer.Typer(
    name="fsurgeon",
    cls=Verbs,
    rich_markup_mode=None,  # plain help: importing rich would double the time to show it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    """Surgery on the convolution filters of pretrained image networks.

    Every verb reads a checkpoint: a .safetensors, .pt, .pth or .bin file, a folder with
    config.json, timm:NAME, torchvision:NAME, hf-hub:NAME, or - for standard input. Those that
    change it write safetensors to -o or into the next command of a pipeline:

    \b
      fsurgeon rank m.safetensors --method archetype
      fsurgeon replace m.safetensors --bank dog8 | fsurgeon inspect
    """  # noqa: D301 - the lone \b keeps the lines after it as they are
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command(cls=Verb)(inspect.inspect)
app.command(cls=Verb)(rank.rank)
app.command(cls=Verb)(replace.replace)
app.command(cls=Verb)(fabricate.fabricate)
app.command(cls=Verb)(prune.prune)
app.command(cls=Verb)(initialize.initialize)
app.command(cls=Verb)(pack.pack)
app.command(cls=Verb)(pack.unpack)
app.command(cls=Verb)(convert.convert)
app.command(cls=Verb)(apply.apply)
app.add_typer(bank.app, name="bank")
app.command(cls=Verb)(explain.explain)
app.command("eval", cls=Verb)(eval.evaluate)
app.command(cls=Verb)(compare.compare)
app.command(cls=Verb)(tune.tune)
app.command(cls=Verb)(export.export)
app.command(cls=Verb)(decode.decode)
app.command(cls=Verb)(maximize.maximize)
app.command(cls=Verb)(gradcam.gradcam)
app.command(cls=Verb)(activations.activations)
app.command(cls=Verb)(embed.embed)
app.command(cls=Verb)(walk.walk)
app.command(cls=Verb)(report.report)
app.command(cls=Verb)(study.study)
app.command(cls=Verb)(schema.schema)
app.command(cls=Verb)(doctor.doctor)


def run_application() -> None:
    """Run the command line and exit with its code."""
    run(app)
