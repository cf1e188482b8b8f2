from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, values, verb, without
from filtersurgeon.cli.complete import banks, initializers
from filtersurgeon.cli.running import Compensation, Computation, FitData

if TYPE_CHECKING:
    from filtersurgeon.transforms.initialize import LayerInitialization


@dataclass(frozen=True)
class Initialization(Bundle):
    """What kernels become; the fields are parameters of :func:`filtersurgeon.initialize`."""

    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            help="Initialisation; see --list-methods.",
            autocompletion=initializers,
        ),
    ] = "ghaar"
    parameters: options.Parameters = None
    guide: Annotated[
        str | None,
        typer.Option(
            "--guide",
            metavar="CHECKPOINT",
            help="For guided-steer: the network whose spectra to follow.",
        ),
    ] = None
    bank: Annotated[
        list[str] | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            help="For bank: its name or file. If repeated, a layer takes the first of its kernel "
            "size.  [default: dog8]",
            autocompletion=banks,
        ),
    ] = None
    match_scale: Annotated[
        bool,
        typer.Option(
            "--match-scale", help="Scale each layer to the root mean square that it had before."
        ),
    ] = False
    others: Annotated[
        str,
        options.choice(
            "--others",
            among=("keep", "reset"),
            help="All other weights: keep them, or reset them as the architecture does.",
        ),
    ] = "keep"
    layers: options.Layers = None


@verb("fsurgeon initialize m.safetensors --method ghaar -o initialized.safetensors")
def initialize(
    source: options.Input = "-",
    *,
    wanted: Initialization,
    list_methods: Annotated[
        bool, typer.Option("--list-methods", help="List the methods and their parameters.")
    ] = False,
    seed: options.Seed = 0,
    untrained: options.Untrained = False,
    compensation: Compensation,
    data: Annotated[FitData, without("skip_bad")],
    computation: Annotated[Computation, without("batch_size")],
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:  # fmt: skip
    """Initialise the spatial kernels with fixed values.

    Use it before training with frozen spatial filters (tune --freeze spatial). 1x1 convolutions
    never change.
    """
    if list_methods:
        _show_methods(output.as_json)
        return
    from filtersurgeon.transforms.initialize import initialize as initialize_kernels

    output.check(source)
    done: list[LayerInitialization] = []
    images = data.run(seed, computation, general.quiet)
    with network.begun(source, untrained, seed, general.quiet) as opened:
        checkpoint = data.remembered(opened)
        edited = initialize_kernels(
            checkpoint, **options.keywords(wanted), **values(compensation), data=images,
            seed=seed, observe=done.append,
        )  # fmt: skip
        if not output.dry_run:
            output.deliver(edited, general.quiet)
            show.note(_summary(wanted.method, done), general.quiet)
            return
        for change in edited.changes:
            edited[change.tensor].raw()
    content = {
        "schema": "filtersurgeon.initialization/1",
        "method": wanted.method,
        "layers": [layer.to_json() for layer in done],
    }
    output.show(content, lambda: _render(wanted.method, done))


def _render(method: str, report: Sequence[LayerInitialization]) -> Iterator[Any]:
    columns = [("layer", "left"), ("size", "right"), ("kernels", "right"), ("rms", "right"),
               ("after", "right")]  # fmt: skip
    rows = [
        (x.name, "x".join(map(str, x.kernel_size)), x.kernels, x.rms, x.rms_after) for x in report
    ]
    yield show.table(f"initialised by {method}", columns, rows)
    yield _summary(method, report)


def _summary(method: str, report: Sequence[LayerInitialization]) -> str:
    kernels = sum(layer.kernels for layer in report)
    return f"initialised {kernels:,} kernels in {len(report)} layers by {method}"


def _show_methods(as_json: bool | None) -> None:
    from filtersurgeon.registry import INITIALIZERS

    content: dict[str, Any] = {
        "schema": "filtersurgeon.initialization-methods/1",
        "methods": [
            {
                "name": name,
                "summary": INITIALIZERS.summary(name),
                "parameters": {k: p.default for k, p in INITIALIZERS.options(name).items()},
            }
            for name in INITIALIZERS.names()
        ],
    }
    rows = [
        (m["name"], " ".join(f"{k}={v}" for k, v in m["parameters"].items()), m["summary"])
        for m in content["methods"]
    ]
    columns = [("method", "left"), ("parameters", "wrap"), ("what kernels become", "wrap")]
    show.result(content, lambda: [show.table("initialisations", columns, rows)], as_json=as_json)
