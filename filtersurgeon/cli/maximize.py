from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, changed, replaced, values, verb, without
from filtersurgeon.cli.running import SHOWN, Computation, Data, data_option
from filtersurgeon.cli.verbs import INPUT
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.see.maximizing import Maximised


@dataclass(frozen=True)
class Ascent(Bundle):
    """How images are optimised; the fields are those of ``AscentSettings``."""

    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            help="Steps of gradient ascent.  [default: 156; on pixels, 256]",
            min=1,
        ),
    ] = None
    step_size: Annotated[
        float | None,
        typer.Option(
            "--step-size",
            metavar="LENGTH",
            help="Length of the first step, in units of the coefficients.  [default: 0.017; on "
            "pixels, 25 for 3x224x224, proportional to the root of the number of pixels]",
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
            among=("natural", "full", "weak", "none"),
            help="What keeps images natural. natural: Fourier coefficients, growing images and "
            "priors. The others optimise pixels. full: seven transforms between steps; weak: blur "
            "and small rotations; none: nothing.",
        ),
    ] = "natural"
    transforms: Annotated[
        str | None,
        typer.Option(
            "--transforms",
            metavar="LIST",
            help="Transforms of --regularize full, separated by commas: padding, rotation, "
            "scaling, blur, crop, roll, distribution.  [default: all]",
        ),
    ] = None
    diversity: Annotated[
        float,
        typer.Option(
            "--diversity", metavar="WEIGHT", help="Penalty on similar images of --copies."
        ),
    ] = 1.0


@dataclass(frozen=True)
class Aim(Bundle):
    """What images are optimised for; the fields are parameters of ``maximize``."""

    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="SUM",
            help="Maximise this instead of --units: class:7, channel:LAYER:7, "
            "neuron:LAYER:7@0.5,0.5 (down and across), direction:LAYER:FILE.npy, or a sum such as "
            "class:7+0.5*class:9. May be repeated.",
        ),
    ] = None
    copies: Annotated[
        int,
        typer.Option("--copies", metavar="N", help="Images of each unit.", min=1),
    ] = 1
    images: Annotated[
        list[str] | None,
        data_option(
            "--image",
            metavar="FILE",
            help="Image file to begin with, instead of noise; may be repeated.",
        ),
    ] = None


@dataclass(frozen=True)
class Judging(Bundle):
    """Another network that says what it takes the images for."""

    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="INPUT",
            help="Another network for the same classes: the share of images that it recognises "
            "is reported.",
            rich_help_panel=INPUT,
        ),
    ] = None
    arch_judge: Annotated[
        str | None,
        typer.Option(
            "--arch-judge",
            metavar="NAME",
            help="Architecture of the network of --judge.",
            rich_help_panel=INPUT,
        ),
    ] = None
    factory_judge: Annotated[
        str | None,
        typer.Option(
            "--factory-judge",
            metavar="MODULE:FUNCTION",
            help="Python function that builds the network of --judge.",
            rich_help_panel=INPUT,
        ),
    ] = None

    def check(self, source: str) -> None:
        """Refuse options that would do nothing; raises OptionError."""
        if self.judge is None and (self.arch_judge or self.factory_judge):
            raise OptionError("--arch-judge and --factory-judge need --judge")
        if source == self.judge == "-":
            raise OptionError("only one of INPUT and --judge can come through the pipe")

    def opened(
        self, network: options.Network, quiet: bool
    ) -> AbstractContextManager[Checkpoint | None]:
        """Open the network, if there is one."""
        if self.judge is None:
            return nullcontext()
        own = options.architecture(self.arch_judge, self.factory_judge, "-judge")
        how = replace(network, arch=own, factory=None, key=None, prefix=None)
        return how.opened(self.judge, quiet)


_FIRST = data_option(
    "--data", metavar="DATA",
    help="Data set whose images to begin with, instead of noise: as for fsurgeon eval.",
)  # fmt: skip


@verb("fsurgeon maximize m.safetensors --units 0-3 --steps 64 -o maximized.png")
def maximize(
    source: options.Input = "-",
    *,
    layers: options.SeenLayers = None,
    units: options.Units = None,
    aim: Aim,
    ascent: Ascent,
    seed: options.Seed = 0,
    data: Annotated[Data, without("skip_bad", "columns"), replaced(data=_FIRST)],
    judging: Judging,
    computation: Annotated[Computation, without("workers"), changed(batch_size=16)],
    network: options.Network,
    output: options.SheetOutput,
    general: options.General,
) -> None:
    """Generate images that maximise the activation of channels or classes.

    Without --layers, the classes are used. The activation of each unit on its image is always
    measured with the unchanged network. The share of saturated values and the slope of the
    spectrum say how natural the images are; photographs have a slope near -2.6.
    """
    from filtersurgeon.plots.sheet import write_sheet
    from filtersurgeon.see.ascent import AscentSettings
    from filtersurgeon.see.maximizing import maximize as maximize_checkpoint
    from filtersurgeon.see.objectives import read_objective

    output.check()
    judging.check(source)
    settings = AscentSettings(**values(ascent), seed=seed)
    settings.check()
    objectives = [read_objective(text) for text in aim.objectives or []] or None
    spec, quiet = data.spec(seed, at_most=SHOWN), general.quiet
    with (
        network.opened(source, quiet) as checkpoint,
        judging.opened(network, quiet) as judge,
        show.progress("maximising", quiet) as progress,
    ):
        found = maximize_checkpoint(
            checkpoint, settings, layers=layers, units=units, objectives=objectives,
            copies=aim.copies, images=aim.images, data=spec, judge=judge,
            batch_size=computation.batch_size, device=computation.device,
            preprocess=data.preprocessing, progress=progress, tell=show.teller(quiet),
        )  # fmt: skip
    if output.drawn:
        most = max(len(layer.units) for layer in found)
        columns = 8 if most > 8 else most
        write_sheet([layer.row() for layer in found], output.drawn, tile=TILE, columns=columns)
    content = {
        "schema": "filtersurgeon.maximisation/1",
        "activation": ascent.activation,
        "slope": None if ascent.activation == "relu" else ascent.slope,
        "steps": settings.count,
        "regularize": ascent.regularize,
        "judge": judge.name if judge else None,
        "layers": [layer.to_json() for layer in found],
    }
    output.show(content, lambda: _render(found))


TILE = 160
"""Height of an image on the sheet, in pixels."""


def _render(found: Sequence[Maximised]) -> Iterator[Any]:
    for layer in found:
        columns = [("unit", "left"), ("before", "right"), ("image", "right")]
        values = zip(layer.labels(), layer.before, layer.after, strict=True)
        rows = [(unit, float(before), float(after)) for unit, before, after in values]
        yield show.table(f"mean activation of {layer.layer or 'output'}", columns, rows)
        shares = [
            f"{100 * share:.0f} % {words}"
            for share, words in (
                (layer.recognised, "taken for their class"),
                (layer.judged, "by the other network"),
            )
            if share is not None
        ]
        shares.append(f"{100 * layer.saturated:.1f} % of values saturated")
        shares.append(f"spectral slope {layer.spectral_slope:.1f}")
        yield ", ".join([f"mean {layer.after.mean():.3f}", *shares])
