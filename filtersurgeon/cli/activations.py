from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import only, verb, without
from filtersurgeon.cli.running import SHOWN, Computation, Data, ImageFiles

if TYPE_CHECKING:
    from filtersurgeon.see.activations import Activations


@verb("fsurgeon activations m.safetensors --image dog.jpg -o activations.png")
def activations(
    source: options.Input = "-",
    *,
    against: options.Others = None,
    images: ImageFiles = None,
    layers: options.SeenLayers = None,
    units: options.Units = None,
    seed: options.Seed = 0,
    data: Annotated[Data, without("skip_bad")],
    computation: Annotated[Computation, only("device")],
    network: options.Network,
    output: options.SheetOutput,
    general: options.General,
) -> None:
    """Show the feature maps of layers for an image.

    White is high, black is zero, blue is negative. With --against, a channel has the same scale in
    all checkpoints. Without --units, the first 24 channels are shown. --data shows 16 images unless
    --subset is given.
    """
    from filtersurgeon.plots.sheet import write_sheet
    from filtersurgeon.see.activations import activations as activations_of

    output.check()
    preprocess, spec = data.preprocessing, data.spec(seed, at_most=SHOWN)
    sources = options.all_sources(source, against)
    with network.all_opened(sources, general.quiet) as checkpoints:
        found = activations_of(
            checkpoints, images or [], data=spec, layers=layers, units=units,
            device=computation.device, preprocess=preprocess, tell=show.teller(general.quiet),
        )  # fmt: skip
    if output.drawn:
        write_sheet(found.rows(), output.drawn)
    output.show(found.to_json(), lambda: _render(found))


def _render(found: Activations) -> Iterator[Any]:
    from filtersurgeon.see.gradcam import short_name

    columns = [("layer", "left"), ("checkpoint", "left"), ("channels", "right"), ("map", "right")]
    columns += [("mean", "right"), ("active", "right"), ("difference", "right")]
    rows = []
    for layer in found.to_json()["layers"]:
        for one in layer["checkpoints"]:
            means, active = (
                sum(map(sum, one[key])) / sum(map(len, one[key])) for key in ("mean", "active")
            )
            apart = one["relative_difference"]
            rows.append(
                (layer["layer"], short_name(one["name"]), len(one["units"]),
                 "x".join(map(str, one["size"])), means, f"{100 * active:.0f} %",
                 "" if apart is None else f"{apart:.3f}")
            )  # fmt: skip
    yield show.table("activations", columns, rows)
