"""Options and arguments that mean the same in every verb, declared once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from filtersurgeon.errors import OptionError


def _remember_debug(wanted: bool) -> None:
    if wanted:
        os.environ["FSURGEON_DEBUG"] = "1"


Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        show_default=False,
        help="A file, a folder, timm:NAME, torchvision:NAME, hf-hub:NAME, or - (standard input, "
        "also when left out).",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Write here: a .safetensors file, or a folder (ends in /). Without it the checkpoint "
        "goes to a pipe.",
    ),
]
Results = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE.json", help="Write the result here, as JSON."),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="GLOB",
        help="Only these layers; may be repeated; !GLOB leaves layers out.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", metavar="NAME=VALUE", help="A parameter of the method; may be repeated."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")]
Json = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        show_default=False,
        help="Print JSON, or a table. By default a table on a terminal, JSON into a pipe.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of whatever is drawn.")]
Arch = Annotated[
    str | None,
    typer.Option("--arch", metavar="NAME", help="The architecture, such as timm:resnet50."),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Open archives that hold code and run it. Only if you trust them."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notes or summaries.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show the traceback of an error.", callback=_remember_debug, is_eager=True
    ),
]


def key_values(words: Iterable[str] | None) -> dict[str, Any]:
    """Split ``name=value`` words.

    Raises:
        OptionError: a word without ``=``.
    """
    pairs = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals:
            raise OptionError(f"-p {word} should read -p name=value")
        pairs[name] = value
    return pairs
