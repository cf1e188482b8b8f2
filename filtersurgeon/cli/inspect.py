from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import replaced, verb
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.graph.channels import ChannelBundle, Channels
    from filtersurgeon.inspection import Inspection
    from filtersurgeon.transforms.packing.bank_description import BankPacking
    from filtersurgeon.transforms.packing.description import Packing


@verb("fsurgeon inspect m.safetensors --layers 'blocks.*'")
def inspect(
    source: options.Input = "-",
    *,
    layers: options.Layers = None,
    channels: Annotated[
        bool,
        typer.Option(
            "--channels",
            help="Show the channels instead: which depend on each other, which can be removed, and "
            "why others cannot.",
        ),
    ] = False,
    network: options.Network,
    output: Annotated[
        options.DrawnOutput,
        replaced(
            picture=options.picture("With --channels: draw the channels (PNG, SVG, PDF)."),
            output=options.output_option(
                "FILE",
                "Write the result to this .json file; with --channels, draw it (.png, .svg, .pdf).",
            ),
        ),
    ],
    general: options.General,
) -> None:
    """Show layers, kinds, shapes and history.

    The kinds of layers are inferred from shapes; with --arch they are read from the network. Only
    the header of the file is read, except with --channels.
    """
    from filtersurgeon.inspection import inspect as inspect_checkpoint

    output.check()
    if output.drawn and not channels:
        raise OptionError("a picture needs --channels")
    known = network.architecture
    with network.opened(source, general.quiet) as checkpoint:
        if channels:
            _show_channels(checkpoint, layers, output)
            return
        inspection = inspect_checkpoint(checkpoint, layers=layers, exact=known is not None)
    output.show(inspection.to_json(), lambda: _render(inspection))


def _show_channels(
    checkpoint: Checkpoint,
    layers: list[str] | None,
    output: options.DrawnOutput,
) -> None:
    from filtersurgeon.graph.channels import channels as follow_channels

    found = follow_channels(checkpoint, layers=layers)
    if output.drawn:
        from filtersurgeon.plots.channel_map import draw_channels

        draw_channels(found, output.drawn)
    output.show(found.to_json(), lambda: _render_channels(found))


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
    from filtersurgeon.checkpoint.summary import both_ends

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
        yield _describe_packing(checkpoint, inspection.packing)
        yield "fsurgeon unpack restores the filters"
    yield (
        f"{checkpoint.architecture or 'architecture not stated'}: {len(checkpoint):,} tensors, "
        f"{checkpoint.parameters:,} values, "
        f"{inspection.spatial_share:.1%} of them in spatial kernels"
    )
    listed, left = both_ends(checkpoint.history)
    for position, (_, entry) in enumerate(listed):
        if left and position == len(listed) // 2:
            yield f"history: ... {left:,} more steps; --json has them all"
        words = " ".join(f"{key}={value}" for key, value in entry.options.items())
        yield f"history: {show.cell(f'{entry.verb} {words}'.rstrip())}"
        if entry.data:
            yield f"  images: {show.cell(' '.join(entry.data.values()))}"
        if entry.warning:
            yield f"  warning: {show.cell(entry.warning)}"


def _describe_packing(checkpoint: Checkpoint, packing: Packing | BankPacking) -> Any:
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
