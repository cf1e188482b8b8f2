from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.streams import begun, check_destination, deliver
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.transforms.predefined.report import ConversionReport

_MODULE = "Pre-defined filter modules"


def convert(
    source: options.Input = "-",
    activation: Annotated[
        str | None,
        typer.Option(
            "--activation",
            help="relu, leaky-relu, or proxygrad (a ReLU that leaks in the backward pass).",
        ),
    ] = None,
    slope: Annotated[
        float | None,
        typer.Option("--slope", help="Of leaky-relu and proxygrad, below zero.  [default: 0.1]"),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            "--module",
            help="pfm: every filter of the bank on every channel; reduced-pfm: one per channel.",
            rich_help_panel=_MODULE,
        ),
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(
            "--bank", "-b", metavar="BANK", autocompletion=banks, rich_help_panel=_MODULE,
            help="A bank's name or file.  [default: edge-line-16]",
        ),
    ] = None,
    growth: Annotated[
        int | None,
        typer.Option(
            "--growth", metavar="F", min=1, rich_help_panel=_MODULE,
            help="Filters per channel, instead of all or one; those of the image get all.",
        ),
    ] = None,
    relu: Annotated[
        bool | None,
        typer.Option(
            "--relu/--no-relu", show_default=False, rich_help_panel=_MODULE,
            help="Rectify the filters' results.  [default: unless --from-weights]",
        ),
    ] = None,
    trainable: Annotated[
        bool,
        typer.Option(
            "--trainable", help="Let the filters learn, one set for all.", rich_help_panel=_MODULE
        ),
    ] = False,
    own_filters: Annotated[
        bool,
        typer.Option(
            "--own-filters", rich_help_panel=_MODULE,
            help="With --trainable, let every module learn filters of its own.",
        ),
    ] = False,
    smooth_skips: Annotated[
        bool | None,
        typer.Option(
            "--smooth-skips/--no-smooth-skips", show_default=False, rich_help_panel=_MODULE,
            help="Let strided 1x1 convolutions read a smoothed image.  "
            "[default: unless --from-weights]",
        ),
    ] = None,
    from_weights: Annotated[
        bool,
        typer.Option(
            "--from-weights", rich_help_panel=_MODULE,
            help="Express the trained kernels in the bank by least squares; linear, no "
            "normalisation.",
        ),
    ] = False,
    untrained: options.Untrained = False,
    layers: options.Layers = None,
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
) -> None:  # fmt: skip
    """Give a network other activations, or fixed filters.

    --activation changes no tensor. --module makes of every convolution the fixed filters of a
    bank, a batch normalisation, a ReLU and a 1x1 convolution, which alone learns; train the
    result. Either way the file tells what the network is from now on, and eval, tune, prune and
    every other command follow it.
    """
    from filtersurgeon.transforms.convert import convert as convert_checkpoint

    if dry_run and module is None:
        raise OptionError("--dry-run shows what --module would do")
    if as_json is not None and not dry_run:
        raise OptionError("--json and --table go with --dry-run")
    if not dry_run:
        check_destination(output, source, force)
    reports: list[ConversionReport] = []
    known = options.architecture(arch, factory)
    with begun(source, untrained, known, seed, allow_pickle, quiet) as checkpoint:
        converted = convert_checkpoint(
            checkpoint, activation=activation, slope=slope, module=module, bank=bank,
            growth=growth, relu=relu, trainable=trainable, own_filters=own_filters,
            smooth_skips=smooth_skips, from_weights=from_weights, layers=layers, seed=seed,
            observe=reports.append,
        )  # fmt: skip
        if not dry_run:
            deliver(converted, output, force=force, quiet=quiet)
    if dry_run:
        show.result(reports[0].to_json(), lambda: _render(reports[0]), as_json=as_json)
    elif reports:
        for text in _remarks(reports[0]):
            show.note(text, quiet)
    else:
        show.note(f"the network's activations are {activation} now", quiet)


def _render(report: ConversionReport) -> Iterator[Any]:
    linear = report.output_difference is not None
    columns = [("layer", "left"), ("convolution", "right"), ("filters", "right"),
               ("per channel", "right")]  # fmt: skip
    columns += [("error", "right")] if linear else []
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.before)),
            "{} of {}x{}".format(layer.filters, *layer.kernel),
            layer.growth,
            *([layer.relative_error] if linear else []),
        )
        for layer in report.converted
    ]
    yield show.table("pre-defined filter modules", columns, rows)
    if report.left:
        yield show.table("left as they are", [("layer", "left"), ("it", "wrap")], report.left)
    yield from _remarks(report, listed=True)


def _remarks(report: ConversionReport, listed: bool = False) -> Iterator[str]:
    before, after = report.before, report.after
    yield (
        f"{len(report.converted)} convolutions are pre-defined filter modules now: "
        f"{after.parameters:,} parameters that learn instead of {before.parameters:,} "
        f"({after.parameters / before.parameters:.1%}), {after.macs / 1e9:.3g} G multiply-adds "
        f"instead of {before.macs / 1e9:.3g} G"
    )
    if report.left and not listed:
        name, reason = report.left[0]
        yield f"{len(report.left)} stay as they are, such as {name}: it {reason}"
    if report.smoothed:
        yield f"{len(report.smoothed)} strided 1x1 convolutions read a smoothed image now"
    if report.output_difference is None:
        yield "the new modules start anew: train with fsurgeon tune"
    else:
        worst = max(layer.relative_error or 0.0 for layer in report.converted)
        yield (
            f"kernels are met to {worst:.2g} of their size or better, "
            f"outputs on random images to {report.output_difference:.2g}"
        )
