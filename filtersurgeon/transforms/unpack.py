"""Restore the filters of a packed checkpoint."""

from __future__ import annotations

from functools import partial

from filtersurgeon.checkpoint import Change, Checkpoint, StoredTensor
from filtersurgeon.errors import CheckpointError
from filtersurgeon.transforms.packing.bank_description import is_packed_by_bank
from filtersurgeon.transforms.packing.bank_network import unpack_banks
from filtersurgeon.transforms.packing.description import PARTS, read_packing
from filtersurgeon.transforms.packing.layer import restore_layer
from filtersurgeon.transforms.packing.restoring import unpacked


def unpack(checkpoint: Checkpoint) -> Checkpoint:
    """Restore the filters of a packed checkpoint.

    Names, shapes, types and order are those of the original; tensors that were not packed are
    bit-identical, and so are those that were packed by a bank.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, Eq. 2.

    Args:
        checkpoint: what ``pack`` made.

    Returns:
        The network, computed tensor by tensor as it is read.

    Raises:
        CheckpointError: it is not packed, or corrupt; the latter also later, while reading.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> packed = fs.pack(checkpoint)
        >>> restored = fs.unpack(packed)
        >>> restored["conv1.0.weight"].array().shape
        (16, 3, 3, 3)
        >>> list(restored) == list(checkpoint)
        True
    """
    if is_packed_by_bank(checkpoint):
        return unpack_banks(checkpoint)
    packing = read_packing(checkpoint)
    if packing is None:
        raise CheckpointError(f"{checkpoint.name} is not packed; there is nothing to restore")
    restored, changes = {}, []
    for layer in packing.layers:
        kinds = PARTS[packing.coefficients]
        parts = {kind: checkpoint[f"{layer.tensor}.{kind}"] for kind in kinds}
        load = partial(restore_layer, layer, packing.draw, parts)
        restored[layer.tensor] = StoredTensor.from_bytes(layer.dtype, layer.shape, load)
        shape = parts["archetypes"].shape
        why = f"filters of {packing.coefficients} coefficients"
        changes.append(Change(layer.tensor, shape, layer.shape, why))
    return unpacked(checkpoint, packing.order, restored, changes)
