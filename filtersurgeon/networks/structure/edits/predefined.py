"""Make pre-defined filter modules of convolutions, all of which share one set of filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.modules.predefined import (
    BankConvolution,
    Geometry,
    PredefinedFilterModule,
)
from filtersurgeon.networks.skeleton import parameters_on_meta
from filtersurgeon.networks.structure.replay import exchange, find_module

FIXED, SHARED, OWN = "fixed", "shared", "own"
FILTERS = (FIXED, SHARED, OWN)
LARGEST = 4096  # filters of a bank


class _Layer(NamedTuple):
    module: str
    growth: int
    closing: bool


def predefined(
    model: nn.Module,
    *,
    layers: Sequence[Mapping[str, Any]],
    kernel: Sequence[int],
    count: int,
    filters: str,
    norm: bool,
    relu: bool,
) -> None:
    """Exchange convolutions for pre-defined filter modules of the same stride and output size.

    The values of the filters are the checkpoint's; here they are zero.

    Args:
        model: the network, changed in place.
        layers: ``module``, a dotted name; ``growth``, results per input channel; ``closing``,
            whether the module ends with a normalisation of its own.
        kernel: height and width of the filters, odd.
        count: number of filters.
        filters: ``fixed``; ``shared``, one set that all modules train; ``own``, one for each.
        norm: normalise the results of the filters.
        relu: rectify them.

    Raises:
        CheckpointError: no such module, or one that is no plain convolution; sizes that are none.
    """
    size, wanted = _check_size(kernel, count, filters), _read(layers, count)
    found = [(layer, find_module(model, layer.module)) for layer in wanted]
    shared: torch.Tensor | None = None
    for layer, module in found:
        reason = unfit(module, size)
        if reason or not isinstance(module, nn.Conv2d):
            raise CheckpointError(f"the structure converts {layer.module!r}, but it {reason}")
        if shared is None or filters == OWN:
            shared = _blank(module, count, size, filters)
        bank = BankConvolution(shared, module.in_channels, layer.growth, geometry(module, size))
        with parameters_on_meta() if module.weight.is_meta else nullcontext():
            made = PredefinedFilterModule(
                bank, module.out_channels, norm=norm, relu=relu,
                bias=module.bias is not None and not layer.closing, closing=layer.closing,
            )  # fmt: skip
        exchange(model, module, made.to(dtype=module.weight.dtype).train(module.training))


def unfit(module: nn.Module, size: tuple[int, int]) -> str:
    """Say why filters of a size cannot take the place of a convolution; nothing if they can."""
    if type(module) is not nn.Conv2d:
        return f"is a {type(module).__name__}, no plain convolution"
    if module.groups != 1:
        return f"has {module.groups} groups"
    if any(n % 2 == 0 for n in module.kernel_size) or len(set(module.kernel_size)) > 1:
        return "has a {}x{} kernel, neither square nor odd".format(*module.kernel_size)
    if module.kernel_size == (1, 1):
        return "has a 1x1 kernel already"
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return "is padded by other values than zeros, or by words"
    if min(geometry(module, size).padding) < 0:
        return "has too little padding for a kernel of {}x{}".format(*size)
    return ""


def geometry(module: nn.Conv2d, size: tuple[int, int]) -> Geometry:
    """Give filters of a size the stride and the output size of a convolution."""
    old = Geometry.of(module)
    sides = zip(old.padding, old.dilation, old.kernel, size, strict=True)
    first, second = (had - step * (before - now) // 2 for had, step, before, now in sides)
    return old._replace(kernel=size, padding=(first, second))


def _blank(like: nn.Conv2d, count: int, size: tuple[int, int], filters: str) -> torch.Tensor:
    weight = like.weight
    if filters == FIXED:
        # Buffers are real where parameters have no data yet.
        device = torch.device("cpu") if weight.is_meta else weight.device
        return torch.zeros((count, *size), dtype=weight.dtype, device=device)
    return nn.Parameter(torch.zeros((count, *size), dtype=weight.dtype, device=weight.device))


def _check_size(kernel: Sequence[int], count: int, filters: str) -> tuple[int, int]:
    if filters not in FILTERS:
        raise CheckpointError(f"the structure's filters are {filters!r}, not {', '.join(FILTERS)}")
    if not 1 <= count <= LARGEST:
        raise CheckpointError(f"the structure has {count} filters, not 1 to {LARGEST}")
    sides = list(kernel) if isinstance(kernel, list | tuple) else []
    if len(sides) != 2 or not all(type(n) is int and 1 <= n <= 99 and n % 2 for n in sides):
        raise CheckpointError(f"the structure's kernel {kernel!r} is no pair of odd numbers")
    return sides[0], sides[1]


def _read(layers: object, count: int) -> list[_Layer]:
    found = []
    for entry in layers if isinstance(layers, list | tuple) else [None]:
        if not isinstance(entry, Mapping) or set(entry) != {"module", "growth", "closing"}:
            raise CheckpointError(
                "the structure's converted layers do not state module, growth and closing"
            )
        layer = _Layer(**entry)
        if type(layer.growth) is not int or not 1 <= layer.growth <= count:
            raise CheckpointError(
                f"the structure's growth of {layer.module!r} should be 1 to {count}"
            )
        if not isinstance(layer.module, str) or type(layer.closing) is not bool:
            raise CheckpointError(f"the structure's layer {dict(entry)} has values of other kinds")
        found.append(layer)
    return found
