"""The proof of a cut by numbers: the narrow network against the wide one with silent channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.build import build
from filtersurgeon.checkpoint.calling import call
from filtersurgeon.checkpoint.outputs import (
    Output,
    as_numbers,
    find_tensors,
    paired,
    relative_difference,
)
from filtersurgeon.errors import GraphError, OutputError
from filtersurgeon.graph.subject import Subject

TOLERANCE = 1e-4
EXACT = 1e-5
_ROUNDING = 1e-6
_IMAGES = 2


@dataclass(frozen=True)
class Proof:
    """What a comparison found.

    Attributes:
        difference: the largest of an output, relative to the largest output.
        blind: whether the outputs are the same for every image, and were not before the cut.
    """

    difference: float
    blind: bool


def verify(
    subject: Subject,
    changed: Mapping[str, Tensor],
    cut: Checkpoint,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Proof:
    """Compare a cut network, loaded as anyone would load it, with the wide one.

    Args:
        subject: the wide network.
        changed: its tensors that have other values, such as zeros for channels that are cut.
        cut: the checkpoint of the narrow network.
        seed: of the images.
        tolerance: the largest difference that is allowed.

    Raises:
        GraphError: they differ by more than rounding explains.
        OutputError: their outputs cannot be compared.
        ArchitectureError: the narrow network does not load.
    """
    images = _images(subject, seed)
    narrow = build(cut)
    wide = {**_tensors(subject.network), **changed}
    dtype = torch.float64  # deep networks with random weights magnify the rounding of float32
    try:
        expected, found = _run_both(subject.network, wide, narrow, images, dtype)
    except RuntimeError:
        # Some networks convert to float32 on their way, which cannot be joined with float64.
        dtype = torch.float32
        expected, found = _run_both(subject.network, wide, narrow, images, dtype)
    difference = relative_difference(expected, found)
    if not difference <= tolerance:
        raise GraphError(
            f"the pruned network's outputs differ by {difference:.2g} of what they should be, so "
            "nothing is written; leave layers out with --layers, or skip the check with --no-verify"
        )
    return Proof(difference, _turned_blind(subject, narrow, found, seed, dtype))


def _images(subject: Subject, seed: int) -> Tensor:
    shape = (_IMAGES, *subject.graph.image.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _turned_blind(
    subject: Subject, narrow: nn.Module, found: Any, seed: int, dtype: torch.dtype
) -> bool:
    """Tell whether a network's outputs were different for different images, and no longer are.

    Outputs that are whole numbers, such as the place of the greatest score, do not tell.
    """
    if _sees(find_tensors(found)):
        return False
    images, others = (_images(subject, x).to(dtype) for x in (seed, seed + 1))
    with torch.no_grad():
        if not _alike(found, narrow(others)):
            return False
        wide = _in(_tensors(subject.network), dtype)
        before, after = (call(subject.network, wide, x) for x in (images, others))
    return not _alike(before, after)


def _sees(found: Sequence[Output]) -> bool:
    """Tell at a glance that an output depends on the image; False where that takes another run."""
    if len(found) > 1 or not found[0].tensor.ndim or len(found[0].tensor) != _IMAGES:
        return False  # its first axis may not count images
    one, other = as_numbers(found[0].tensor)
    return not _near(one, other)


def _alike(one: Any, other: Any) -> bool:
    """Tell whether all outputs but whole numbers are the same, of which there must be some."""
    try:
        pairs = paired(one, other)
    except OutputError:
        return False  # they have other shapes for other images
    real = [pair for pair in pairs if not _is_whole(pair.expected)]
    same = (_near(as_numbers(pair.expected), as_numbers(pair.found)) for pair in real)
    return bool(real) and all(same)


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _near(one: Tensor, other: Tensor) -> bool:
    """Tell whether tensors are the same but for rounding."""
    if not one.numel():
        return True
    scale = one.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return bool((one - other).abs().max() <= _ROUNDING * scale)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _in(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}


def _run_both(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    narrow: nn.Module,
    images: Tensor,
    dtype: torch.dtype,
) -> tuple[Any, Any]:
    """Run the wide network with these tensors, and the narrow one, calculating in one type."""
    with torch.no_grad():
        expected = call(network, _in(tensors, dtype), images.to(dtype))
        return expected, narrow.to(dtype)(images.to(dtype))
