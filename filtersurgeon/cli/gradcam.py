from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import only, verb, without
from filtersurgeon.cli.running import SHOWN, Computation, Data, ImageFiles

if TYPE_CHECKING:
    from filtersurgeon.see.gradcam import GradCam


@verb("fsurgeon gradcam m.safetensors --image dog.jpg -o gradcam.png")
def gradcam(
    source: options.Input = "-",
    *,
    against: options.Others = None,
    images: ImageFiles = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Layer whose channels are weighted.  [default: the last with spatial positions]",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="N",
            help="Index or name of the class to explain.  [default: what INPUT predicts for each "
            "image]",
        ),
    ] = None,
    seed: options.Seed = 0,
    data: Annotated[Data, without("skip_bad")],
    computation: Annotated[Computation, only("device")],
    network: options.Network,
    output: options.SheetOutput,
    general: options.General,
) -> None:
    """Show which regions of an image support a class (Grad-CAM).

    The picture has one row per image: the image, and Grad-CAM of every checkpoint with its
    predicted class. Further checkpoints also show the difference from the first. --data shows 16
    images unless --subset is given.
    """
    from filtersurgeon.plots.sheet import write_sheet
    from filtersurgeon.see.gradcam import gradcam as gradcam_of

    output.check()
    preprocess, spec = data.preprocessing, data.spec(seed, at_most=SHOWN)
    sources = options.all_sources(source, against)
    with network.all_opened(sources, general.quiet) as checkpoints:
        name = show.class_namer(checkpoints[0])
        found = gradcam_of(
            checkpoints, images or [], data=spec, layer=layer, target=target,
            device=computation.device, preprocess=preprocess, tell=show.teller(general.quiet),
        )  # fmt: skip
    if output.drawn:
        write_sheet(found.rows(), output.drawn, tile=160)
    output.show(found.to_json(), lambda: _render(found, name))


def _render(found: GradCam, name: Callable[[int], str]) -> Iterator[Any]:
    from filtersurgeon.see.gradcam import short_name

    columns = [("image", "left"), ("class", "right")]
    columns += [(short_name(look.name), "right") for look in found.looks]
    columns += [("difference", "right")] * (len(found.looks) - 1)
    apart = found.differences()
    rows = []
    for place, picture in enumerate(found.pictures):
        seen = [f"{name(x.predicted[place])} ({x.probability[place]:.2f})" for x in found.looks]
        rows.append(
            (picture.name, name(found.classes[place]), *seen, *(line[place] for line in apart))
        )
    yield show.table(f"Grad-CAM at {found.looks[0].layer}: class seen (explained)", columns, rows)
