from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.streams import check_destination, deliver, opened
from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    from filtersurgeon.transforms.packing.by_bank import BankLayerPacking
    from filtersurgeon.transforms.packing.layer import LayerPacking
    from filtersurgeon.transforms.packing.trade import Bargain


def pack(
    source: options.Input = "-",
    coefficients: Annotated[
        str,
        typer.Option(
            "--coefficients",
            help="learned: stored, and the closest filters restored; random: drawn by a seed.",
        ),
    ] = "learned",
    archetypes: options.Archetypes = 0.25,
    half: Annotated[bool, typer.Option("--half", help="Store in half precision.")] = False,
    draw: options.Draw = "uniform",
    concentration: options.Concentration = None,
    seed: options.Seed = 0,
    bank: Annotated[
        list[str] | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            help="Store no archetypes: for kernels that replace made from this bank, the index, a "
            "and b, exactly. May be repeated, as in replace.",
            autocompletion=banks,
        ),
    ] = None,
    layers: options.Layers = None,
    output: options.Output = None,
    dry_run: options.DryRun = False,
    arch: options.Arch = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Store archetypes, or indices into a bank, in place of filters.

    fsurgeon unpack turns them back. --dry-run shows size and error of every layer, and of fewer
    and more archetypes. Layers that would not get smaller are left as they are; --layers '*'
    takes 1x1 convolutions too.
    """
    from filtersurgeon.filters import layers_to_analyse
    from filtersurgeon.transforms.pack import drawing
    from filtersurgeon.transforms.pack import pack as pack_checkpoint
    from filtersurgeon.transforms.packing.trade import trade

    random = drawing(coefficients, draw, concentration, seed)
    if not dry_run:
        _check_file(output)
        check_destination(output, source, force)
    with opened(source, arch=arch, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        if bank:
            found: list[BankLayerPacking] = []
            packed = pack_checkpoint(
                checkpoint, coefficients=coefficients, archetypes=archetypes, half=half, draw=draw,
                concentration=concentration, seed=seed, layers=layers, bank=bank,
                observe=found.append,
            )  # fmt: skip
            if dry_run:
                content = _bank_content(bank, found, checkpoint.nbytes, packed.nbytes)
                show.result(content, lambda: _render_bank(content, found), as_json=as_json)
            else:
                deliver(packed, output, force=force, quiet=quiet)
                content = _bank_content(bank, found, checkpoint.nbytes, packed.nbytes)
                show.note(_bank_summary(content, found), quiet)
            return
        if dry_run:
            with show.progress("trying", quiet) as progress:
                bargains = trade(
                    checkpoint, _shares(archetypes), draw=random, layers=layers, progress=progress
                )
            chosen = next(x for x in bargains if (x.archetypes, x.half) == (archetypes, half))
            content = _content(coefficients, chosen, bargains)
            show.result(content, lambda: _render(chosen, bargains), as_json=as_json)
            return
        done: list[LayerPacking] = []
        total = len(layers_to_analyse(checkpoint, layers))
        with show.progress("packing", quiet) as progress:

            def observe(cost: LayerPacking) -> None:
                done.append(cost)
                if progress:
                    progress(len(done), total)

            packed = pack_checkpoint(
                checkpoint, coefficients=coefficients, archetypes=archetypes, half=half, draw=draw,
                concentration=concentration, seed=seed, layers=layers, observe=observe,
            )  # fmt: skip
        deliver(packed, output, force=force, quiet=quiet)
        show.note(_summary(done, checkpoint.nbytes, packed.nbytes), quiet)


def _bank_content(
    bank: Sequence[str], found: Sequence[BankLayerPacking], before: int, after: int
) -> dict[str, Any]:
    return {
        "schema": "filtersurgeon.bank-packing/1",
        "bank": bank[0] if len(bank) == 1 else list(bank),
        "bytes": before,
        "packed_bytes": after,
        "layers": [layer.to_json() for layer in found],
    }


def _render_bank(content: dict[str, Any], found: Sequence[BankLayerPacking]) -> Iterator[Any]:
    rows = [(x.name, x.bank, x.kernels, x.form or "left", x.bytes, x.packed_bytes) for x in found]
    columns = [("layer", "left"), ("bank", "left"), ("kernels", "right"), ("form", "left"),
               ("bytes", "right"), ("packed", "right")]  # fmt: skip
    yield show.table("packing by a bank", columns, rows)
    yield _bank_summary(content, found)


def _bank_summary(content: dict[str, Any], found: Sequence[BankLayerPacking]) -> str:
    packed = sum(bool(layer.form) for layer in found)
    left = f" ({len(found) - packed} are not made of its members)" if packed < len(found) else ""
    before, after = content["bytes"], content["packed_bytes"]
    return (
        f"packed {packed} layers{left}: {before:,} bytes become {after:,}, "
        f"{100 * (1 - after / before):.2f} % saved, bit for bit"
    )


def _check_file(output: str | None) -> None:
    from filtersurgeon.checkpoint.sinks import is_folder

    if output is not None and is_folder(output):
        raise CheckpointError(
            f"{output}: a packed checkpoint is one file, which no other program loads; "
            "end the name in .safetensors"
        )


def _shares(share: float) -> list[float]:
    return [share / 2, share, *([2 * share] if 2 * share <= 1 else [])]


def _content(coefficients: str, chosen: Bargain, bargains: Sequence[Bargain]) -> dict[str, Any]:
    return {
        "schema": "filtersurgeon.packing/1",
        "coefficients": coefficients,
        **chosen.to_json(),
        "layers": [layer.to_json() for layer in chosen.layers],
        "trade": [bargain.to_json() for bargain in bargains],
    }


def _render(chosen: Bargain, bargains: Sequence[Bargain]) -> Iterator[Any]:
    names = ("layer", "N", "archetypes", "bytes", "packed", "error")
    layers = [
        (x.name, x.filters, x.archetypes, x.bytes, x.packed_bytes if x.shrinks else "-", x.error)
        for x in chosen.layers
    ]
    yield show.table("packing", _columns(names), layers)
    parts = ("archetypes", "precision", "bytes", "saved %", "error")
    trades = [
        (
            x.archetypes,
            "half" if x.half else "full",
            x.packed_bytes,
            100 * (1 - x.packed_bytes / x.bytes),
            x.error,
        )
        for x in bargains
    ]
    yield show.table("size and error", _columns(parts), trades)
    yield _summary(chosen.layers, chosen.bytes, chosen.packed_bytes)


def _columns(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, "left" if name == "layer" else "right") for name in names]


def _summary(report: Sequence[LayerPacking], before: int, after: int) -> str:
    from filtersurgeon.transforms.packing.trade import overall_error

    packed = sum(layer.shrinks for layer in report)
    left = f" ({len(report) - packed} would not shrink)" if packed < len(report) else ""
    return (
        f"packed {packed} layers{left}: {before:,} bytes become {after:,}, "
        f"{100 * (1 - after / before):.2f} % saved, relative error {overall_error(report):.3f}"
    )


def unpack(
    source: options.Input = "-",
    output: options.Output = None,
    arch: options.Arch = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Turn a packed checkpoint back into filters."""
    from filtersurgeon.transforms.unpack import unpack as unpack_checkpoint

    check_destination(output, source, force)
    with opened(source, arch=arch, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        restored = unpack_checkpoint(checkpoint)
        deliver(restored, output, force=force, quiet=quiet)
        show.note(
            f"restored {len(restored.changes)} layers: {checkpoint.nbytes:,} bytes become "
            f"{restored.nbytes:,}",
            quiet,
        )
