from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.accuracy import spec
from filtersurgeon.cli.bank_learn import AllSpatial, Size, check_target_file
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.banks.search import BankSearch


def search(
    source: options.Input = "-",
    bank: Annotated[
        str | None,
        typer.Option("--bank", "-b", metavar="BANK", help="Where to begin.", autocompletion=banks),
    ] = None,
    to: Annotated[int, typer.Option("--to", metavar="K", help="The last size.", min=1)] = 1,
    criterion: Annotated[
        str,
        typer.Option("--criterion", help="accuracy on --data, or error (squared, no images)."),
    ] = "accuracy",
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.FitSplit = None,
    subset: options.Subset = None,
    layers: options.Layers = None,
    all_spatial: AllSpatial = False,
    size: Size = None,
    seed: options.Seed = 0,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="The slow way to the same path: replace and evaluate."),
    ] = False,
    batch_size: options.BatchSize = 16,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Try N at a time.", min=1)] = 1,
    backend: Annotated[
        str, typer.Option("--backend", help="Where jobs run: loky, dask or ray.")
    ] = "loky",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Of a running Dask scheduler or Ray cluster.  [default: start one]"
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", metavar="DIR", help="Keep finished candidates; a new run goes on from them."
        ),
    ] = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE.safetensors", help="Write the members left here."
        ),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE", help="Draw the way down (PNG, SVG, PDF)."),
    ] = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Search the few members of a bank that a network needs.

    Members go one by one, each time the one without which the network is right most often.
    --criterion error looks at the kernels alone and takes a moment.
    """
    from filtersurgeon.banks import save_bank
    from filtersurgeon.banks.search import SearchData, search_bank
    from filtersurgeon.data.data import part_of
    from filtersurgeon.data.splits import FIT
    from filtersurgeon.learn.evaluate import EvaluationSettings
    from filtersurgeon.learn.jobs import JobSettings
    from filtersurgeon.plots.pictures import check_picture_path
    from filtersurgeon.plots.searches import draw_search

    if bank is None:
        raise OptionError("name the --bank to begin with, such as one that bank sample made")
    if output is not None:
        check_target_file(output, force)
    check_picture_path(picture, force)
    known = options.architecture(arch, factory)
    with opened(source, arch=known, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        material = None
        if data:
            images = replace(spec(data, labels, root, subset, seed), split=split)
            tell = show.teller(quiet)
            for text in part_of(images, FIT).notes():
                tell(text)
            material = SearchData(
                images, source,
                options.preprocess_values(preprocess),
                EvaluationSettings(batch_size, workers, device),
                JobSettings(jobs, backend, address, cache),
            )  # fmt: skip
        with show.progress("searching", quiet) as progress:
            found = search_bank(
                checkpoint, bank, material, to=to, criterion=criterion, layers=layers,
                all_spatial=all_spatial, size=size, plain=plain, progress=progress,
            )  # fmt: skip
    if output:
        save_bank(found.bank, output, force=force)
    if picture:
        draw_search(found, picture)
    show.result(found.to_json(), lambda: _render(found), as_json=as_json)


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
