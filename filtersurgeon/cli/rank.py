from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, replaced, verb, without
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.running import Computation, FitData, device_option
from filtersurgeon.cli.streams import check_destination, deliver
from filtersurgeon.errors import OptionError
from filtersurgeon.registry import RANKING_METHODS

if TYPE_CHECKING:
    from filtersurgeon.ranking import Ranking


@dataclass(frozen=True)
class Method(Bundle):
    """How to rank."""

    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            help=f"Ranking method: {RANKING_METHODS.choices()}.",
            autocompletion=ranking_methods,
        ),
    ] = "archetype"
    parameters: options.Parameters = None
    layers: options.Layers = None
    stability: Annotated[
        int,
        typer.Option(
            "--stability",
            metavar="K",
            help="For archetype: repeat from K other starts and report Kendall's tau.",
            min=0,
        ),
    ] = 0


_DEVICE = replaced(
    device=device_option(
        "Device: auto (a GPU for saliency, the CPU for archetypes), cpu, cuda, cuda:1, mps or xpu. "
        "Other methods read each weight once, on the CPU."
    )
)


@verb("fsurgeon rank m.safetensors --method archetype")
def rank(
    source: options.Input = "-",
    *,
    how: Method,
    seed: options.Seed = 0,
    list_methods: Annotated[
        bool, typer.Option("--list", help="List the methods and their parameters.")
    ] = False,
    annotate: Annotated[
        bool,
        typer.Option(
            "--annotate",
            help="Write the checkpoint with the ranking in its metadata, for prune --per-layer.",
        ),
    ] = False,
    keep_names: options.KeepNames = False,
    data: FitData,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            help="For saliency: images per minibatch.  [default: 4]",
            min=1,
        ),
    ] = None,
    computation: Annotated[Computation, without("batch_size"), _DEVICE],
    network: options.Network,
    output: Annotated[
        options.ResultOutput,
        replaced(
            output=options.output_option(
                "PATH", "Write the ranking to this .json file; with --annotate, the checkpoint."
            )
        ),
    ],
    general: options.General,
) -> None:  # fmt: skip
    """Rank the filters by importance.

    By default, spatial layers are ranked; --layers '*' includes 1x1 convolutions. Scores are higher
    for filters to keep. Saliency runs the network on labelled images (--data). All other methods
    need only the weights.
    """
    if list_methods:
        _show_methods(output.as_json)
        return
    from filtersurgeon.ranking import rank as rank_checkpoint

    if keep_names and not annotate:
        raise OptionError("--keep-names needs --annotate, which writes a checkpoint")
    if annotate:
        check_destination(output.output, source, output.force)
    else:
        output.check()
    own = options.key_values(how.parameters)
    own |= {"stability": how.stability} if how.stability else {}
    own |= {} if batch_size is None else {"batch_size": batch_size}
    alone = data.data is None and how.method == "archetype"
    images = None if alone else data.run(seed, computation, general.quiet, "--device")
    if alone:
        data.refuse_alone({"--preprocess": data.preprocess, "--workers": computation.workers})
    with network.opened(source, general.quiet) as checkpoint:
        with show.progress("ranking", general.quiet) as progress:
            ranking = rank_checkpoint(
                checkpoint, how.method, layers=how.layers, options=own, seed=seed, data=images,
                device=computation.device if images is None else "auto", progress=progress,
            )  # fmt: skip
        if annotate:
            annotated = ranking.annotate(data.remembered(checkpoint))
            deliver(
                annotated, output.output, force=output.force, quiet=general.quiet,
                keep_names=keep_names,
            )  # fmt: skip
            return
    output.show(ranking.to_json(), lambda: _render(ranking))


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
    show.result(
        content,
        lambda: [show.listing("ranking methods", "method", "what it measures", content["methods"])],
        as_json=as_json,
    )
