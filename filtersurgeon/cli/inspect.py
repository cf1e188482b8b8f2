from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.inspection import Inspection
    from filtersurgeon.packing.bank_description import BankPacking
    from filtersurgeon.packing.description import Packing


def inspect(
    source: options.Input = "-",
    layers: options.Layers = None,
    arch: options.Arch = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Show layers, kinds, shapes and history.

    Kinds are judged by shapes; with --arch the network itself is asked. Only the header of the
    file is read.
    """
    from filtersurgeon.inspection import inspect as inspect_checkpoint

    show.check_json_path(output, force)
    with opened(source, arch=arch, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        inspection = inspect_checkpoint(checkpoint, layers=layers, exact=arch is not None)
    show.result(inspection.to_json(), lambda: _render(inspection), as_json=as_json, output=output)


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
        yield f"history: {entry.verb} {words}"


def _packed(checkpoint: Checkpoint, packing: Packing | BankPacking) -> Any:
    from filtersurgeon.packing.bank_description import BankPacking

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
