from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.streams import check_destination, deliver, opened
from filtersurgeon.registry import RANKING_METHODS

if TYPE_CHECKING:
    from filtersurgeon.ranking import Ranking


def rank(
    source: options.Input = "-",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help=f"Ranking method: {RANKING_METHODS.choices()}.",
            autocompletion=ranking_methods,
        ),
    ] = "archetype",
    parameters: options.Parameters = None,
    layers: options.Layers = None,
    seed: options.Seed = 0,
    stability: Annotated[
        int,
        typer.Option(
            "--stability",
            metavar="K",
            help="Of archetype: repeat from K other starts and report Kendall's tau.",
            min=0,
        ),
    ] = 0,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.FitSplit = None,
    subset: options.Subset = None,
    skip_bad: options.SkipBad = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            help="Of saliency: images per minibatch.  [default: 4]",
            min=1,
        ),
    ] = None,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    annotate: Annotated[
        bool,
        typer.Option(
            "--annotate", help="Pass the checkpoint on, with the ranking in its metadata."
        ),
    ] = False,
    list_methods: Annotated[
        bool, typer.Option("--list-methods", help="List the methods and their parameters.")
    ] = False,
    as_json: options.Json = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Write the ranking here, as JSON; with --annotate, the checkpoint.",
        ),
    ] = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Rank the filters by importance.

    Spatial layers are ranked; --layers '*' takes 1x1 convolutions too. Scores are higher for
    filters to keep. Saliency looks at labelled images (--data) with the running network; all other
    methods need the weights alone.
    """
    if list_methods:
        _show_methods(as_json)
        return
    from filtersurgeon.ranking import rank as rank_checkpoint

    if annotate:
        check_destination(output, source, force)
    else:
        show.check_json_path(output, force)
    own = options.key_values(parameters) | ({"stability": stability} if stability else {})
    own |= {} if batch_size is None else {"batch_size": batch_size}
    images = options.image_run(
        data=data, labels=labels, root=root, split=split, subset=subset, seed=seed,
        skip_bad=skip_bad, preprocess=preprocess, workers=workers, device=device, quiet=quiet,
    )  # fmt: skip
    architecture = options.architecture(arch, factory)
    with opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        with show.progress("ranking", quiet) as progress:
            ranking = rank_checkpoint(
                checkpoint,
                method,
                layers=layers,
                options=own,
                seed=seed,
                data=images,
                progress=progress,
            )
        if annotate:
            deliver(ranking.annotate(checkpoint), output, force=force, quiet=quiet)
            return
    show.result(ranking.to_json(), lambda: _render(ranking), as_json=as_json, output=output)


def _render(ranking: Ranking) -> Iterator[Any]:
    layers = list(ranking.layers.values())
    names = list(dict.fromkeys(key for layer in layers for key in layer.statistics))
    columns = [("layer", "left"), ("N", "right"), ("best", "left"), ("worst", "left")]
    columns += [(name.removesuffix("_l2"), "right") for name in names]
    rows = [
        (
            layer.name,
            len(layer.order),
            _few(layer.order[:2]),
            _few(layer.order[-2:]),
            *(layer.statistics.get(name, "") for name in names),
        )
        for layer in layers
    ]
    words = " ".join(f"{key}={value}" for key, value in ranking.options.items())
    yield show.table(f"{ranking.method} {words}".strip(), columns, rows)


def _few(indices: Any) -> str:
    return " ".join(str(index) for index in indices)


def _show_methods(as_json: bool | None) -> None:
    content: dict[str, Any] = {
        "schema": "filtersurgeon.ranking-methods/1",
        "methods": [
            {
                "name": name,
                "summary": RANKING_METHODS.summary(name),
                "parameters": {
                    key: option.default
                    for key, option in RANKING_METHODS.options(name).items()
                    if key != "seed"
                },
            }
            for name in RANKING_METHODS.names()
        ],
    }
    rows = [
        (m["name"], " ".join(f"{k}={v}" for k, v in m["parameters"].items()), m["summary"])
        for m in content["methods"]
    ]
    columns = [("method", "left"), ("parameters", "wrap"), ("what it measures", "wrap")]
    show.result(content, lambda: [show.table("ranking methods", columns, rows)], as_json=as_json)
