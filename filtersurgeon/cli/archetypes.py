from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, only, values, verb, without
from filtersurgeon.cli.running import ANALYSIS_DEVICE, Computation

if TYPE_CHECKING:
    from filtersurgeon.ranking.archetype_models import ArchetypeModels


@dataclass(frozen=True)
class Pictures(Bundle):
    """What is drawn."""

    picture: Annotated[
        str | None,
        options.picture("Draw the archetypes of each layer as their kernels.", "FILE.png"),
    ] = None
    simplex: Annotated[
        str | None,
        typer.Option(
            "--simplex",
            metavar="FILE",
            help="Plot the filters of each layer on two principal axes, coloured by l0.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None
    by_l0: Annotated[
        str | None,
        typer.Option(
            "--by-l0",
            metavar="FILE.png",
            help="Draw the filters of each layer, sorted by l0.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None
    elbow: Annotated[
        str | None,
        typer.Option(
            "--elbow",
            metavar="FILE",
            help="Plot the error against the number of archetypes, for --archetypes elbow.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None

    def check(self, force: bool) -> None:
        """Refuse, before any work, a picture that cannot be written."""
        from filtersurgeon.plots.pictures import check_picture_path
        from filtersurgeon.plots.sheet import check_sheet_path

        for path in (self.picture, self.by_l0):
            check_sheet_path(path, force)
        for path in (self.simplex, self.elbow):
            check_picture_path(path, force)

    def draw(self, found: ArchetypeModels) -> None:
        """Write the pictures."""
        from filtersurgeon.plots import archetypes as plots

        ways: Mapping[Callable[..., Any], str | None] = {
            plots.draw_archetypes: self.picture,
            plots.draw_simplex: self.simplex,
            plots.draw_sorted_filters: self.by_l0,
            plots.draw_elbow: self.elbow,
        }
        for draw, path in ways.items():
            if path is not None:
                draw(found, path)


@verb("fsurgeon archetypes m.safetensors -o arch.safetensors --simplex simplex.png")
def archetypes(
    source: options.Input = "-",
    *,
    number: options.Archetypes = None,
    uncapped: Annotated[
        bool,
        typer.Option(
            "--uncapped",
            help="Allow a share of more archetypes than a filter has weights plus one. Coefficients"
            " are then not unique.",
        ),
    ] = False,
    search: options.ArchetypeSearch,
    layers: options.Layers = None,
    pictures: Pictures,
    computation: Annotated[Computation, only("device"), ANALYSIS_DEVICE],
    network: Annotated[options.Network, without("factory")],
    output: Annotated[
        str | None,
        options.output_option(
            "FILE.safetensors",
            "Write archetypes, coefficients and weights of each layer to this file.",
        ),
    ] = None,
    as_json: options.AsJson = None,
    force: options.Force = False,
    general: options.General,
) -> None:
    """Find the archetypes of each layer.

    The filters X of a layer are modelled by D*A with D = X*B. D are the archetypes, A the
    coefficients that mix filters from them. B are the source filters of each archetype. By default,
    spatial layers are analysed; --layers '*' includes 1x1 convolutions.
    """
    from filtersurgeon.checkpoint.atomic import check_ending
    from filtersurgeon.ranking.archetype_models import find_archetypes

    ending = "archetypes are stored as safetensors; end the file name in .safetensors"
    check_ending(output, (".safetensors",), ending, force)
    pictures.check(force)
    with network.opened(source, general.quiet) as checkpoint:
        with show.progress("analysing", general.quiet) as progress:
            found = find_archetypes(
                checkpoint, archetypes=options.archetype_counts(number), capped=not uncapped,
                **values(search), layers=layers, device=computation.device, progress=progress,
            )  # fmt: skip
        pictures.draw(found)
        if output is not None:
            found.save(Path(output), force=force)
    if output is None or as_json is not None:
        show.result(found.to_json(), lambda: _render(found), as_json=as_json)
    show.note(_summary(found), general.quiet)


def _render(found: ArchetypeModels) -> Iterator[Any]:
    columns = [("layer", "left"), ("N", "right"), ("archetypes", "right"), ("error", "right"),
               ("mean l0", "right"), ("sources", "right"), ("unique", "left")]  # fmt: skip
    rows = [
        (
            layer.name,
            len(layer.filters),
            layer.model.n_archetypes,
            layer.model.relative_error,
            float(layer.l0.mean()),
            sum(map(len, layer.sources())) / layer.model.n_archetypes,
            "yes" if layer.model.coefficients_unique else "no",
        )
        for layer in found.layers.values()
    ]
    yield show.table("archetypes", columns, rows)


def _summary(found: ArchetypeModels) -> str:
    layers = found.layers.values()
    count, filters = sum(x.model.n_archetypes for x in layers), sum(len(x.filters) for x in layers)
    return f"found {count:,} archetypes of {filters:,} filters in {len(found.layers)} layers"
