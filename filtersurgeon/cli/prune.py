from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, verb, without
from filtersurgeon.cli.complete import compensations, ranking_methods
from filtersurgeon.cli.running import Computation, FitData
from filtersurgeon.registry import COMPENSATIONS, RANKING_METHODS

if TYPE_CHECKING:
    from filtersurgeon.pruning.report import LayerCut, PruneReport


@dataclass(frozen=True)
class Cut(Bundle):
    """What to remove; the fields are parameters of :func:`filtersurgeon.prune`.

    A new option is a new field: it is handed on by its name.
    """

    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="SHARE",
            help="Fraction of all spatial kernels to zero, 0 to 1; with --per-layer, fraction of "
            "each layer's filters to remove.",
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="SIZE",
            help="Find the sparsity for a size, such as params=0.2x or macs=0.5x.",
        ),
    ] = None
    per_layer: Annotated[
        bool,
        typer.Option("--per-layer", help="Remove the same fraction of every layer's filters."),
    ] = False
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            show_default=False,
            help=f"Ranking method: {RANKING_METHODS.choices()}. It ranks filters with --per-layer, "
            "else it scores kernels, which not every method does.  [default: saliency with --data, "
            "else lamp; with --per-layer the ranking stored in the input, saliency with --data, "
            "else l2]",
            autocompletion=ranking_methods,
        ),
    ] = None
    parameters: options.Parameters = None
    scores: Annotated[
        str | None,
        typer.Option(
            "--scores",
            metavar="FILE",
            help="Read the scores of kernels from this file. With --data, write the saliency to "
            "it, or resume from it.",
        ),
    ] = None
    mode: Annotated[
        str,
        options.choice(
            "--mode",
            among=("channelprune", "exact"),
            help="Which channels to remove after kernels are zeroed. channelprune: those for which "
            "some layer has no kernel left. exact: those that no output depends on.",
        ),
    ] = "channelprune"
    border: Annotated[
        str,
        options.choice(
            "--border",
            among=("keep", "fold"),
            help="For --mode exact: keep channels that cannot be folded exactly because of zero "
            "padding, or fold them.",
        ),
    ] = "keep"
    fill: Annotated[
        str,
        options.choice(
            "--fill",
            among=("zero", "fillzero", "restore"),
            help="Values of zeroed kernels that remain: zeros, noise (fillzero), or the original "
            "values.",
        ),
    ] = "zero"
    compensate: Annotated[
        str,
        typer.Option(
            "--compensate",
            metavar="KIND",
            help="Adjust the layers that read removed channels, without training: "
            f"{COMPENSATIONS.choices()}. Those that look at images need --data.",
            autocompletion=compensations,
        ),
    ] = "none"
    min_channels: Annotated[
        int,
        typer.Option("--min-channels", metavar="N", help="Channels that every layer keeps."),
    ] = 1
    round_to: Annotated[
        int,
        typer.Option(
            "--round-to", metavar="N", help="Round numbers of channels up to a multiple of N."
        ),
    ] = 1
    layers: options.Layers = None
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the outputs with those of the original network whose removed channels "
            "are masked.",
        ),
    ] = True


@verb("fsurgeon prune m.safetensors --per-layer --sparsity 0.3 -o pruned.safetensors")
def prune(
    source: options.Input = "-",
    *,
    cut: Cut,
    seed: options.Seed = 0,
    data: FitData,
    computation: Annotated[Computation, without("batch_size")],
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Remove channels and update every dependent layer.

    --sparsity 0.9 zeroes the 90 % least salient spatial kernels of the network, and removes every
    channel that has none left (ChannelPrune). --per-layer --sparsity 0.3 removes 30 % of the
    filters of every layer. Layers that --layers excludes keep all filters. So do layers that share
    channels with them, as along a residual stream or around a depthwise convolution.

    Every pruned network is checked before it is written. --dry-run shows sizes before and after,
    layer by layer.
    """
    from filtersurgeon.transforms.prune import prune as prune_checkpoint

    output.check(source)
    images = data.run(seed, computation, general.quiet)
    done: list[PruneReport] = []
    with network.opened(source, general.quiet) as checkpoint:
        with show.progress("scoring", general.quiet) as progress:
            pruned = prune_checkpoint(
                checkpoint, **options.keywords(cut), seed=seed, data=images,
                observe=done.append, progress=progress,
            )  # fmt: skip
        report = done[0]
        for text in report.notes:
            show.note(f"note: {text}", general.quiet)
        if output.dry_run:
            output.show(report.to_json(), lambda: _render(report))
        else:
            output.deliver(pruned, general.quiet)
            show.note(_summary(report), general.quiet)


def _render(report: PruneReport) -> Iterator[Any]:
    columns = [("layer", "left"), ("out channels", "right"), ("in channels", "right")]
    zeroes = report.zeroed[0] > 0
    columns += [("kernels zeroed", "right")] if zeroes else []
    columns += [("kept because", "wrap")]
    rows = [
        (
            layer.name,
            _change(layer.out_channels),
            _change(layer.in_channels),
            *([_format_zeroed(layer)] if zeroes else []),
            layer.kept_because,
        )
        for layer in report.layers
    ]
    yield show.table("channels", columns, rows)
    yield _summary(report)


def _change(sizes: tuple[int, int]) -> str:
    before, after = sizes
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _format_zeroed(layer: LayerCut) -> str:
    return f"{layer.zeroed / layer.kernels:.1%}" if layer.kernels else ""


def _summary(report: PruneReport) -> str:
    before, after = report.before, report.after
    zeroed, kernels = report.zeroed
    words = [
        f"parameters {before.parameters:,} -> {after.parameters:,} "
        f"({after.parameters / before.parameters:.1%})",
        f"MACs {before.macs:,} -> {after.macs:,} ({after.macs / max(1, before.macs):.1%})",
    ]
    if zeroed:
        words.append(f"{zeroed:,} of {kernels:,} spatial kernels zeroed")
    if report.difference is not None:
        words.append(f"outputs proven to {report.difference:.1g}")
    return ", ".join(words)
