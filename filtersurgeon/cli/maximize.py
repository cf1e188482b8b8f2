from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, changed, only, values, verb, without
from filtersurgeon.cli.running import Computation, Data

if TYPE_CHECKING:
    from filtersurgeon.see.maximizing import Maximised


@dataclass(frozen=True)
class Ascent(Bundle):
    """How images are optimised; the fields are those of ``AscentSettings``."""

    steps: Annotated[
        int, typer.Option("--steps", metavar="N", help="Steps of gradient ascent.", min=1)
    ] = 256
    step_size: Annotated[
        float | None,
        typer.Option(
            "--step-size",
            metavar="LENGTH",
            help="Length of a step.  [default: 25 for 3x224x224, proportional to the root of the "
            "number of pixels]",
        ),
    ] = None
    activation: Annotated[
        str,
        options.choice(
            "--activation",
            among=("relu", "leaky-relu", "proxygrad"),
            help="Gradient: of the network itself (relu), of the network with leaky ReLUs, or with "
            "leaky ReLUs in the backward pass only (proxygrad).",
        ),
    ] = "relu"
    slope: Annotated[
        float,
        typer.Option(
            "--slope", metavar="SLOPE", help="Slope of leaky-relu and proxygrad below zero."
        ),
    ] = 0.075
    regularize: Annotated[
        str,
        options.choice(
            "--regularize",
            among=("none", "weak", "full"),
            help="Transforms that keep images natural. weak: blur and small rotations. full: also "
            "scaling, shifts and the contrast of the data.",
        ),
    ] = "full"


@verb("fsurgeon maximize m.safetensors --units 0-3 --steps 64 -o maximized.png")
def maximize(
    source: options.Input = "-",
    *,
    layers: options.SeenLayers = None,
    units: options.Units = None,
    ascent: Ascent,
    seed: options.Seed = 0,
    data: Annotated[Data, only("preprocess")],
    computation: Annotated[Computation, without("workers"), changed(batch_size=16)],
    network: options.Network,
    output: options.SheetOutput,
    general: options.General,
) -> None:
    """Generate images that maximise the activation of channels or classes.

    Without --layers, the classes are used. The activation of each unit on its image is always
    measured with the unchanged network.
    """
    from filtersurgeon.plots.sheet import write_sheet
    from filtersurgeon.see.ascent import AscentSettings
    from filtersurgeon.see.maximizing import maximize as maximize_checkpoint

    output.check()
    settings = AscentSettings(**values(ascent), seed=seed)
    settings.check()
    quiet = general.quiet
    with (
        network.opened(source, quiet) as checkpoint,
        show.progress("maximising", quiet) as progress,
    ):
        found = maximize_checkpoint(
            checkpoint, settings, layers=layers, units=units, batch_size=computation.batch_size,
            device=computation.device, preprocess=data.preprocessing, progress=progress,
            tell=show.teller(quiet),
        )  # fmt: skip
    if output.drawn:
        write_sheet([layer.row() for layer in found], output.drawn, tile=128)
    content = {
        "schema": "filtersurgeon.maximisation/1",
        "activation": ascent.activation,
        "slope": None if ascent.activation == "relu" else ascent.slope,
        "steps": ascent.steps,
        "regularize": ascent.regularize,
        "layers": [layer.to_json() for layer in found],
    }
    output.show(content, lambda: _render(found))


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
