from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import bank_atlas, bank_learn, bank_sample, bank_search, options, show
from filtersurgeon.cli.bank_learn import Debug
from filtersurgeon.cli.bundles import only, replaced, verb
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.verbs import Verbs, register
from filtersurgeon.errors import OptionError, printable

if TYPE_CHECKING:
    import numpy as np

    from filtersurgeon.banks import FilterBank
    from filtersurgeon.banks.matching import BankComparison

USUAL_SIZES = (7, 5, 3)

Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="N",
        help="Kernel size of a built-in bank.  [default: 7, or the largest it has]",
        min=1,
    ),
]


@verb("fsurgeon bank list")
def list_banks(
    *,
    output: Annotated[options.ResultOutput, only("as_json")],
    general: Debug,  # noqa: ARG001 - acts through its callback
) -> None:
    """List the built-in banks."""
    from filtersurgeon.registry import BANKS

    rows = [(name, BANKS.summary(name)) for name in BANKS.names()]
    content = {
        "schema": "filtersurgeon.banks/1",
        "banks": [{"name": name, "summary": summary} for name, summary in rows],
    }
    columns = [("bank", "left"), ("what it is", "wrap")]
    output.show(content, lambda: [show.table("banks", columns, rows)])


_SHOWN = options.output_option(
    "FILE", "Write a picture (.png, .svg, .pdf), the values (.json), or a bank (.safetensors)."
)


@verb("fsurgeon bank show dog8 --size 5 -o dog8.png")
def show_bank(
    bank: Annotated[
        str,
        typer.Argument(
            metavar="BANK", show_default=False, help="Name or file of a bank.", autocompletion=banks
        ),
    ],
    *,
    size: Size = None,
    output: Annotated[options.ResultOutput, replaced(output=_SHOWN)],
    general: Debug,  # noqa: ARG001 - acts through its callback
) -> None:
    """Draw the kernels of a bank, on the terminal or into a file."""
    from filtersurgeon.banks import save_bank
    from filtersurgeon.plots import pictures

    shown, path = _find(bank, size), output.output
    kind = Path(path).suffix if path else ""
    if path and kind in pictures.SUFFIXES:
        pictures.check_picture_path(path, output.force)
        pictures.draw_bank(shown, path)
    elif path and kind == ".safetensors":
        save_bank(shown, path, force=output.force)
    else:
        output.check()
        output.show(shown.to_json(), lambda: _render(shown))


@verb("fsurgeon bank compare dog8 dct-8")
def compare_two(
    first: Annotated[str, typer.Argument(metavar="A", help="A bank.", autocompletion=banks)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another bank.", autocompletion=banks)],
    *,
    size: Size = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="If the sizes differ, compare the centres.")
    ] = False,
    output: options.ResultOutput,
    general: Debug,  # noqa: ARG001 - acts through its callback
) -> None:
    """Match the members of two banks by |cosine|, one to one.

    The scale, sign and mean of a member do not matter. A built-in bank takes the size of the other.
    """
    from filtersurgeon.banks import compare_banks

    output.check()
    one, two = _same_size(first, second, size)
    found = compare_banks(one, two, crop=crop)
    output.show(found.to_json(), lambda: _render_comparison(found))


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
    from filtersurgeon.banks.bank import load_bank

    sources = [load_bank(name) for name in (first, second)]
    fixed = next((source.size for source in sources if source.size), None)
    wanted = fixed[0] if size is None and fixed and fixed[0] == fixed[1] else size
    return _find(first, None if sources[0].size else wanted), _find(
        second, None if sources[1].size else wanted
    )


def _find(name: str, size: int | None) -> FilterBank:
    from filtersurgeon.banks.bank import load_bank

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
    from rich.text import Text

    draw = _blocks if show.console().color_system else _values
    yield Text.assemble((printable(bank.name), "bold"), "  ", printable(bank.description))
    for label, kernel in zip(bank.labels, bank.kernels, strict=True):
        yield ""
        yield label
        yield from draw(kernel)


def _values(kernel: np.ndarray) -> Iterator[str]:
    """Write the rows of a kernel as numbers, where there are no colours."""
    for row in kernel:
        yield " ".join(f"{value:6.2f}" for value in row)


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


app = typer.Typer(
    cls=Verbs, help="List, show, compare, learn, sample, search and map filter banks."
)
for _name, _function in (
    ("list", list_banks), ("show", show_bank), ("compare", compare_two),
    ("learn", bank_learn.learn), ("sample", bank_sample.sample), ("search", bank_search.search),
    ("atlas", bank_atlas.atlas),
):  # fmt: skip
    register(app, _function, _name)
