from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import initializers
from filtersurgeon.cli.streams import begun, check_destination, deliver

if TYPE_CHECKING:
    from filtersurgeon.transforms.initialize import LayerInitialization


def initialize(
    source: options.Input = "-",
    method: Annotated[
        str,
        typer.Option(
            "--method", "-m", help="The kernels' new values.", autocompletion=initializers
        ),
    ] = "ghaar",
    parameters: options.Parameters = None,
    guide: Annotated[
        str | None,
        typer.Option(
            "--guide", metavar="CHECKPOINT", help="Of guided-steer: the network to be steered like."
        ),
    ] = None,
    match_scale: Annotated[
        bool,
        typer.Option(
            "--match-scale", help="Scale each layer to the root mean square that it had before."
        ),
    ] = False,
    others: Annotated[
        str,
        typer.Option(
            "--others", help="All other weights: keep, or reset as the architecture begins."
        ),
    ] = "keep",
    untrained: options.Untrained = False,
    list_methods: Annotated[
        bool, typer.Option("--list-methods", help="List the methods and their parameters.")
    ] = False,
    seed: options.Seed = 0,
    layers: options.Layers = None,
    output: options.Output = None,
    dry_run: options.DryRun = False,
    arch: options.Arch = None,
    factory: options.Factory = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Give the spatial kernels a fixed initialisation.

    For training with fixed filters (tune --freeze spatial). 1x1 convolutions are never touched.
    """
    if list_methods:
        _show_methods(as_json)
        return
    from filtersurgeon.transforms.initialize import initialize as initialize_kernels

    if not dry_run:
        check_destination(output, source, force)
    done: list[LayerInitialization] = []
    architecture = options.architecture(arch, factory)
    with begun(source, untrained, architecture, seed, allow_pickle, quiet) as checkpoint:
        edited = initialize_kernels(
            checkpoint, method=method, guide=guide, match_scale=match_scale, others=others,
            options=options.key_values(parameters), seed=seed, layers=layers, observe=done.append,
        )  # fmt: skip
        if not dry_run:
            deliver(edited, output, force=force, quiet=quiet)
            show.note(_summary(method, done), quiet)
            return
        for change in edited.changes:
            edited[change.tensor].raw()
    content = {
        "schema": "filtersurgeon.initialization/1",
        "method": method,
        "layers": [layer.to_json() for layer in done],
    }
    show.result(content, lambda: _render(method, done), as_json=as_json)


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
