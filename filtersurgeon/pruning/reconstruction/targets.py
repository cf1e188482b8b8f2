"""The inputs of a reading layer at sampled positions, and the outputs that it is fitted to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from filtersurgeon.graph.program import Values
from filtersurgeon.networks.devices import mix
from filtersurgeon.pruning.reconstruction.calibration import Bench, every_batch
from filtersurgeon.pruning.reconstruction.fitting import RowSums, StoredRows
from filtersurgeon.pruning.reconstruction.layers import ReadingLayer
from filtersurgeon.pruning.reconstruction.rows import Part, parts_of, sample, sample_made, unscaled

SHARE = 1.0
"""Of the error that a residual stream carries by then, what each layer is to make up for.

Half of it keeps up to 0.9 points less on CIFAR ResNets and EfficientNet-Lite0.
"""
LARGEST = 4608
"""Numbers that a filter sees, beyond which their second moments are not formed."""


def bias_of(bench: Bench, layer: str) -> Tensor | None:
    """Give a layer's bias, ``(outputs,)``."""
    name = bench.survey.readers[layer].layer.tensor
    owner = name.rpartition(".")[0]
    module = bench.network.get_submodule(owner)
    found = getattr(module, "bias", None)
    return found.detach() if isinstance(found, Tensor) else None


def without_bias(bench: Bench, layer: str, made: Tensor) -> Tensor:
    """Take a layer's bias off what it made."""
    bias = bias_of(bench, layer)
    step = bench.program.steps[bench.survey.readers[layer].step]
    if bias is None or step.name == "mm" or (step.name == "convolution" and step.args[2] is None):
        return made  # a bias, if any, is added by a step of its own
    if bench.survey.readers[layer].geometry is None:
        return made - bias
    return made - bias.reshape(1, -1, *(1,) * (made.ndim - 2))


def target_rows(part: Part, weight: Tensor, rows: Tensor, made: Tensor | None) -> Tensor:
    """Give what a part makes of rows: as it was made, or as its weights make it."""
    if made is None:
        return rows @ part.map_of(weight).T
    return made[:, part.outputs]


def target_of(
    bench: Bench,
    reader: ReadingLayer,
    values: Values,
    made: Tensor,
    number: int,
    seed: int,
    share: float,
) -> Tensor:
    """Give what a layer is to make where it is sampled, as far as the original network says.

    That is what it makes there, and some of what is added behind it. It is kept for other cuts.

    Args:
        bench: the network.
        reader: the layer.
        values: of the original network, from before the layer.
        made: what it makes of them, without its bias.
        number: of the batch.
        seed: of the positions.
        share: of what is added behind it.

    Returns:
        Shape ``(rows, outputs)``.
    """
    count, own = bench.batches[number].count, mix(seed, number, bench.program.place[reader.step])
    bench.targets.shapes[reader.name] = made.shape
    if reader.pooled is not None:
        weight = bench.weight(reader.name)
        rows, _ = sample(reader, values[reader.pooled], None, count, own)
        parts = [(part, part_rows(part, rows)) for part in parts_of(reader, weight)]
        found = torch.cat([target_rows(part, weight, x, None) for part, x in parts], dim=1)
    else:
        found = sample_made(reader, made, count, own)
        added = skip_rows(bench, reader, values, number, seed)
        if added is not None:
            found = found + share * added
    bench.targets.put((reader.name, number, seed, share), found)
    return found


def skip_rows(
    bench: Bench, reader: ReadingLayer, values: Values, number: int, seed: int
) -> Tensor | None:
    """Give what is added behind a layer where it is sampled, in the layer's units, if anything."""
    skip = reader.skip
    if skip is None or reader.pooled is not None:
        return None
    whole = values[skip.value]
    if whole.shape != bench.targets.shapes[reader.name]:
        return None  # it is one value for all positions, or the other way round
    own = mix(seed, number, bench.program.place[reader.step])
    rows = sample_made(reader, whole, bench.batches[number].count, own)
    return rows * unscaled(skip, bench.tensors)


def part_rows(part: Part, rows: Tensor) -> Tensor:
    """Give the columns of a layer's rows that a part sees."""
    if part.reader.layer.groups == 1:
        return rows
    return rows.reshape(len(rows), part.taps, -1)[:, :, part.inputs].flatten(1)


def new_sums(inputs: int, outputs: int, device: torch.device) -> RowSums:
    """Make sums of the kind that rows of this length need."""
    return (StoredRows if inputs > LARGEST else RowSums)(inputs, outputs, device)


@torch.no_grad()
def collect(
    bench: Bench, layers: Sequence[str], seed: int, targets: Collection[str] = ()
) -> dict[str, list[RowSums]]:
    """Sum up what layers of the whole network see and make, part by part.

    Args:
        bench: the network.
        layers: names of the layers.
        seed: of the positions.
        targets: further layers, of which only the targets are kept.
    """
    program = bench.program
    readers = [bench.survey.readers[name] for name in dict.fromkeys([*layers, *targets])]
    found: dict[str, list[RowSums]] = {}
    for number, batch in every_batch(bench):
        values: Values = {0: batch.images}
        start = 0
        for reader in sorted(readers, key=lambda r: program.place[r.step]):
            place = program.place[reader.step]
            program.run(values, bench.tensors, start, place)
            rest = dict(values)
            program.run(rest, bench.tensors, place, place + 1, keep=rest)
            made = without_bias(bench, reader.name, rest[reader.step])
            values[reader.step], start = rest[reader.step], place
            if reader.name not in layers:
                target_of(bench, reader, values, made, number, seed, SHARE)
                continue
            source = values[reader.source if reader.pooled is None else reader.pooled]
            rows, seen = sample(reader, source, made, batch.count, mix(seed, number, place))
            target_of(bench, reader, values, made, number, seed, SHARE)
            weight = bench.weight(reader.name)
            parts = parts_of(reader, weight)
            own = found.setdefault(reader.name, [])
            for at, part in enumerate(parts):
                x = part_rows(part, rows)
                y = target_rows(part, weight, x, seen)
                if at == len(own):
                    own.append(new_sums(x.shape[1], y.shape[1], x.device))
                (own[at].hold if batch.held else own[at].add)(x, y)
        del values
    return found
