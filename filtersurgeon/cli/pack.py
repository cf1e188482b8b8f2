from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, only, values, verb, without
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.running import ANALYSIS_DEVICE, Computation
from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.transforms.packing.by_bank import BankLayerPacking
    from filtersurgeon.transforms.packing.layer import LayerPacking
    from filtersurgeon.transforms.packing.trade import Bargain


@dataclass(frozen=True)
class Packing(Bundle):
    """What to store; the fields are parameters of :func:`filtersurgeon.pack`."""

    coefficients: Annotated[
        str,
        options.choice(
            "--coefficients",
            among=("learned", "random"),
            help="learned: store them, to restore the closest filters. random: draw them with a "
            "seed.",
        ),
    ] = "learned"
    archetypes: options.Archetypes = None
    half: Annotated[bool, typer.Option("--half", help="Store in half precision.")] = False
    draw: options.Draw = "uniform"
    concentration: options.Concentration = None
    seed: options.Seed = 0
    bank: Annotated[
        list[str] | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            help="Store an index, a and b for each kernel that replace took from this bank, "
            "exactly, instead of archetypes. May be repeated, as in replace.",
            autocompletion=banks,
        ),
    ] = None
    layers: options.Layers = None


@verb("fsurgeon pack m.safetensors --archetypes 0.25 -o packed.safetensors")
def pack(
    source: options.Input = "-",
    *,
    packing: Packing,
    search: options.ArchetypeSearch,
    computation: Annotated[Computation, only("device"), ANALYSIS_DEVICE],
    network: Annotated[options.Network, without("factory")],
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Store archetypes, or indices into a bank, in place of filters.

    fsurgeon unpack restores the filters. --dry-run shows the size and the error of every layer, and
    of fewer and more archetypes. Layers that would not get smaller stay as they are. By default,
    spatial layers are packed; --layers '*' includes 1x1 convolutions.
    """
    from filtersurgeon.transforms.pack import drawing

    random = drawing(packing.coefficients, packing.draw, packing.concentration, packing.seed)
    if not output.dry_run:
        _check_file(output.output)
        output.check(source)
    how = {**values(search), "device": computation.device}
    with network.opened(source, general.quiet) as checkpoint:
        if packing.bank:
            _pack_by_bank(checkpoint, packing, how, output, general.quiet)
        elif output.dry_run:
            _try(checkpoint, packing, how, random, output, general.quiet)
        else:
            _pack(checkpoint, packing, how, output, general.quiet)


def _keywords(packing: Packing, search: dict[str, Any]) -> dict[str, Any]:
    counts = options.archetype_counts(packing.archetypes)
    return {**values(packing), "archetypes": counts, **search}


def _pack_by_bank(
    checkpoint: Checkpoint,
    packing: Packing,
    search: dict[str, Any],
    output: options.CheckpointOutput,
    quiet: bool,
) -> None:
    from filtersurgeon.transforms.pack import pack as pack_checkpoint

    found: list[BankLayerPacking] = []
    packed = pack_checkpoint(checkpoint, **_keywords(packing, search), observe=found.append)
    if not output.dry_run:
        output.deliver(packed, quiet)
    content = _bank_content(packing.bank or (), found, checkpoint.nbytes, packed.nbytes)
    if output.dry_run:
        output.show(content, lambda: _render_bank(content, found))
    else:
        show.note(_bank_summary(content, found), quiet)


def _try(
    checkpoint: Checkpoint,
    packing: Packing,
    search: dict[str, Any],
    random: Any,
    output: options.CheckpointOutput,
    quiet: bool,
) -> None:
    from filtersurgeon.ranking.archetype_counts import solver_options
    from filtersurgeon.transforms.packing.trade import trade

    device = search.pop("device")
    wanted = options.archetype_counts(packing.archetypes)
    with show.progress("trying", quiet) as progress:
        bargains = trade(
            checkpoint, _beside(wanted), draw=random, layers=packing.layers, device=device,
            progress=progress, **solver_options(**search),
        )  # fmt: skip
    chosen = next(x for x in bargains if (x.archetypes, x.half) == (wanted, packing.half))
    content = _content(packing.coefficients, chosen, bargains)
    output.show(content, lambda: _render(chosen, bargains))


def _pack(
    checkpoint: Checkpoint,
    packing: Packing,
    search: dict[str, Any],
    output: options.CheckpointOutput,
    quiet: bool,
) -> None:
    from filtersurgeon.filters import layers_to_analyse
    from filtersurgeon.transforms.pack import pack as pack_checkpoint

    done: list[LayerPacking] = []
    total = len(layers_to_analyse(checkpoint, packing.layers))
    with show.progress("packing", quiet) as progress:

        def observe(cost: LayerPacking) -> None:
            done.append(cost)
            if progress:
                progress(len(done), total)

        packed = pack_checkpoint(checkpoint, **_keywords(packing, search), observe=observe)
    output.deliver(packed, quiet)
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


def _beside(wanted: Any) -> list[Any]:
    """Give half and double a number or a share of archetypes, around it; others alone."""
    if isinstance(wanted, int):
        return [*([wanted // 2] if wanted > 1 else []), wanted, 2 * wanted]
    if isinstance(wanted, float):
        return [wanted / 2, wanted, *([2 * wanted] if 2 * wanted <= 1 else [])]
    return [wanted]


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
            _in_words(x.archetypes),
            "half" if x.half else "full",
            x.packed_bytes,
            100 * (1 - x.packed_bytes / x.bytes),
            x.error,
        )
        for x in bargains
    ]
    yield show.table("size and error", _columns(parts), trades)
    yield _summary(chosen.layers, chosen.bytes, chosen.packed_bytes)


def _in_words(wanted: Any) -> Any:
    if not isinstance(wanted, Mapping):
        return wanted
    return " ".join(f"{glob}={count}" for glob, count in wanted.items())


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


@verb("fsurgeon unpack packed.safetensors -o restored.safetensors")
def unpack(
    source: options.Input = "-",
    *,
    network: Annotated[options.Network, without("factory")],
    output: Annotated[options.CheckpointOutput, without("dry_run", "as_json")],
    general: options.General,
) -> None:
    """Restore the filters of a packed checkpoint."""
    from filtersurgeon.transforms.unpack import unpack as unpack_checkpoint

    output.check(source)
    with network.opened(source, general.quiet) as checkpoint:
        restored = unpack_checkpoint(checkpoint)
        output.deliver(restored, general.quiet)
        show.note(
            f"restored {len(restored.changes)} layers: {checkpoint.nbytes:,} bytes become "
            f"{restored.nbytes:,}",
            general.quiet,
        )
