from __future__ import annotations

from typing import Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError


def report(
    source: options.Input = "-",
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="INPUT", help="What to compare it with."),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="FILE.html", help="Write the page here.", show_default=False
        ),
    ] = "",
    ranking: Annotated[
        str | None,
        typer.Option(
            "--ranking",
            metavar="METHOD",
            help="Rank the filters, such as by archetype.  [default: the ranking in the file]",
            autocompletion=ranking_methods,
        ),
    ] = None,
    latency_runs: Annotated[
        int, typer.Option("--latency-runs", metavar="N", help="Timed passes; 0 for none.", min=0)
    ] = 10,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.Split = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Write one HTML page about a network, or a pair.

    History, size and speed, layers, kernels, spectra, ranking, bank use, decoded filters; with
    --data, accuracy and Grad-CAM. The page is one file and needs no network connection.
    """
    from contextlib import ExitStack

    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.plots.page import check_page_path
    from filtersurgeon.report.reporting import ReportSettings, write_report

    if not output:
        raise OptionError("no output: name the page with -o FILE.html")
    if source == before == "-":
        raise OptionError("only one checkpoint can come through the pipe; name the other")
    check_page_path(output, force)
    spec = DataSpec(data, split, labels, root, subset, seed, skip_bad) if data else None
    values = options.preprocess_values(preprocess)
    settings = ReportSettings(spec, ranking, values, batch_size, device, seed, latency_runs)
    architecture = options.architecture(arch, factory)
    with ExitStack() as stack:
        checkpoint, *others = [
            stack.enter_context(
                opened(name, arch=architecture, allow_pickle=allow_pickle, quiet=quiet)
            )
            for name in (source, before)
            if name
        ]
        progress = stack.enter_context(show.progress("reporting", quiet))
        titles = write_report(
            checkpoint, output, others[0] if others else None, settings, progress=progress,
            tell=show.teller(quiet),
        )  # fmt: skip
    show.note(f"{output}: {', '.join(titles)}", quiet)
