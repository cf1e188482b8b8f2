from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.accuracy import warn_of_unknown
from filtersurgeon.cli.bundles import Bundle, verb, without
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.running import Computation, FitData
from filtersurgeon.registry import RANKING_METHODS

if TYPE_CHECKING:
    from filtersurgeon.transforms.silence import LayerSilence


@dataclass(frozen=True)
class Silencing(Bundle):
    """What to zero; the fields are parameters of :func:`filtersurgeon.silence`."""

    worst: Annotated[
        float | None,
        typer.Option(
            "--worst",
            metavar="SHARE",
            parser=options.share,
            help="Zero this fraction of every layer's filters, such as 0.1 or 10%, the least "
            "important ones.",
        ),
    ] = None
    best: Annotated[
        float | None,
        typer.Option(
            "--best",
            metavar="SHARE",
            parser=options.share,
            help="Zero the most important ones instead.",
        ),
    ] = None
    near: Annotated[
        str | None,
        typer.Option(
            "--near",
            metavar="WHAT=SHARE",
            help="Zero the filters nearest to the archetypes of their layer (archetypes=0.2), or "
            "to its geometric median (median=0.2).",
        ),
    ] = None
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels",
            help="Zero spatial kernels instead of filters: a fraction of all kernels of the "
            "network, ordered together.",
        ),
    ] = False
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            show_default=False,
            help=f"Ranking method: {RANKING_METHODS.choices()}.  [default: the ranking stored in "
            "the input, saliency with --data, else l2, or lamp with --kernels]",
            autocompletion=ranking_methods,
        ),
    ] = None
    parameters: options.Parameters = None
    shift: Annotated[
        str,
        options.choice(
            "--shift",
            among=("zero", "keep"),
            help="Scale and shift of the batch normalisation behind a zeroed filter: zero them "
            "too, or keep them.",
        ),
    ] = "zero"
    layers: options.Layers = None


@verb("fsurgeon silence m.safetensors --worst 0.2 -o silent.safetensors")
def silence(
    source: options.Input = "-",
    *,
    wanted: Silencing,
    seed: options.Seed = 0,
    data: FitData,
    computation: Annotated[Computation, without("batch_size")],
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Set filters to zero in place, by a ranking, from either end.

    No shape changes. The batch normalisation behind a zeroed filter loses its scale and shift, so
    that the channel is zero. prune --mode exact --sparsity 0 then removes it. By default, spatial
    layers are changed; --layers '*' includes 1x1 convolutions.
    """
    from filtersurgeon.transforms.silence import silence as silence_filters

    output.check(source)
    images = data.run(seed, computation, general.quiet)
    done: list[LayerSilence] = []
    with network.opened(source, general.quiet) as opened:
        checkpoint = data.remembered(opened)
        with show.progress("ranking", general.quiet) as progress:
            edited = silence_filters(
                checkpoint, **options.keywords(wanted), seed=seed, data=images,
                observe=done.append, progress=progress,
            )  # fmt: skip
        for text in edited.notes[len(checkpoint.notes) :]:
            show.note(f"note: {text}", general.quiet)
        if not output.dry_run:
            output.deliver(edited, general.quiet)
            show.note(_summary(done, wanted.kernels), general.quiet)
            if images is None and any(layer.zeroed for layer in done):
                warn_of_unknown(output, "fsurgeon eval shows it", False, general.quiet)
            return
    content = {
        "schema": "filtersurgeon.silencing/1",
        "what": "kernels" if wanted.kernels else "filters",
        "layers": [layer.to_json() for layer in done],
    }
    output.show(content, lambda: _render(done, wanted.kernels))


def _render(report: Sequence[LayerSilence], kernels: bool) -> Iterator[Any]:
    columns = [("layer", "left"), ("kernels" if kernels else "filters", "right"),
               ("zeroed", "right"), ("normalisation zeroed", "left")]  # fmt: skip
    columns = columns[:3] if kernels else columns
    rows = [(x.name, x.size, x.zeroed, x.normalisation)[: len(columns)] for x in report]
    yield show.table("silenced", columns, rows)
    yield _summary(report, kernels)


def _summary(report: Sequence[LayerSilence], kernels: bool) -> str:
    zeroed, size = sum(x.zeroed for x in report), sum(x.size for x in report)
    what = "kernels" if kernels else "filters"
    layers = f"{len(report)} layer{'s' * (len(report) != 1)}"
    said = f"zeroed {zeroed:,} of {size:,} {what} in {layers}"
    behind = sum(bool(x.normalisation) for x in report)
    return said + (f", and the batch normalisation behind {behind} of them" if behind else "")
