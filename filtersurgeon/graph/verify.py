"""The numerical check of a cut: the pruned network against the original with silent channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import GraphError, OutputError, ran_out_of_memory
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.networks.build import build
from filtersurgeon.networks.dry_run import call
from filtersurgeon.networks.failing import describe_failure, failed_in_network
from filtersurgeon.networks.outputs import as_numbers, pair_up, relative_difference

TOLERANCE = 1e-4
EXACT = 1e-5
_ROUNDING = 1e-6
_IMAGES = 2
_LARGE = 1 << 26
"""Parameters from which networks are first compared in float32: twice the memory is much then."""
_NOISE = 0
"""Random seed of networks that draw while they run."""


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
    opened: OpenedModel,
    changed: Mapping[str, Tensor],
    cut: Checkpoint,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Proof:
    """Compare a cut network, loaded as anyone would load it, with the original one.

    Args:
        opened: the original network.
        changed: its tensors that have other values, such as zeros for channels that are cut.
        cut: the checkpoint of the pruned network.
        seed: of the images.
        tolerance: the largest difference that is allowed.

    Raises:
        GraphError: they differ by more than rounding explains.
        OutputError: their outputs cannot be compared.
        ArchitectureError: the pruned network does not load.
    """
    images = _images(opened, seed)
    pruned = build(cut)
    original = {**_tensors(opened.network), **changed}
    try:
        expected, found = _run_in_any(opened.network, original, pruned, images)
    except Exception as error:
        if ran_out_of_memory(error) or not failed_in_network(error):
            raise
        before, after = "the network fails on random images (", "); `verify=False` skips the check"
        raise GraphError(describe_failure(before, error, after)) from error
    difference = relative_difference(expected, found)
    if not difference <= tolerance:
        raise GraphError(
            f"the pruned network's outputs differ by {difference:.2g} (relative), so nothing is "
            "written; leave layers out with `layers`, or pass `verify=False`"
        )
    return Proof(difference, _alike(*found) and not _alike(*_original(opened, pruned, images)))


def _images(opened: OpenedModel, seed: int) -> list[Tensor]:
    """Give random images, each a batch of one as in the trace."""
    shape = (_IMAGES, *opened.graph.image.shape[1:])
    return list(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).split(1))


def _original(opened: OpenedModel, pruned: nn.Module, images: Sequence[Tensor]) -> list[Any]:
    """Give what the network returned for each image before the cut."""
    return _run_in_any(opened.network, _tensors(opened.network), pruned, images)[0]


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two results are the same but for rounding.

    Outputs that are whole numbers, such as the place of the greatest score, do not tell.
    """
    try:
        pairs = pair_up(one, other)
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


def _run_in_any(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    pruned: nn.Module,
    images: Sequence[Tensor],
) -> tuple[list[Any], list[Any]]:
    """Run both networks, in float64 if they can."""
    if sum(tensor.numel() for tensor in tensors.values()) > _LARGE:
        found = _run_both(network, tensors, pruned, images, torch.float32)
        if relative_difference(*found) <= EXACT:
            return found
    try:
        # Deep networks with random weights magnify the rounding of float32 past any bound.
        return _run_both(network, tensors, pruned, images, torch.float64)
    except RuntimeError:
        # Some networks convert to float32 on their way, which cannot be joined with float64.
        return _run_both(network, tensors, pruned, images, torch.float32)


def _run_both(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    pruned: nn.Module,
    images: Sequence[Tensor],
    dtype: torch.dtype,
) -> tuple[list[Any], list[Any]]:
    """Run the original network with these tensors, and the pruned one, calculating in one type.

    Images go one by one, as in the trace: some networks take no more, and outputs need not begin
    with the axis of the images. Noise that a network draws is the same in both.

    Returns:
        What each returned, image by image.
    """
    original = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    pruned = pruned.to(dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_NOISE)
        expected = [call(network, original, image.to(dtype)) for image in images]
        torch.manual_seed(_NOISE)
        return expected, [pruned(image.to(dtype)) for image in images]
