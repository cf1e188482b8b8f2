from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, values, verb
from filtersurgeon.cli.complete import banks
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.transforms.predefined.report import ConversionReport

_MODULE = "Pre-defined filter modules"


@dataclass(frozen=True)
class Conversion(Bundle):
    """What to change; the fields are parameters of :func:`filtersurgeon.convert`."""

    activation: Annotated[
        str | None,
        options.choice(
            "--activation",
            among=("relu", "leaky-relu", "proxygrad"),
            help="Activation function; proxygrad is a ReLU with a leaky-ReLU gradient.",
        ),
    ] = None
    slope: Annotated[
        float | None,
        typer.Option(
            "--slope",
            metavar="SLOPE",
            help="Slope of leaky-relu and proxygrad below zero.  [default: 0.1]",
        ),
    ] = None
    layers: options.Layers = None
    module: Annotated[
        str | None,
        options.choice(
            "--module",
            among=("pfm", "reduced-pfm"),
            help="pfm: apply every filter of the bank to every channel. reduced-pfm: one filter "
            "per channel.",
            panel=_MODULE,
        ),
    ] = None
    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            autocompletion=banks,
            rich_help_panel=_MODULE,
            help="Name or file of a bank.  [default: edge-line-16]",
        ),
    ] = None
    growth: Annotated[
        int | None,
        typer.Option(
            "--growth",
            metavar="F",
            min=1,
            rich_help_panel=_MODULE,
            help="Filters per channel, instead of all or one. Input channels of the network get "
            "all filters.",
        ),
    ] = None
    relu: Annotated[
        bool | None,
        typer.Option(
            "--relu/--no-relu",
            show_default=False,
            rich_help_panel=_MODULE,
            help="Apply a ReLU to the filter outputs.  [default: unless --from-weights]",
        ),
    ] = None
    trainable: Annotated[
        bool,
        typer.Option(
            "--trainable",
            help="Make the filters trainable, one set for all modules.",
            rich_help_panel=_MODULE,
        ),
    ] = False
    own_filters: Annotated[
        bool,
        typer.Option(
            "--own-filters",
            rich_help_panel=_MODULE,
            help="With --trainable, give every module filters of its own.",
        ),
    ] = False
    smooth_skips: Annotated[
        bool | None,
        typer.Option(
            "--smooth-skips/--no-smooth-skips",
            show_default=False,
            rich_help_panel=_MODULE,
            help="Smooth the input of strided 1x1 convolutions.  [default: unless --from-weights]",
        ),
    ] = None
    from_weights: Annotated[
        bool,
        typer.Option(
            "--from-weights",
            rich_help_panel=_MODULE,
            help="Express the trained kernels in the bank by least squares; modules are linear, "
            "without normalisation.",
        ),
    ] = False


@verb("fsurgeon convert m.safetensors --activation leaky-relu -o leaky.safetensors")
def convert(
    source: options.Input = "-",
    *,
    conversion: Conversion,
    seed: options.Seed = 0,
    untrained: options.Untrained = False,
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Change the activations of a network, or use fixed filters.

    --activation changes no tensor. --module replaces each convolution by the fixed filters of a
    bank, a batch normalisation, a ReLU and a trainable 1x1 convolution; train the result. The file
    stores the change, and eval, tune, prune and every other command follow it.
    """
    from filtersurgeon.transforms.convert import convert as convert_checkpoint

    if output.dry_run and conversion.module is None:
        raise OptionError("--dry-run needs --module")
    if output.as_json is not None and not output.dry_run:
        raise OptionError("--json and --table need --dry-run")
    output.check(source)
    reports: list[ConversionReport] = []
    with network.begun(source, untrained, seed, general.quiet) as checkpoint:
        converted = convert_checkpoint(
            checkpoint, **values(conversion), seed=seed, observe=reports.append
        )
        if not output.dry_run:
            output.deliver(converted, general.quiet)
    if output.dry_run:
        output.show(reports[0].to_json(), lambda: _render(reports[0]))
    elif reports:
        for text in _remarks(reports[0]):
            show.note(text, general.quiet)
    else:
        show.note(f"replaced the activations by {conversion.activation}", general.quiet)


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
        yield show.table("not converted", [("layer", "left"), ("it", "wrap")], report.left)
    yield from _remarks(report, listed=True)


def _remarks(report: ConversionReport, listed: bool = False) -> Iterator[str]:
    before, after = report.before, report.after
    yield (
        f"replaced {len(report.converted)} convolutions by pre-defined filter modules: "
        f"{after.parameters:,} parameters that learn instead of {before.parameters:,} "
        f"({after.parameters / before.parameters:.1%}), {after.macs / 1e9:.3g} G multiply-adds "
        f"instead of {before.macs / 1e9:.3g} G"
    )
    if report.left and not listed:
        name, reason = report.left[0]
        yield f"{len(report.left)} are not converted, such as {name}: it {reason}"
    if report.smoothed:
        yield f"{len(report.smoothed)} strided 1x1 convolutions read a smoothed image now"
    if report.output_difference is None:
        yield "the new modules are untrained; train them with fsurgeon tune"
    else:
        worst = max(layer.relative_error or 0.0 for layer in report.converted)
        yield (
            f"relative error of kernels at most {worst:.2g}, "
            f"of outputs on random images {report.output_difference:.2g}"
        )
