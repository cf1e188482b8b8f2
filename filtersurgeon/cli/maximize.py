from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened

if TYPE_CHECKING:
    from filtersurgeon.see.maximizing import Maximised


def maximize(
    source: options.Input = "-",
    layers: options.SeenLayers = None,
    units: options.Units = None,
    steps: Annotated[int, typer.Option("--steps", help="Steps of gradient ascent.", min=1)] = 256,
    step_size: Annotated[
        float | None,
        typer.Option(
            "--step-size",
            metavar="LENGTH",
            help="Length of a step.  [default: 25 for 3x224x224, by the root of the pixels]",
        ),
    ] = None,
    activation: Annotated[
        str,
        typer.Option(
            "--activation",
            help="Gradients of the network itself (relu), with leaking rectifiers (leaky-relu), "
            "or leaking backwards only (proxygrad).",
        ),
    ] = "relu",
    slope: Annotated[
        float, typer.Option("--slope", help="Of leaky-relu and proxygrad, below zero.")
    ] = 0.075,
    regularize: Annotated[
        str,
        typer.Option(
            "--regularize",
            help="Keep images natural: none, weak (blur and small rotations), or full (also "
            "scaling, shifts and the data's contrast).",
        ),
    ] = "full",
    picture: options.Sheet = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 16,
    device: options.Device = "cpu",
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Make images that excite channels or classes.

    Without --layers, the classes. The activation of each unit on its image is always measured by
    the network as it is.
    """
    from filtersurgeon.plots.sheet import check_sheet_path, write_sheet
    from filtersurgeon.see.ascent import AscentSettings
    from filtersurgeon.see.maximizing import maximize as maximize_checkpoint

    show.check_json_path(output, force)
    check_sheet_path(picture, force)
    settings = AscentSettings(steps, step_size, activation, slope, regularize, seed)
    settings.check()
    architecture = options.architecture(arch, factory)
    with (
        opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint,
        show.progress("maximising", quiet) as progress,
    ):
        found = maximize_checkpoint(
            checkpoint, settings, layers=layers, units=units, batch_size=batch_size, device=device,
            preprocess=options.preprocess_values(preprocess), progress=progress,
            tell=show.teller(quiet),
        )  # fmt: skip
    if picture:
        write_sheet([layer.row() for layer in found], picture, tile=128)
    content = {
        "schema": "filtersurgeon.maximisation/1",
        "activation": activation,
        "slope": None if activation == "relu" else slope,
        "steps": steps,
        "regularize": regularize,
        "layers": [layer.to_json() for layer in found],
    }
    show.result(content, lambda: _render(found), as_json=as_json, output=output)


def _render(found: Sequence[Maximised]) -> Iterator[Any]:
    for layer in found:
        columns = [("unit", "right"), ("noise", "right"), ("image", "right")]
        values = zip(layer.units, layer.before, layer.after, strict=True)
        rows = [(unit, float(before), float(after)) for unit, before, after in values]
        yield show.table(f"mean activation of {layer.layer or 'output'}", columns, rows)
        seen = layer.recognised
        yield f"mean {layer.after.mean():.3f}" + (
            "" if seen is None else f", {100 * seen:.0f} % taken for their class"
        )
