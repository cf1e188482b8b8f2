from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.accuracy import warn_of_unknown
from filtersurgeon.cli.bundles import replaced, values, verb, without
from filtersurgeon.cli.running import Compensation, Computation, FitData, device_option

if TYPE_CHECKING:
    from filtersurgeon.transforms.fabricate import LayerFabrication


_DEVICE = replaced(
    device=device_option(
        "Device: auto (a GPU for --compensate, the CPU for archetypes), cpu, cuda, cuda:1 or xpu. "
        "A GPU analyses layers of equal size together."
    )
)


@verb("fsurgeon fabricate m.safetensors --archetypes 0.25 -o fabricated.safetensors")
def fabricate(
    source: options.Input = "-",
    *,
    archetypes: options.Archetypes = None,
    search: options.ArchetypeSearch,
    draw: options.Draw = "uniform",
    concentration: options.Concentration = None,
    norm_match: Annotated[
        bool,
        typer.Option(
            "--norm-match", help="Scale the new filters to the norms of the layer's own filters."
        ),
    ] = False,
    seed: options.Seed = 0,
    layers: options.Layers = None,
    compensation: Compensation,
    data: Annotated[FitData, without("skip_bad")],
    computation: Annotated[Computation, without("batch_size"), _DEVICE],
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Generate new filters from the archetypes of each layer.

    Every filter becomes a random convex combination of its layer's archetypes: a starting point for
    training, not a classifier. By default, spatial layers are changed; --layers '*' includes 1x1
    convolutions.
    """
    from filtersurgeon.transforms.fabricate import fabricate as fabricate_filters

    output.check(source)
    done: list[LayerFabrication] = []
    images = data.run(seed, computation, general.quiet, "--device")
    with network.opened(source, general.quiet) as opened:
        checkpoint = data.remembered(opened)
        edited = fabricate_filters(
            checkpoint, archetypes=options.archetype_counts(archetypes), **values(search),
            draw=draw, concentration=concentration,
            norm_match=norm_match, seed=seed, layers=layers, **values(compensation), data=images,
            device=computation.device, observe=done.append,
        )  # fmt: skip
        if not output.dry_run:
            output.deliver(edited, general.quiet)
            show.note(_summary(done), general.quiet)
            remedy = "fsurgeon eval shows it; fsurgeon tune trains the network"
            adapted = compensation.compensate != "none"
            warn_of_unknown(output, remedy, adapted, general.quiet)
            return
        with show.progress("fabricating", general.quiet) as progress:
            for count, change in enumerate(edited.changes, 1):
                edited[change.tensor].raw()
                if progress:
                    progress(count, len(edited.changes))
    content = {
        "schema": "filtersurgeon.fabrication/1",
        "layers": [layer.to_json() for layer in done],
    }
    output.show(content, lambda: _render(done))


def _render(report: Sequence[LayerFabrication]) -> Iterator[Any]:
    columns = [("layer", "left"), ("N", "right"), ("archetypes", "right"), ("error", "right"),
               ("norm", "right"), ("after", "right")]  # fmt: skip
    rows = [(x.name, x.filters, x.archetypes, x.error, x.norm, x.norm_after) for x in report]
    yield show.table("fabrication", columns, rows)
    yield _summary(report)


def _summary(report: Sequence[LayerFabrication]) -> str:
    filters, found = sum(x.filters for x in report), sum(x.archetypes for x in report)
    return f"made {filters:,} filters in {len(report)} layers from {found:,} archetypes"
