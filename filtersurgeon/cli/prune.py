from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import compensations, ranking_methods
from filtersurgeon.cli.streams import check_destination, deliver, opened
from filtersurgeon.registry import COMPENSATIONS, RANKING_METHODS

if TYPE_CHECKING:
    from filtersurgeon.pruning.report import LayerCut, PruneReport


def prune(
    source: options.Input = "-",
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="SHARE",
            help="Share of all spatial kernels to zero, or of each layer's filters to cut.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="SIZE", help="Find the sparsity: params=0.2x or macs=0.5x."
        ),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Cut this share of every layer's filters.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            show_default=False,
            help=f"Ranking method: {RANKING_METHODS.choices()}. It ranks filters with --per-layer, "
            "else it scores kernels, which not every method does.  [default: saliency with --data, "
            "else lamp; with --per-layer the ranking stored in the input, saliency with --data, "
            "else l2]",
            autocompletion=ranking_methods,
        ),
    ] = None,
    parameters: options.Parameters = None,
    scores: Annotated[
        str | None,
        typer.Option(
            "--scores",
            metavar="FILE",
            help="Scores of kernels, instead of a method; with --data, keep the saliency here, and "
            "go on from it.",
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="Which channels go once kernels are zeroed: channelprune, all that some layer "
            "has no kernel for; exact, those that the outputs do not depend on.",
        ),
    ] = "channelprune",
    border: Annotated[
        str,
        typer.Option(
            "--border",
            help="Of --mode exact: keep channels whose constant is felt differently at padded "
            "borders, or fold them.",
        ),
    ] = "keep",
    fill: Annotated[
        str,
        typer.Option(
            "--fill", help="What zeroed kernels that stay become: zero, fillzero or restore."
        ),
    ] = "zero",
    compensate: Annotated[
        str,
        typer.Option(
            "--compensate",
            metavar="KIND",
            help="Adjust the layers that read removed channels, without training: "
            f"{COMPENSATIONS.choices()}. Those that look at images need --data.",
            autocompletion=compensations,
        ),
    ] = "none",
    min_channels: Annotated[
        int, typer.Option("--min-channels", metavar="N", help="Channels that every layer keeps.")
    ] = 1,
    round_to: Annotated[
        int, typer.Option("--round-to", metavar="N", help="Round widths up to a multiple of N.")
    ] = 1,
    layers: options.Layers = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare outputs with those of the whole network, the cut channels silent.",
        ),
    ] = True,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.FitSplit = None,
    subset: options.Subset = None,
    skip_bad: options.SkipBad = False,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    preprocess: options.Preprocess = None,
    seed: options.Seed = 0,
    output: options.Output = None,
    dry_run: options.DryRun = False,
    arch: options.Arch = None,
    factory: options.Factory = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Cut channels out of a network.

    ChannelPrune: --sparsity 0.9 zeroes the 90 % least salient spatial kernels of the network and
    cuts every channel that has none left, with all that hangs on it. --per-layer --sparsity 0.3
    cuts 30 % of the filters of every layer. A layer that --layers leaves out keeps all its filters,
    and so do layers that make the same channels, as along a residual stream or around a depthwise
    convolution. Every cut is proven before anything is written.
    --dry-run shows sizes before and after, layer by layer.
    """
    from filtersurgeon.transforms.prune import prune as prune_checkpoint

    if not dry_run:
        check_destination(output, source, force)
    images = options.image_run(
        data=data, labels=labels, root=root, split=split, subset=subset, seed=seed,
        skip_bad=skip_bad, preprocess=preprocess, workers=workers, device=device, quiet=quiet,
    )  # fmt: skip
    done: list[PruneReport] = []
    architecture = options.architecture(arch, factory)
    with opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        with show.progress("judging", quiet) as progress:
            pruned = prune_checkpoint(
                checkpoint, sparsity=sparsity, target=target, per_layer=per_layer, method=method,
                options=options.key_values(parameters), mode=mode, border=border, fill=fill,
                compensate=compensate, min_channels=min_channels, round_to=round_to, layers=layers,
                seed=seed, verify=verify, data=images, scores=scores, observe=done.append,
                progress=progress,
            )  # fmt: skip
        report = done[0]
        for text in report.notes:
            show.note(f"note: {text}", quiet)
        if dry_run:
            show.result(report.to_json(), lambda: _render(report), as_json=as_json)
        else:
            deliver(pruned, output, force=force, quiet=quiet)
            show.note(_summary(report), quiet)


def _render(report: PruneReport) -> Iterator[Any]:
    columns = [("layer", "left"), ("made", "right"), ("read", "right")]
    zeroes = report.zeroed[0] > 0
    columns += [("kernels zeroed", "right")] if zeroes else []
    columns += [("why not", "wrap")]
    rows = [
        (
            layer.name,
            _change(layer.made),
            _change(layer.read),
            *([_zeroed(layer)] if zeroes else []),
            layer.kept_because,
        )
        for layer in report.layers
    ]
    yield show.table("channels", columns, rows)
    yield _summary(report)


def _change(sizes: tuple[int, int]) -> str:
    before, after = sizes
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _zeroed(layer: LayerCut) -> str:
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
