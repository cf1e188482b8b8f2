"""Give the modules of a network the shapes of other tensors, and the integers that mirror them."""

from __future__ import annotations

from collections.abc import Container
from math import prod
from typing import TYPE_CHECKING

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.mirrors import mirror
from filtersurgeon.networks.signature import Shapes
from filtersurgeon.networks.structure.plain_weights import modules_in_parts, weight_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, ...]


def resize(
    model: nn.Module, shapes: Shapes, stated: Container[tuple[str, str]] = frozenset()
) -> None:
    """Give a network's tensors other shapes, in place.

    Parameters and buffers become smaller by keeping their first elements, or else get no data at
    all (the meta device). Parameters that are one stay one.

    Args:
        model: the network.
        shapes: name -> shape; tensors of other names stay as they are.
        stated: (module, attribute) of the integers that are known already.

    Raises:
        ArchitectureError: a shape differs in more than numbers of channels, or the tensors of one
            module contradict each other.
    """
    resized: dict[int, tuple[Tensor, Tensor]] = {}
    in_parts = {
        name: weight_shape(model.get_submodule(name))
        for name, parameters in modules_in_parts(model).items()
        if "weight" in parameters
    }
    for path, module in model.named_modules():
        before: dict[str, Shape] = {}
        for name, tensor in _list_own_tensors(module):
            full = f"{path}.{name}" if path else name
            wanted = shapes.get(full, tuple(tensor.shape))
            if wanted == tuple(tensor.shape) and id(tensor) not in resized:
                continue
            _check_axes(full, module, tuple(tensor.shape), wanted)
            before[name] = tuple(tensor.shape)
            if id(tensor) not in resized:
                # The old tensor is kept, too, so that its id names no other.
                resized[id(tensor)] = (tensor, _of_shape(tensor, wanted))
            _put(module, name, resized[id(tensor)][1])
        if before and path not in in_parts:
            mirror(module, before, {key for key in vars(module) if (path, key) in stated})
    for path, shape in in_parts.items():  # whose parts may lie in modules of their own
        module = model.get_submodule(path)
        if weight_shape(module) != shape:
            own = {key for key in vars(module) if (path, key) in stated}
            mirror(module, {"weight": shape}, own)


def _list_own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        *module.named_parameters(recurse=False, remove_duplicate=False),
        *module.named_buffers(recurse=False, remove_duplicate=False),
    ]


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    from torch import nn

    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module._buffers[name] = tensor  # keeps it stored or not, as it is


def _of_shape(tensor: Tensor, shape: Shape) -> Tensor:
    """Keep the first elements of a tensor along each axis; without data where it has fewer."""
    import torch
    from torch import nn

    if any(new > old for new, old in zip(shape, tensor.shape, strict=True)):
        made = torch.empty(shape, dtype=tensor.dtype, device="meta")
    else:
        made = tensor.detach()[tuple(slice(size) for size in shape)].clone()
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _check_axes(name: str, module: nn.Module, old: Shape, new: Shape) -> None:
    """Refuse a shape that differs from the architecture's in more than channels."""
    if len(old) != len(new) or 0 in new:
        raise ArchitectureError(f"{name} has shape {list(new)} instead of {list(old)}")
    differing = [axis for axis in range(len(old)) if old[axis] != new[axis]]
    if any(not _counts_channels(module, old, axis) for axis in differing):
        raise ArchitectureError(
            f"{name} has shape {list(new)} instead of {list(old)}, "
            "which differs in more than channels"
        )


def _counts_channels(module: nn.Module, shape: Shape, axis: int) -> bool:
    """Tell whether an axis may count channels.

    Those of kernels and of maps do not; a vector may lie along any axis.
    """
    from torch.nn.modules.conv import _ConvNd

    if isinstance(module, _ConvNd) or len(shape) > 3:
        return axis < 2 or prod(shape) == shape[axis]
    return True
