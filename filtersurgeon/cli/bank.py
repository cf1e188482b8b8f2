from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import banks
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    import numpy as np

    from filtersurgeon.banks import FilterBank

app = typer.Typer(help="List and show filter banks.")


@app.command("list")
def list_banks(as_json: options.Json = None, debug: options.Debug = False) -> None:  # noqa: ARG001
    """List the built-in banks."""
    from filtersurgeon.registry import BANKS

    rows = [(name, BANKS.summary(name)) for name in BANKS.names()]
    content = {"banks": [{"name": name, "summary": summary} for name, summary in rows]}
    columns = [("bank", "left"), ("what it is", "wrap")]
    show.result(content, lambda: [show.table("banks", columns, rows)], as_json=as_json)


@app.command("show")
def show_bank(
    bank: Annotated[
        str,
        typer.Argument(
            metavar="BANK", show_default=False, help="A bank's name or file.", autocompletion=banks
        ),
    ],
    size: Annotated[
        int | None, typer.Option("--size", help="Kernel size of a built-in bank.  [default: 7]")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="A picture (.png, .svg, .pdf), the numbers (.json), or a bank file "
            "(.safetensors).",
        ),
    ] = None,
    as_json: options.Json = None,
    force: options.Force = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Draw the kernels of a bank: on the terminal, or into a file."""
    from filtersurgeon.banks import save_bank
    from filtersurgeon.report import pictures

    shown = _find(bank, size)
    kind = Path(output).suffix if output else ""
    if output and kind in pictures.SUFFIXES:
        pictures.check_picture_path(output, force)
        pictures.draw_bank(shown, output)
    elif output and kind == ".safetensors":
        save_bank(shown, output, force=force)
    else:
        show.check_json_path(output, force)
        show.result(shown.to_json(), lambda: _render(shown), as_json=as_json, output=output)


def _find(name: str, size: int | None) -> FilterBank:
    from filtersurgeon.banks.bank import load_bank, read_bank
    from filtersurgeon.registry import BANKS

    if name not in BANKS.names() and Path(name).is_file():
        stored = read_bank(Path(name))
        if size not in (None, *stored.kernel_size):
            raise OptionError(f"{name} holds kernels of {stored.kernel_size}, not of --size {size}")
        return stored
    found = load_bank(name).at((size or 7, size or 7))
    if found is None:
        raise OptionError(f"bank {name} has no kernels of size {size}")
    return found


def _render(bank: FilterBank) -> Iterator[Any]:
    from rich.markup import escape

    yield f"[bold]{escape(bank.name)}[/]  {escape(bank.description)}"
    for label, kernel in zip(bank.labels, bank.kernels, strict=True):
        yield ""
        yield escape(label)
        yield from _blocks(kernel)


def _blocks(kernel: np.ndarray) -> Iterator[Any]:
    from rich.text import Text

    limit = abs(kernel).max() or 1.0
    for row in kernel / limit:
        line = Text("  ")
        for value in row:
            fade = round(255 * (1 - abs(float(value))))
            colour = f"rgb(255,{fade},{fade})" if value > 0 else f"rgb({fade},{fade},255)"
            line.append("  ", style=f"on {colour}")
        yield line
