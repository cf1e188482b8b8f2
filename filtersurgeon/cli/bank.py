from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import bank_learn, bank_sample, bank_search, options, show
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.failures import Verb
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    import numpy as np

    from filtersurgeon.banks import FilterBank
    from filtersurgeon.banks.matching import BankComparison

USUAL_SIZES = (7, 5, 3)

Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Kernel size of a built-in bank.  [default: 7, or the largest it has]",
        min=1,
    ),
]

app = typer.Typer(help="Filter banks: list, show, compare, learn, sample and search them.")


@app.command("list", cls=Verb)
def list_banks(as_json: options.Json = None, debug: options.Debug = False) -> None:  # noqa: ARG001
    """List the built-in banks."""
    from filtersurgeon.registry import BANKS

    rows = [(name, BANKS.summary(name)) for name in BANKS.names()]
    content = {
        "schema": "filtersurgeon.banks/1",
        "banks": [{"name": name, "summary": summary} for name, summary in rows],
    }
    columns = [("bank", "left"), ("what it is", "wrap")]
    show.result(content, lambda: [show.table("banks", columns, rows)], as_json=as_json)


@app.command("show", cls=Verb)
def show_bank(
    bank: Annotated[
        str,
        typer.Argument(
            metavar="BANK", show_default=False, help="A bank's name or file.", autocompletion=banks
        ),
    ],
    size: Size = None,
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
    from filtersurgeon.plots import pictures

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


@app.command("compare", cls=Verb)
def compare_two(
    first: Annotated[str, typer.Argument(metavar="A", help="A bank.", autocompletion=banks)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.", autocompletion=banks)],
    size: Size = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="Where sizes differ, compare the centres.")
    ] = False,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Match the members of two banks by |cosine|, one to one.

    Scale, sign and mean of a member play no part. A built-in bank takes the size of the other.
    """
    from filtersurgeon.banks import compare_banks

    show.check_json_path(output, force)
    one, two = _same_size(first, second, size)
    found = compare_banks(one, two, crop=crop)
    show.result(found.to_json(), lambda: _render_comparison(found), as_json=as_json, output=output)


def _render_comparison(found: BankComparison) -> Iterator[Any]:
    rows = [
        tuple("-" if value is None else value for value in member.values())
        for member in found.to_json()["members"]
    ]
    columns = [(found.first.name, "left"), (found.second.name, "left"), ("|cosine|", "right"),
               ("closest", "left"), ("|cosine|", "right")]  # fmt: skip
    height, width = found.first.kernel_size
    yield show.table(f"{found.first.name} and {found.second.name}, {height}x{width}", columns, rows)
    yield f"mean |cosine| of the {len(found.pairs)} pairs: {found.mean_cosine:.3f}"


def _same_size(first: str, second: str, size: int | None) -> tuple[FilterBank, FilterBank]:
    """Find two banks, at the size of that which has only one."""
    from filtersurgeon.banks.source import load_bank

    sources = [load_bank(name) for name in (first, second)]
    fixed = next((source.size for source in sources if source.size), None)
    wanted = fixed[0] if size is None and fixed and fixed[0] == fixed[1] else size
    return _find(first, None if sources[0].size else wanted), _find(
        second, None if sources[1].size else wanted
    )


def _find(name: str, size: int | None) -> FilterBank:
    from filtersurgeon.banks.source import load_bank

    source = load_bank(name)
    if source.size is not None:
        if size is not None and source.size != (size, size):
            sides = "x".join(map(str, source.size))
            raise OptionError(f"{name} holds kernels of {sides}, not of --size {size}")
        found = source.at(source.size)
    else:
        sizes = USUAL_SIZES if size is None else (size,)
        found = next((bank for n in sizes if (bank := source.at((n, n)))), None)
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


app.command("learn", cls=Verb)(bank_learn.learn)
app.command("sample", cls=Verb)(bank_sample.sample)
app.command("search", cls=Verb)(bank_search.search)
