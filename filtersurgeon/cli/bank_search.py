from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bank_learn import AllSpatial, BankOutput, Size
from filtersurgeon.cli.bundles import Bundle, changed, replaced, values, verb, without
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.running import DATA_DEVICE, Compensation, Computation, FitData, Jobs
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.banks.search import BankSearch, SearchData

_MEMBERS = options.output_option(
    "FILE",
    "Write the remaining members to this .safetensors file, the search to .json, or draw it "
    "(.png, .svg, .pdf).",
)


@dataclass(frozen=True)
class Search(Bundle):
    """How to search; the fields are parameters of ``search_bank``."""

    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            help="Name or file of the bank to start from.",
            autocompletion=banks,
        ),
    ] = None
    to: Annotated[
        int, typer.Option("--to", metavar="K", help="Number of members to stop at.", min=1)
    ] = 1
    criterion: Annotated[
        str,
        options.choice(
            "--criterion",
            among=("accuracy", "error"),
            help="accuracy: measured on --data. error: squared error of the kernels, without "
            "images.",
        ),
    ] = "accuracy"
    layers: options.Layers = None
    all_spatial: AllSpatial = False
    size: Size = None
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Replace and evaluate for every member; slow, same result."),
    ] = False


@verb("fsurgeon bank search m.safetensors --bank dog8 --criterion error --to 4")
def search(
    source: options.Input = "-",
    *,
    wanted: Search,
    seed: options.Seed = 0,
    compensation: Compensation,
    data: Annotated[FitData, without("skip_bad")],
    computation: Annotated[Computation, changed(batch_size=16), DATA_DEVICE],
    jobs: Jobs,
    network: options.Network,
    output: Annotated[
        BankOutput,
        replaced(
            output=_MEMBERS,
            picture=options.picture("Draw the error by bank size (PNG, SVG, PDF)."),
        ),
    ],
    general: options.General,
) -> None:
    """Search for the few members of a bank that a network needs.

    Greedy backward elimination: drop the member whose removal costs the least accuracy. --criterion
    error compares only kernels, and is fast.
    """
    from filtersurgeon.banks import save_bank
    from filtersurgeon.banks.search import search_bank
    from filtersurgeon.plots.curves import draw_search

    elimination = values(wanted)
    start = elimination.pop("bank")
    if start is None:
        raise OptionError(
            "no bank to start from; pass --bank NAME, or a file made by fsurgeon bank sample"
        )
    output.check()
    data.refuse_computation(computation)
    quiet = general.quiet
    with network.opened(source, quiet) as checkpoint:
        material = _material(source, seed, data, computation, jobs, quiet)
        with show.progress("searching", quiet) as progress:
            found = search_bank(
                checkpoint,
                start,
                material,
                **elimination,
                **values(compensation),
                progress=progress,
            )
    if output.bank:
        save_bank(found.bank, output.bank, force=output.force)
    if output.drawn:
        draw_search(found, output.drawn)
    output.show(found.to_json(), lambda: _render(found))


def _material(
    source: str, seed: int, data: FitData, computation: Computation, jobs: Jobs, quiet: bool
) -> SearchData | None:
    """Say which images accuracy is measured on, and where; None if none were named."""
    from filtersurgeon.banks.search import SearchData
    from filtersurgeon.data.data import part_of
    from filtersurgeon.data.splits import FIT

    images = data.spec(seed)
    if images is None:
        return None
    tell = show.teller(quiet)
    for text in part_of(images, FIT).notes():
        tell(text)
    return SearchData(images, source, data.preprocessing, computation.settings(), jobs.settings())


def _render(found: BankSearch) -> Iterator[Any]:
    by_accuracy = found.original_wrong is not None
    columns = [("members", "right"), ("removed", "left"), ("error", "right")]
    columns += [("top-1 %", "right")] if by_accuracy else []
    rows = [
        (
            step.size,
            step.removed or "",
            step.relative_error,
            *([f"{100 * found.value(step):.2f}"] if by_accuracy else []),
        )
        for step in found.steps
    ]
    yield show.table(f"greedy elimination from {found.start.name}", columns, rows)
    if found.original_wrong is not None:
        original = 100 * (1 - found.original_wrong / found.images)
        yield f"top-1 before any replacement: {original:.2f} % of {found.images:,} images"
    yield f"elbow at {found.elbow} members; left: {', '.join(found.bank.labels)}"
