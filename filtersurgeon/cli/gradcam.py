from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.see.gradcam import GradCam


def gradcam(
    source: options.Input = "-",
    against: options.Others = None,
    images: options.Images = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer", metavar="NAME", help="Whose channels.  [default: the last map of positions]"
        ),
    ] = None,
    target: Annotated[
        int | None,
        typer.Option(
            "--class", metavar="N", help="The class.  [default: what INPUT sees in each image]"
        ),
    ] = None,
    picture: options.Sheet = None,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.Split = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
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
    """Show where networks look for a class.

    The picture has a row per image: the image, Grad-CAM of every checkpoint with the class that
    it sees, and the difference of each further one from the first. Of --data, 16 images are
    shown unless --subset says otherwise.
    """
    from filtersurgeon.plots.sheet import check_sheet_path, write_sheet
    from filtersurgeon.see.gradcam import gradcam as gradcam_of

    show.check_json_path(output, force)
    check_sheet_path(picture, force)
    architecture = options.architecture(arch, factory)
    values = options.preprocess_values(preprocess)
    spec = data_spec(data, labels, root, split, subset, seed)
    with ExitStack() as stack:
        checkpoints = [
            stack.enter_context(
                opened(name, arch=architecture, allow_pickle=allow_pickle, quiet=quiet)
            )
            for name in all_sources(source, against)
        ]
        found = gradcam_of(
            checkpoints, images or [], data=spec, layer=layer, target=target, device=device,
            preprocess=values, tell=show.teller(quiet),
        )  # fmt: skip
    if picture:
        write_sheet(found.rows(), picture, tile=160)
    show.result(found.to_json(), lambda: _render(found), as_json=as_json, output=output)


def all_sources(source: str, against: list[str] | None) -> list[str]:
    """List the first checkpoint and those beside it; only one may come through the pipe."""
    names = [source, *(against or [])]
    if names.count("-") > 1:
        raise OptionError("only one checkpoint can come through the pipe; name the others")
    return names


def data_spec(
    data: str | None, labels: str | None, root: str | None, split: str | None, subset: int | None,
    seed: int,
) -> Any:  # fmt: skip
    """Give the images of ``--data``, at most 16 of them unless ``--subset`` says more."""
    from filtersurgeon.data.data import DataSpec

    return DataSpec(data, split, labels, root, subset or 16, seed) if data else None


def _render(found: GradCam) -> Iterator[Any]:
    from filtersurgeon.see.gradcam import short_name

    columns = [("image", "left"), ("class", "right")]
    columns += [(short_name(look.name), "right") for look in found.looks]
    columns += [("difference", "right")] * (len(found.looks) - 1)
    apart = found.differences()
    rows = []
    for place, picture in enumerate(found.pictures):
        seen = [f"{x.predicted[place]} ({x.probability[place]:.2f})" for x in found.looks]
        rows.append(
            (picture.name, str(found.classes[place]), *seen, *(line[place] for line in apart))
        )
    yield show.table(f"Grad-CAM at {found.looks[0].layer}: class seen (explained)", columns, rows)
