from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.graph.channels import ChannelBundle, Channels
    from filtersurgeon.inspection import Inspection
    from filtersurgeon.transforms.packing.bank_description import BankPacking
    from filtersurgeon.transforms.packing.description import Packing


def inspect(
    source: options.Input = "-",
    layers: options.Layers = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    channels: Annotated[
        bool,
        typer.Option(
            "--channels",
            help="Follow the channels through the network instead: which go together, which can "
            "be removed, and why others cannot.",
        ),
    ] = False,
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE", help="With --channels: draw them (PNG, SVG)."),
    ] = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Show layers, kinds, shapes and history.

    Kinds are judged by shapes; with --arch the network itself is asked. Only the header of the
    file is read, unless --channels asks for the network.
    """
    from filtersurgeon.inspection import inspect as inspect_checkpoint

    show.check_json_path(output, force)
    if picture and not channels:
        raise OptionError("--picture draws channels: add --channels")
    known = options.architecture(arch, factory)
    with opened(source, arch=known, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        if channels:
            _channels(checkpoint, layers, picture, as_json=as_json, output=output, force=force)
            return
        inspection = inspect_checkpoint(checkpoint, layers=layers, exact=known is not None)
    show.result(inspection.to_json(), lambda: _render(inspection), as_json=as_json, output=output)


def _channels(
    checkpoint: Checkpoint,
    layers: list[str] | None,
    picture: str | None,
    *,
    as_json: bool | None,
    output: str | None,
    force: bool,
) -> None:
    from filtersurgeon.graph.channels import channels as follow_channels
    from filtersurgeon.plots.pictures import check_picture_path

    check_picture_path(picture, force)
    found = follow_channels(checkpoint, layers=layers)
    if picture:
        from filtersurgeon.plots.channel_map import draw_channels

        draw_channels(found, picture)
    show.result(found.to_json(), lambda: _render_channels(found), as_json=as_json, output=output)


def _render_channels(found: Channels) -> Iterator[Any]:
    rows = [
        (x.channels, "free" if x.free else "pinned", _some(x.made_by), _some(x.read_by), _why(x))
        for x in found.bundles
    ]
    yield show.table(
        found.checkpoint.name,
        [("channels", "right"), ("", "left"), ("made by", "wrap"), ("read by", "wrap"),
         ("why", "wrap")],
        rows,
    )  # fmt: skip
    every = sum(bundle.channels for bundle in found.bundles)
    size = "x".join(map(str, found.input_size))
    yield f"{found.free:,} of {every:,} channels can be removed, at an input of {size}"


def _some(names: tuple[str, ...]) -> str:
    if len(names) < 3:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} and {len(names) - 2} more"


def _why(bundle: ChannelBundle) -> str:
    from filtersurgeon.graph.channels import short_reasons

    first, *rest = [*short_reasons(bundle)] or [""]
    return f"{first}; {len(rest)} more" if rest else first


def _render(inspection: Inspection) -> Iterator[Any]:
    checkpoint = inspection.checkpoint
    rows = [
        (x.name, x.kind, "x".join(map(str, x.shape)), x.n_filters, x.n_kernels, x.stored.dtype)
        for x in inspection.layers
    ]
    yield show.table(
        checkpoint.name,
        [("layer", "left"), ("kind", "left"), ("shape", "right"), ("filters", "right"),
         ("kernels", "right"), ("type", "left")],
        rows,
    )  # fmt: skip
    if inspection.packing:
        yield _packed(checkpoint, inspection.packing)
        yield "fsurgeon unpack restores the filters"
    yield (
        f"{checkpoint.architecture or 'architecture not stated'}: {len(checkpoint):,} tensors, "
        f"{checkpoint.parameters:,} values, "
        f"{inspection.spatial_share:.1%} of them in spatial kernels"
    )
    for entry in checkpoint.history:
        words = " ".join(f"{key}={value}" for key, value in entry.options.items())
        yield f"history: {entry.verb} {words}".rstrip()
        if entry.data:
            yield f"  images: {' '.join(entry.data.values())}"
        if entry.warning:
            yield f"  warning: {entry.warning}"


def _packed(checkpoint: Checkpoint, packing: Packing | BankPacking) -> Any:
    from filtersurgeon.transforms.packing.bank_description import BankPacking

    if isinstance(packing, BankPacking):
        made = [
            (x.name, "x".join(map(str, x.shape)), checkpoint[x.bank].shape[0], x.form)
            for x in packing.layers
        ]
        columns = [("layer", "left"), ("shape", "right"), ("members", "right"), ("form", "left")]
        return show.table("packed by a bank", columns, made)
    rows = [
        (
            x.name,
            "x".join(map(str, x.shape)),
            checkpoint[f"{x.tensor}.archetypes"].shape[0],
            x.error,
        )
        for x in packing.layers
    ]
    columns = [("layer", "left"), ("shape", "right"), ("archetypes", "right"), ("error", "right")]
    return show.table(f"packed, {packing.coefficients} coefficients", columns, rows)
