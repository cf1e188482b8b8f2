"""Stored tensors that are made from those of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.dtypes import Buffer, dtype_names
from filtersurgeon.checkpoint.tensor import StoredTensor
from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    import torch


_REPEATED = 64 << 20  # bytes that an expanded tensor may take where its data take fewer


def from_torch(tensor: torch.Tensor, name: str) -> StoredTensor:
    """Describe a tensor; its bytes are taken when they are read.

    Raises:
        CheckpointError: it is sparse, quantised, without data, of a type that safetensors cannot
            store, or far larger than what it repeats.
    """
    import torch

    codes = dtype_names()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in codes:
        raise CheckpointError(
            f"tensor {name!r} is {tensor.layout} of type {tensor.dtype}, "
            "which safetensors cannot store; make it a plain dense tensor first"
        )
    if tensor.is_meta:
        raise CheckpointError(f"tensor {name!r} has a shape but no data; save the loaded network")
    held = tensor.untyped_storage().nbytes()
    if tensor.nbytes > max(held, _REPEATED):
        raise CheckpointError(
            f"tensor {name!r} repeats {held} bytes until they are {tensor.nbytes}; "
            "save a contiguous copy of it, if that is right"
        )
    detached = tensor.detach()

    def load() -> Buffer:
        flat = detached.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy() if flat.numel() else b""

    return StoredTensor.from_bytes(codes[tensor.dtype], tuple(tensor.shape), load)
