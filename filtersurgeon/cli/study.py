from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import verb, without
from filtersurgeon.cli.complete import studies
from filtersurgeon.cli.running import Computation, Data, Jobs
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.studies._lab import StudyResult


@verb("fsurgeon study position m.safetensors --data photographs -p repeats=2")
def study(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]", show_default=False, help="Name of a study; see --list.",
            autocompletion=studies,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[INPUT]", show_default=False, help="Checkpoint, if the study needs one."
        ),
    ] = None,
    *,
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="Parameter of the study; may be repeated."),
    ] = None,
    list_studies: Annotated[
        bool, typer.Option("--list", help="List the studies and their parameters.")
    ] = False,
    layers: options.Layers = None,
    seed: options.Seed = 0,
    data: Annotated[Data, without("split", "skip_bad")],
    computation: Computation,
    jobs: Jobs,
    network: Annotated[options.Network, without(
            "allow_factory", "allow_pickle", "key", "prefix", "input_size", "output_name"
        )],
    output: options.DrawnOutput,
    general: options.General,
) -> None:  # fmt: skip
    """Reproduce an experiment of the papers.

    --list shows the studies and their parameters, which -p sets. Pass INPUT if the study
    examines a network of yours.
    """
    if list_studies:
        _show_studies(output.as_json)
        return
    if name is None:
        raise OptionError("no study; fsurgeon study --list shows their names")
    from filtersurgeon.studies._lab import Lab, draw_study
    from filtersurgeon.studies._lab import study as run_study

    output.check()
    quiet = general.quiet
    with (
        _open_network(network, source, quiet) as checkpoint,
        show.progress("running the study", quiet) as progress,
    ):
        lab = Lab(
            checkpoint, source or "-", data.spec(seed), data.preprocessing, layers, seed,
            computation.settings(), jobs.settings(), progress, show.teller(quiet),
        )  # fmt: skip
        found = run_study(name, lab, options.key_values(parameters))
    if output.drawn:
        draw_study(found, output.drawn)
    output.show(found.to_json(), lambda: _render(found))


@contextmanager
def _open_network(
    network: options.Network, source: str | None, quiet: bool
) -> Iterator[Checkpoint | None]:
    if source is None:
        network.architecture  # noqa: B018 - refuses two
        yield None
        return
    with network.opened(source, quiet) as checkpoint:
        yield checkpoint


def _render(found: StudyResult) -> Iterator[Any]:
    for table in found.tables:
        yield show.table(table.title, table.columns, table.rows)
    yield from found.remarks


def _show_studies(as_json: bool | None) -> None:
    from filtersurgeon.registry import STUDIES

    content: dict[str, Any] = {
        "schema": "filtersurgeon.studies/1",
        "studies": [
            {
                "name": name,
                "summary": STUDIES.summary(name),
                "parameters": {k: p.default for k, p in STUDIES.options(name).items()},
            }
            for name in STUDIES.names()
        ],
    }
    show.result(
        content,
        lambda: [show.listing("studies", "study", "what it asks", content["studies"])],
        as_json=as_json,
    )
