from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import studies
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.studies._lab import StudyResult


def study(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]", show_default=False, help="Which; see --list.", autocompletion=studies
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[INPUT]", show_default=False, help="The network, where the study needs one."
        ),
    ] = None,
    parameters: options.Parameters = None,
    list_studies: Annotated[
        bool, typer.Option("--list", help="List the studies and their parameters.")
    ] = False,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    subset: options.Subset = None,
    layers: options.Layers = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", help="Evaluate N at a time.", min=1)
    ] = 1,
    backend: Annotated[
        str, typer.Option("--backend", help="Where jobs run: loky, dask or ray.")
    ] = "loky",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Of a running Dask scheduler or Ray cluster.  [default: start one]"
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", metavar="DIR", help="Keep finished evaluations; a new run goes on from them."
        ),
    ] = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="FILE", help="Draw it (PNG, SVG, PDF).")
    ] = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Repeat an experiment of the papers.

    A study is a file in filtersurgeon/studies; its parameters are given with -p, such as
    "fsurgeon study position m.safetensors --data images.npz -p repeats=10".
    """
    if list_studies:
        _show_studies(as_json)
        return
    if name is None:
        raise OptionError("which study? fsurgeon study --list shows them")
    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.learn.evaluate import EvaluationSettings
    from filtersurgeon.learn.jobs import JobSettings
    from filtersurgeon.plots.pictures import check_picture_path
    from filtersurgeon.studies._lab import Lab, draw_study
    from filtersurgeon.studies._lab import study as run_study

    show.check_json_path(output, force)
    check_picture_path(picture, force)
    spec = DataSpec(data, None, labels, root, subset, seed) if data else None
    architecture = options.architecture(arch, factory)
    with (
        _opened(source, architecture, quiet) as checkpoint,
        show.progress("studying", quiet) as progress,
    ):
        running = JobSettings(jobs, backend, address, cache)
        lab = Lab(
            checkpoint, source or "-", spec, options.preprocess_values(preprocess), layers, seed,
            EvaluationSettings(batch_size, workers, device), running, progress,
            show.teller(quiet),
        )  # fmt: skip
        found = run_study(name, lab, options.key_values(parameters))
    if picture:
        draw_study(found, picture)
    show.result(found.to_json(), lambda: _render(found), as_json=as_json, output=output)


@contextmanager
def _opened(source: str | None, arch: str | None, quiet: bool) -> Iterator[Checkpoint | None]:
    if source is None:
        yield None
        return
    with opened(source, arch=arch, quiet=quiet) as checkpoint:
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
    rows = [
        (s["name"], " ".join(f"{k}={v}" for k, v in s["parameters"].items()), s["summary"])
        for s in content["studies"]
    ]
    columns = [("study", "left"), ("parameters", "wrap"), ("what it asks", "wrap")]
    show.result(content, lambda: [show.table("studies", columns, rows)], as_json=as_json)
