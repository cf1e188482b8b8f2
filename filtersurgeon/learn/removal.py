"""Removing filters of a running network without changing a shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def normalisations(model: nn.Module, images: torch.Tensor) -> dict[str, nn.Module]:
    """Find the batch normalisation that reads each convolution's output.

    Args:
        model: the network; it is run once, in the mode that it is in.
        images: inputs to run it on.

    Returns:
        Module name of a convolution -> the normalisation, for those that have one.
    """
    import torch
    from torch import nn

    # Keeping the outputs alive keeps their identities apart.
    outputs: list[tuple[Any, str]] = []
    found: dict[str, nn.Module] = {}

    def remember(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.append((output, name))

    def look_up(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.update({name: module for output, name in outputs if output is inputs[0]})

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(look_up))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def remove_filters(
    model: nn.Module,
    removed: Mapping[str, Iterable[int]],
    norms: Mapping[str, nn.Module],
) -> None:
    """Zero filters and their biases, in place.

    Args:
        model: the network.
        removed: module name of a convolution -> indices of its filters.
        norms: normalisations whose scale and shift of those channels are zeroed too, so that
            the channels are silent; those left out go on to shift theirs by a constant.
    """
    import torch

    with torch.no_grad():
        for name, filters in removed.items():
            index = torch.tensor(list(filters), dtype=torch.long)
            for module in (model.get_submodule(name), norms.get(name)):
                for parameter in module.parameters(recurse=False) if module else ():
                    parameter[index] = 0
