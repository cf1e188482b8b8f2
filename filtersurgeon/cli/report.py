from __future__ import annotations

from typing import Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import changed, verb, without
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.running import Computation, Data
from filtersurgeon.errors import OptionError


@verb("fsurgeon report pruned.safetensors --against m.safetensors -o report.html")
def report(
    source: options.Input = "-",
    *,
    against: Annotated[
        str | None, options.against("The original network, to compare with.")
    ] = None,
    ranking: Annotated[
        str | None,
        typer.Option(
            "--ranking",
            metavar="METHOD",
            help="Ranking method, such as archetype.  [default: the ranking stored in the file]",
            autocompletion=ranking_methods,
        ),
    ] = None,
    latency_runs: options.LatencyRuns = 10,
    seed: options.Seed = 0,
    data: Data,
    computation: Annotated[Computation, without("workers"), changed(batch_size=32)],
    network: options.Network,
    output: options.PageOutput,
    general: options.General,
) -> None:
    """Write an HTML report about a network, or a pair.

    Shows history, size and speed, layers, kernels, spectra, ranking, use of banks and decoded
    filters; with --data, also accuracy and Grad-CAM. The page is one file and needs no network
    connection.
    """
    from filtersurgeon.plots.page import check_page_path
    from filtersurgeon.report.reporting import ReportSettings, write_report

    page, quiet = output.output, general.quiet
    if not page:
        raise OptionError("no output; write the page with -o FILE.html")
    sources = options.all_sources(source, [against] if against else [])
    check_page_path(page, output.force)
    settings = ReportSettings(
        data.spec(seed), ranking, data.preprocessing, computation.batch_size, computation.device,
        seed, latency_runs,
    )  # fmt: skip
    with (
        network.all_opened(sources, quiet) as (checkpoint, *others),
        show.progress("reporting", quiet) as progress,
    ):
        titles = write_report(
            checkpoint, page, others[0] if others else None, settings, progress=progress,
            tell=show.teller(quiet),
        )  # fmt: skip
    show.note(f"{page}: {', '.join(titles)}", quiet)
