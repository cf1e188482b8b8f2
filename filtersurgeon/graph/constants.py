"""Channels that do not depend on the image: found by running a network on nothing but NaN.

Whatever is computed from a NaN is NaN, so every number that comes out in some channel is a
constant, there to be read. Where PyTorch's arithmetic loses a NaN or spreads it too far, as zero
times NaN is NaN, the operator's record says how to run it (``run_with_nan``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from filtersurgeon.errors import GraphError, ran_out_of_memory
from filtersurgeon.graph.ops import operator_of
from filtersurgeon.graph.values import asks_whether_finite
from filtersurgeon.networks.dry_run import call
from filtersurgeon.networks.failing import describe_failure, failed_in_network


@dataclass(frozen=True)
class Constants:
    """What a layer reads that does not depend on the image.

    Attributes:
        values: ``(in,)``, what each channel holds away from borders; NaN where it depends.
        spread: ``(in,)``, how far the channel is from that anywhere.
    """

    values: Tensor
    spread: Tensor


def constant_inputs(
    network: nn.Module, image: Tensor, changed: Mapping[str, Tensor]
) -> dict[str, Constants]:
    """Find the constant channels that convolutions and linear layers read.

    Args:
        network: in evaluation mode, on the CPU.
        image: a batch of one; its shape counts.
        changed: tensors of the network with other values.

    Returns:
        By module name. A module that runs several times must read the same each time.

    Raises:
        GraphError: the network takes decisions by its values.
    """
    found: dict[str, list[Constants]] = {}

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            axis = -1 if isinstance(module, nn.Linear) else 1
            with _disable_current_modes():
                found.setdefault(name, []).append(_measure(inputs[0], axis))

        return look

    kinds = (nn.Linear, _ConvNd)
    readers = [(name, m) for name, m in network.named_modules() if isinstance(m, kinds)]
    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in readers]
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers()), **changed}
    exact = {k: t.double() if t.is_floating_point() else t for k, t in tensors.items()}
    nothing = torch.full(image.shape, torch.nan, dtype=torch.float64)
    try:
        with torch.no_grad(), _Taint():
            call(network, exact, nothing)
    except Exception as error:
        if ran_out_of_memory(error) or not failed_in_network(error):
            raise
        raise GraphError(
            describe_failure("cannot tell which channels are constant: ", error)
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _merge_runs(several) for name, several in found.items()}


def _measure(tensor: Tensor, axis: int) -> Constants:
    """Look at the channels of a tensor: the middle of each, and how far the rest is from it."""
    flat = tensor.movedim(axis, 0).flatten(1)
    depends = flat.isnan().any(1)
    middle = tensor.movedim(axis, 0)
    while middle.ndim > 1:
        middle = middle.select(-1, middle.shape[-1] // 2)
    spread = (flat - middle[:, None]).abs().amax(1)
    return Constants(middle.masked_fill(depends, torch.nan), spread.nan_to_num(torch.inf))


def _merge_runs(several: list[Constants]) -> Constants:
    first = several[0]
    values = first.values.clone()
    for other in several[1:]:
        values[other.values != values] = torch.nan
    return Constants(values, torch.stack([c.spread for c in several]).amax(0))


class _Taint(TorchDispatchMode):
    """Lets a NaN go wherever the value that it stands for would go."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(_is_tainted(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        operator = operator_of(func)
        if asks_whether_finite(operator.name, args):
            # A NaN stands for a value, and all values are finite.
            return func(*(torch.zeros_like(x) if _is_tainted(x) else x for x in args), **kwargs)
        if operator.run_with_nan is not None:
            return operator.run_with_nan(func, args, kwargs)
        result = func(*args, **kwargs)
        if operator.pointwise:
            return _everywhere(result, args)
        _check_floating(func, result)
        return result


def _is_tainted(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(leaf.isnan().any())


def _everywhere(result: Any, args: Any) -> Any:
    """Keep the NaN of every element that has seen one, which kernels that compare may lose."""
    if not isinstance(result, Tensor) or not result.is_floating_point():
        _check_floating("a comparison", result)
        return result
    for operand in tree_leaves(args):
        if _is_tainted(operand):
            result.masked_fill_(operand.isnan().expand_as(result), torch.nan)
    return result


def _check_floating(func: Any, result: Any) -> None:
    """Refuse what turns a NaN into something that does not show it."""
    hidden = (
        isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.ndim
        for leaf in tree_leaves(result)
    )
    if any(hidden):
        raise RuntimeError(f"{func} decides by values")
