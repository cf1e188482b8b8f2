"""The proof of a cut by numbers: the narrow network against the wide one with silent channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.build import build
from filtersurgeon.checkpoint.calling import call
from filtersurgeon.checkpoint.failing import failed_in_network, told
from filtersurgeon.errors import GraphError, ran_out_of_memory
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
        blind: whether the outputs are the same for every image.
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
        ArchitectureError: the narrow network does not load.
    """
    shape = (_IMAGES, *subject.graph.image.shape[1:])
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    narrow = build(cut)
    wide = {**_tensors(subject.network), **changed}
    try:
        expected, found = _run_in_any(subject.network, wide, narrow, images)
    except Exception as error:
        if ran_out_of_memory(error) or not failed_in_network(error):
            raise
        before, after = "the network fails on random images (", "); --no-verify skips the check"
        raise GraphError(told(before, error, after)) from error
    difference = relative_difference(expected, found)
    if not difference <= tolerance:
        raise GraphError(
            f"the pruned network's outputs differ by {difference:.2g} of what they should be, so "
            "nothing is written; leave layers out with --layers, or skip the check with --no-verify"
        )
    return Proof(difference, all(_alike(output) for output in expected))


def _alike(output: Tensor) -> bool:
    """Tell whether an output is the same for all images, but for rounding."""
    if not output.numel():
        return True
    scale = output.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return bool((output - output[:1]).abs().max() <= _ROUNDING * scale)


def outputs(result: object) -> list[Tensor]:
    """Give the tensors among a network's outputs."""
    plain = dict(result) if isinstance(result, Mapping) else result
    return [leaf.double() for leaf in tree_leaves(plain) if isinstance(leaf, Tensor)]


def relative_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Give the largest difference relative to the largest magnitude; infinite if shapes differ."""
    worst = 0.0
    if len(expected) != len(found):
        return float("inf")
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return float("inf")
        if one.numel():
            scale = one.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            found_here = float((one - other).abs().max() / scale)
            worst = max(worst, float("inf") if isnan(found_here) else found_here)
    return worst


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _run_in_any(
    network: nn.Module, tensors: Mapping[str, Tensor], narrow: nn.Module, images: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Run both networks, in float64 if they can."""
    try:
        # Deep networks with random weights magnify the rounding of float32 past any bound.
        return _run_both(network, tensors, narrow, images, torch.float64)
    except RuntimeError:
        # Some networks convert to float32 on their way, which cannot be joined with float64.
        return _run_both(network, tensors, narrow, images, torch.float32)


def _run_both(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    narrow: nn.Module,
    images: Tensor,
    dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run the wide network with these tensors, and the narrow one, calculating in one type.

    Images go one by one, as in the trace: some networks take no more, and outputs need not begin
    with the axis of the images. What is given has that axis.
    """
    wide = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    narrow = narrow.to(dtype)
    with torch.no_grad():
        singly = [image.to(dtype)[None] for image in images]
        expected = [outputs(call(network, wide, image)) for image in singly]
        return _stacked(expected), _stacked([outputs(narrow(image)) for image in singly])


def _stacked(results: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Join the outputs for one image each; those of which each image has other shapes, apart."""
    joined = []
    for several in zip(*results, strict=False):
        alike = all(one.shape == several[0].shape for one in several)
        joined += [torch.stack(several)] if alike else [one[None] for one in several]
    return joined
