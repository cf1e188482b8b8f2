from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.see.decoding import Decoded


def decode(
    source: options.Input = "-",
    layers: options.SeenLayers = None,
    units: options.Units = None,
    upsample: Annotated[
        str, typer.Option("--upsample", help="Undo pooling by nearest, bilinear or bicubic.")
    ] = "nearest",
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            metavar="SHARE",
            help="Draw a second time, without what is below this share of a filter's largest "
            "magnitude.",
            min=0,
            max=1,
        ),
    ] = 0.0,
    error: Annotated[
        bool,
        typer.Option("--error", help="Measure how well decoded filters predict units on --data."),
    ] = False,
    top: Annotated[
        int,
        typer.Option(
            "--top", metavar="K", help="The K images of --data that each unit answers most.", min=0
        ),
    ] = 0,
    picture: options.Sheet = None,
    filters: Annotated[
        str | None,
        typer.Option(
            "--filters",
            metavar="FILE.safetensors",
            help="Write the decoded filters, one tensor "
            "(units, channels, height, width) per layer.",
        ),
    ] = None,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.Split = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    batch_size: options.BatchSize = 64,
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
    """Decode filters, channels or classes into image space.

    A unit is replaced by its filter, every value of that by the filter below it, and so on down
    to the image; pooling is undone by upsampling. Without --layers, the classes. --error compares
    each unit's answer to images with that of its decoded filter.
    """
    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.plots.sheet import check_sheet_path
    from filtersurgeon.see.decoded_output import check_filters_path, save_filters
    from filtersurgeon.see.decoded_sheet import draw_decoded
    from filtersurgeon.see.decoding import DecodeSettings, open_images
    from filtersurgeon.see.decoding import decode as decode_checkpoint

    if data and not (error or top):
        raise OptionError("--data is looked at for --error and --top K; give one of them")
    if (error or top) and not data:
        raise OptionError(f"{'--error' if error else '--top'} needs images: name them with --data")
    show.check_json_path(output, force)
    check_sheet_path(picture, force)
    check_filters_path(filters, force)
    spec = DataSpec(data, split, labels, root, subset, seed, skip_bad) if data else None
    settings = DecodeSettings(layers, units, upsample, device, batch_size, top)
    values = options.preprocess_values(preprocess)
    architecture = options.architecture(arch, factory)
    with opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        with show.progress("decoding", quiet) as progress:
            found = decode_checkpoint(
                checkpoint, settings, data=spec, preprocess=values, progress=progress,
                tell=show.teller(quiet),
            )  # fmt: skip
        if picture:
            images = open_images(checkpoint, spec, values) if spec and top else None
            draw_decoded(found, picture, threshold=threshold, images=images)
    if filters:
        save_filters(found, filters)
    content = {
        "schema": "filtersurgeon.decoding/1",
        "upsample": upsample,
        "layers": [layer.to_json() for layer in found],
    }
    show.result(content, lambda: _render(found), as_json=as_json, output=output)


def _render(found: Sequence[Decoded]) -> Iterator[Any]:
    columns = [("layer", "left"), ("units", "right"), ("size", "right")]
    fits = [layer.fit for layer in found if layer.fit]
    if fits:
        columns += [("error", "right"), ("+-", "right"), ("top-1 of the filters", "right")]
    rows = []
    for layer in found:
        row: list[object] = [
            layer.layer or "output", len(layer.units), "x".join(map(str, layer.filters.shape[1:]))
        ]  # fmt: skip
        if layer.fit:
            right = layer.fit.accuracy
            row += [f"{layer.fit.error:.4f}", f"{layer.fit.error_deviation:.4f}"]
            row.append("" if right is None else f"{100 * right:.2f} %")
        rows.append(row)
    yield show.table("decoded", columns, rows)
