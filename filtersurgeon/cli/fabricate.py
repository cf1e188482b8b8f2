from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import check_destination, deliver, opened

if TYPE_CHECKING:
    from filtersurgeon.transforms.fabricate import LayerFabrication


def fabricate(
    source: options.Input = "-",
    archetypes: options.Archetypes = 0.25,
    draw: options.Draw = "uniform",
    concentration: options.Concentration = None,
    norm_match: Annotated[
        bool,
        typer.Option("--norm-match", help="Give the new filters the norms of the layer's own."),
    ] = False,
    seed: options.Seed = 0,
    layers: options.Layers = None,
    output: options.Output = None,
    dry_run: options.DryRun = False,
    arch: options.Arch = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Make new filters from each layer's archetypes.

    Every filter of the spatial layers (--layers '*' takes 1x1 convolutions too) becomes a random
    convex combination of its layer's archetypes: a start for training, not a classifier.
    """
    from filtersurgeon.transforms.fabricate import fabricate as fabricate_filters

    if not dry_run:
        check_destination(output, source, force)
    done: list[LayerFabrication] = []
    with opened(source, arch=arch, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        edited = fabricate_filters(
            checkpoint, archetypes=archetypes, draw=draw, concentration=concentration,
            norm_match=norm_match, seed=seed, layers=layers, observe=done.append,
        )  # fmt: skip
        if not dry_run:
            deliver(edited, output, force=force, quiet=quiet)
            show.note(_summary(done), quiet)
            return
        with show.progress("fabricating", quiet) as progress:
            for count, change in enumerate(edited.changes, 1):
                edited[change.tensor].raw()
                if progress:
                    progress(count, len(edited.changes))
    content = {
        "schema": "filtersurgeon.fabrication/1",
        "layers": [layer.to_json() for layer in done],
    }
    show.result(content, lambda: _render(done), as_json=as_json)


def _render(report: Sequence[LayerFabrication]) -> Iterator[Any]:
    columns = [("layer", "left"), ("N", "right"), ("archetypes", "right"), ("error", "right"),
               ("norm", "right"), ("after", "right")]  # fmt: skip
    rows = [(x.name, x.filters, x.archetypes, x.error, x.norm, x.norm_after) for x in report]
    yield show.table("fabrication", columns, rows)
    yield _summary(report)


def _summary(report: Sequence[LayerFabrication]) -> str:
    filters, found = sum(x.filters for x in report), sum(x.archetypes for x in report)
    return f"made {filters:,} filters in {len(report)} layers from {found:,} archetypes"
