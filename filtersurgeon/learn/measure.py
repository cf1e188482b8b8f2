"""What a comparison measures: the size of a network, and how far outputs differ."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from filtersurgeon.networks.devices import copy_number, device_of
from filtersurgeon.networks.outputs import as_numbers, find_scores, pair_up

if TYPE_CHECKING:
    from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Count trainable and frozen weights; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Count multiply-accumulates of convolutions, linear, attention and recurrent layers.

    Args:
        model: any network.
        image_shape: (channels, height, width).

    Returns:
        Half of what torch's own counter of floating-point operations finds for one image.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros(1, *image_shape, device=device_of(model))
    was_training = model.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), _in_pieces(), counter:
            model.eval()(image)
    finally:
        model.train(was_training)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _in_pieces() -> Iterator[None]:
    """Run attention and recurrent layers as the products they are made of, which are counted."""
    from torch.backends import mha
    from torch.backends.mkldnn import flags
    from torch.nn.attention import SDPBackend, sdpa_kernel

    was_fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TF32 acceleration")
            with sdpa_kernel(SDPBackend.MATH), flags(enabled=False):
                yield
    finally:
        mha.set_fastpath_enabled(was_fast)


@dataclass(frozen=True)
class Difference:
    """Differences of two networks' outputs on the same inputs.

    The relative difference of one input is ``||b - a||_2 / ||a||_2`` over its outputs; it is
    infinite where either output is not finite. Of a network that returns several tensors it is
    that of the tensor that differs most.

    Attributes:
        n_inputs: how many inputs.
        relative_max: largest relative difference.
        relative_sum: summed over the inputs.
        absolute_max: largest difference of any single output.
        same_class: inputs for which both have the same greatest class score; where it is not clear
            which tensor holds class scores, the same greatest value in every tensor.
    """

    n_inputs: int = 0
    relative_max: float = 0.0
    relative_sum: float = 0.0
    absolute_max: float = 0.0
    same_class: int = 0

    @property
    def relative_mean(self) -> float:
        """Mean relative difference over the inputs."""
        return self.relative_sum / self.n_inputs if self.n_inputs else 0.0

    @property
    def agreement(self) -> float:
        """Part of the inputs with the same top-1 class, in 0..1."""
        return self.same_class / self.n_inputs if self.n_inputs else 1.0

    def __add__(self, other: Difference) -> Difference:
        """Join the differences on two sets of inputs."""
        return Difference(
            self.n_inputs + other.n_inputs,
            max(self.relative_max, other.relative_max),
            self.relative_sum + other.relative_sum,
            max(self.absolute_max, other.absolute_max),
            self.same_class + other.same_class,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON form, in which null stands for a number that is not finite."""
        return {
            "n_inputs": self.n_inputs,
            "relative_max": _finite(self.relative_max),
            "relative_mean": _finite(self.relative_mean),
            "absolute_max": _finite(self.absolute_max),
            "same_class": self.same_class,
            "agreement": self.agreement,
        }


def output_difference(first: Any, second: Any, n_inputs: int) -> Difference:
    """Compare what two networks return for a batch, tensor by tensor.

    Args:
        first: what the reference returned.
        second: what the other returned.
        n_inputs: inputs in the batch; a tensor whose first axis is not as long counts for all.

    Raises:
        OutputError: there is nothing to compare, or the numbers of tensors, their shapes or types
            differ.
    """
    import torch

    relative = torch.zeros(n_inputs, dtype=torch.float64)
    same = torch.ones(n_inputs, dtype=torch.bool)
    absolute, scores = 0.0, find_scores(first)
    for pair in pair_up(first, second):
        if not pair.expected.numel():
            continue
        a, b = (_rows(tensor, n_inputs) for tensor in (pair.expected, pair.found))
        gap = (b - a).nan_to_num(nan=inf, posinf=inf, neginf=inf)
        distance, size = gap.norm(dim=1), a.norm(dim=1)
        # Equal zeros do not differ; anything else is infinitely far from zero.
        here = (distance / size).where(distance > 0, 0.0).nan_to_num(nan=inf, posinf=inf)
        relative = torch.maximum(relative, here.cpu())
        absolute = max(absolute, copy_number(gap.abs().max()))
        if scores is None or pair.expected is scores:
            same &= (a.argmax(1) == b.argmax(1)).cpu()
    return Difference(
        n_inputs=n_inputs,
        relative_max=float(relative.max()),
        relative_sum=float(relative.sum()),
        absolute_max=absolute,
        same_class=int(same.sum()),
    )


def _rows(tensor: Tensor, n_inputs: int) -> Tensor:
    """Give a tensor as (inputs, numbers), or as one row where its first axis counts no inputs."""
    values = as_numbers(tensor)
    by_input = tensor.ndim > 0 and len(tensor) == n_inputs
    return values.reshape(n_inputs if by_input else 1, -1)


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
