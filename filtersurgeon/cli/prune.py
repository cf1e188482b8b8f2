from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, verb, without
from filtersurgeon.cli.complete import compensations, ranking_methods
from filtersurgeon.cli.running import Computation, FitData
from filtersurgeon.cli.streams import deliver
from filtersurgeon.errors import OptionError
from filtersurgeon.registry import COMPENSATIONS, RANKING_METHODS

if TYPE_CHECKING:
    from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
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
            parser=options.share,
            help="Fraction of all spatial kernels to zero, such as 0.5 or 50%; with --per-layer, "
            "fraction of each layer's filters to remove.",
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="SIZE",
            help="Size to reach: macs=0.5x, params=1.5M or latency=12ms. With --data (no labels "
            "needed), as much accuracy as possible is kept. With --method or --per-layer, the "
            "sparsity that reaches it is found instead.",
        ),
    ] = None
    per_layer: Annotated[
        bool,
        typer.Option("--per-layer", help="Remove the same fraction of every layer's filters."),
    ] = False
    ratios: Annotated[
        list[str] | None,
        typer.Option(
            "--ratio",
            metavar="GLOB=SHARE",
            help="Fraction of the filters to remove from the layers that match, such as "
            "'layer1.*=0.3'; may be repeated. All other layers lose --sparsity, or nothing. "
            "Implies --per-layer.",
        ),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            show_default=False,
            help=f"Ranking method: {RANKING_METHODS.choices()}. It ranks filters with --per-layer, "
            "else it scores kernels, which not every method does.  [default: saliency with "
            "labelled images, else lamp; with --per-layer the ranking stored in the input, else "
            "saliency with labelled images, else l2]",
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
    allocate: Annotated[
        str | None,
        options.choice(
            "--allocate",
            among=("measured", "uniform"),
            help="How a target is shared out among layers: by the loss measured for each, or the "
            "same fraction of all.  [default: measured, but uniform where that keeps more of a "
            "network that loses much]",
        ),
    ] = None
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            metavar="HOW",
            show_default=False,
            help="Which channels a target removes: reconstruction (those that others can stand in "
            "for), or a ranking method.  [default: reconstruction]",
        ),
    ] = None
    streams: Annotated[
        str | None,
        options.choice(
            "--streams",
            among=("keep", "cut"),
            help="With --target: keep the channels of residual streams, or cut them as well.  "
            "[default: keep, unless cutting them keeps more or the target needs it]",
        ),
    ] = None
    runtime: options.Runtime = "torch"
    compensate: Annotated[
        str | None,
        typer.Option(
            "--compensate",
            metavar="KIND",
            help="Adjust the layers that read removed channels, without training: "
            f"{COMPENSATIONS.choices('none')}. Those that look at images need --data.  "
            "[default: sequential with --target, else none]",
            show_default=False,
            autocompletion=compensations,
        ),
    ] = None
    min_channels: Annotated[
        int,
        typer.Option("--min-channels", metavar="N", help="Channels that every layer keeps."),
    ] = 1
    round_to: Annotated[
        int | None,
        typer.Option(
            "--round-to",
            metavar="N",
            show_default=False,
            help="Round numbers of channels up to a multiple of N; with --target, 8 or more also "
            "lets residual branches go whole.  [default: 1, or with --target 8 for wide layers]",
        ),
    ] = None
    layers: options.Layers = None
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the outputs with those of the original network whose removed channels "
            "are masked.",
        ),
    ] = True


@dataclass(frozen=True)
class PlanFiles(Bundle):
    """Where a plan is written to or read from, and drawn."""

    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="FILE.yaml",
            help="Write how much every layer keeps, and what that costs; without --target or "
            "--sparsity, read it and cut so.",
        ),
    ] = None
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="SIZES",
            help="Several targets at once, such as macs=0.9,0.7,0.5: one network each into the "
            "directory -o, with the frontier as a table and a plot.",
        ),
    ] = None
    picture: Annotated[
        str | None,
        options.picture("Draw the plan: widths before and after, and the loss of every cut."),
    ] = None

    def check(self, reads: bool, force: bool) -> None:
        """Refuse, before any work, files that cannot be written."""
        if self.plan is None and self.picture is None:
            return
        from filtersurgeon.checkpoint.atomic import check_ending
        from filtersurgeon.plots.pictures import check_picture_path

        if not reads:
            check_ending(self.plan, (".yaml", ".yml"), "plans end in .yaml", force)
        check_picture_path(self.picture, force)

    def write(self, plan: CutPlan | None, reads: bool) -> None:
        """Write the plan and its picture.

        Raises:
            OptionError: the cut has no plan.
        """
        if self.plan is None and self.picture is None:
            return
        if plan is None:
            raise OptionError("`plan` and `picture` need a `target` shared out among layers")
        if self.plan is not None and not reads:
            from filtersurgeon.checkpoint.atomic import write_bytes

            write_bytes(Path(self.plan), plan.to_yaml().encode())
        if self.picture is not None:
            from filtersurgeon.plots.cut_plan import draw_plan

            draw_plan(plan, self.picture)


@verb("fsurgeon prune m.safetensors --target macs=0.7x --data photographs -o pruned/")
def prune(
    source: options.Input = "-",
    *,
    cut: Cut,
    files: PlanFiles,
    seed: options.Seed = 0,
    data: FitData,
    computation: Annotated[Computation, without("batch_size")],
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Remove channels and update every dependent layer.

    --target macs=0.5x --data photographs keeps as much accuracy as possible without training. Every
    cut is measured on the images. Channels are removed that others can replace, and the layers that
    read them are refitted, front to back. A few hundred images suffice, without labels.

    --sparsity 0.9 zeroes the 90 % least salient spatial kernels of the network, and removes every
    channel that has none left (ChannelPrune). --per-layer --sparsity 0.3 removes 30 % of the
    filters of every layer. Layers that --layers excludes keep all filters. So do layers that share
    channels with them, as along a residual stream or around a depthwise convolution.

    Every pruned network is checked before it is written. --dry-run shows sizes before and after,
    layer by layer.
    """
    from filtersurgeon.transforms.prune import prune as prune_checkpoint

    if files.sweep is not None:
        _sweep(source, cut, files, seed, data, computation, network, output, general)
        return
    output.check(source)
    images = data.run(seed, computation, general.quiet)
    reads = files.plan is not None and cut.target is None and cut.sparsity is None
    files.check(reads, output.force)
    done: list[PruneReport] = []
    with network.opened(source, general.quiet) as opened:
        checkpoint = data.remembered(opened)
        with show.progress("scoring", general.quiet) as progress:
            pruned = prune_checkpoint(
                checkpoint, **options.keywords(cut), seed=seed, data=images,
                plan=files.plan if reads else None, observe=done.append, progress=progress,
            )  # fmt: skip
        report = done[0]
        files.write(report.plan, reads)
        for text in report.notes:
            show.note(f"note: {text}", general.quiet)
        if output.dry_run:
            output.show(report.to_json(), lambda: _render(report))
        else:
            output.deliver(pruned, general.quiet)
            show.note(_summary(report), general.quiet)
        for text in report.warnings:
            show.note(f"warning: {text}", general.quiet)


def _sweep(
    source: str,
    cut: Cut,
    files: PlanFiles,
    seed: int,
    data: FitData,
    computation: Computation,
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Cut to several sizes; write the networks, a table and a plot into a folder."""
    from filtersurgeon.plots.cut_plan import draw_frontier
    from filtersurgeon.transforms._cut_to_target import prune_sweep

    folder = _sweep_folder(cut, files, output)
    given = options.keywords(cut)
    passed = ("options", "runtime", "min_channels", "round_to", "layers", "verify")
    wanted = {name: given[name] for name in passed}
    wanted |= {
        name: given[name] for name in ("allocate", "select", "compensate", "streams") if given[name]
    }
    reports: list[PruneReport] = []
    images, sizes = data.run(seed, computation, general.quiet), _sizes(files.sweep or "")
    with (
        network.opened(source, general.quiet) as checkpoint,
        show.progress("pruning", general.quiet) as progress,
    ):
        found = prune_sweep(
            data.remembered(checkpoint), sizes, **wanted, seed=seed, data=images, progress=progress
        )
        for target, (pruned, report) in zip(sizes, found, strict=True):
            folder.mkdir(exist_ok=True)
            file = folder / f"{target.replace('=', '-')}.safetensors"
            deliver(
                pruned, str(file), force=output.force, quiet=general.quiet,
                keep_names=output.keep_names,
            )  # fmt: skip
            show.write_json(report.to_json(), str(file.with_suffix(".json")))
            reports.append(report)
            show.note(f"{target}: {_summary(report)}", general.quiet)
            for text in report.warnings:
                show.note(f"warning: {text}", general.quiet)
    for text in dict.fromkeys(text for report in reports for text in report.notes):
        show.note(f"note: {text}", general.quiet)
    if any(report.worth is not None for report in reports):
        draw_frontier(reports, folder / "frontier.png")


def _sizes(words: str) -> list[str]:
    """Read ``macs=0.9,0.7`` as one target for each number; operations where nothing is named."""
    from filtersurgeon.pruning.target import read_target

    quantity, _, numbers = words.rpartition("=")
    targets = (f"{quantity or 'macs'}={number.strip()}" for number in numbers.split(","))
    return [str(read_target(words)) for words in targets]


def _sweep_folder(cut: Cut, files: PlanFiles, output: options.CheckpointOutput) -> Path:
    """Give the folder that a sweep writes into.

    Raises:
        OptionError: options that do not go together, or no folder.
    """
    others = (cut.sparsity, cut.target, cut.method, cut.scores, files.plan, files.picture)
    if any(value is not None for value in others) or cut.per_layer or cut.ratios or output.dry_run:
        raise OptionError(
            "`sweep` cuts to several targets by itself; leave `sparsity`, `target`, `method`, "
            "`scores`, `per_layer`, `ratios`, `plan`, `picture` and `dry_run` out"
        )
    _sizes(files.sweep or "")
    if output.output is None or Path(output.output).suffix:
        raise OptionError("`sweep` writes several networks: pass a directory with -o")
    folder = Path(output.output)
    if folder.exists() and not output.force:
        raise OptionError(f"{folder} exists; pass `force` to write into it")
    return folder


_FILLED = {"zero": "", "fillzero": " (those left: noise)", "restore": " (those left: restored)"}
"""What became of zeroed kernels that were not removed."""


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
        words.append(f"{zeroed:,} of {kernels:,} spatial kernels zeroed{_FILLED[report.fill]}")
    if report.difference is not None:
        nearly = f"to {report.difference:.1g}" if report.difference else "exactly"
        words.append(f"matches {report.compared} {nearly}")
    if report.worth is not None:
        words.append(report.worth.describe())
    return ", ".join(words)
