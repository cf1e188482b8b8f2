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
from filtersurgeon.cli.failures import Verbs, run

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


app.command()(inspect.inspect)
app.command()(rank.rank)
app.command()(replace.replace)
app.command()(fabricate.fabricate)
app.command()(prune.prune)
app.command()(initialize.initialize)
app.command()(pack.pack)
app.command()(pack.unpack)
app.command()(convert.convert)
app.command()(apply.apply)
app.add_typer(bank.app, name="bank")
app.command()(explain.explain)
app.command("eval")(eval.evaluate)
app.command()(compare.compare)
app.command()(tune.tune)
app.command()(export.export)
app.command()(decode.decode)
app.command()(maximize.maximize)
app.command()(gradcam.gradcam)
app.command()(activations.activations)
app.command()(embed.embed)
app.command()(walk.walk)
app.command()(report.report)
app.command()(study.study)
app.command()(schema.schema)
app.command()(doctor.doctor)


def run_application() -> None:
    """Run the command line and exit with its code."""
    run(app)
