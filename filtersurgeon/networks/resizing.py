"""From the network of an architecture to a pruned one: new shapes, and integers that mirror them.

To add a kind of module, write a rule and put it into ``_rules``. A rule sets the integers of a
module whose tensors have their new shapes already; ``before`` are the shapes that changed, by
name, and ``stated`` the attributes that are known and must be left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.fitting import mismatch, name_mismatch
from filtersurgeon.networks.signature import Shapes, adaptable_modules
from filtersurgeon.networks.structure import replay, stated_values
from filtersurgeon.networks.structure.plain_weights import modules_in_parts, weight_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

Before = Mapping[str, tuple[int, ...]]
Rule = Callable[[Any, Before, Container[str]], None]

CHANNEL_COUNTS = ("num_features", "num_channels", "num_parameters")
"""Names that modules of one value per channel (normalisations, PReLU) give to their number."""


def mirror(module: Any, before: Before, stated: Container[str] = frozenset()) -> None:
    """Set a module's integers to match its tensors.

    Args:
        module: any module, its tensors resized.
        before: the shapes that its resized tensors had, by name.
        stated: attributes that are known, and stay.

    Raises:
        ArchitectureError: no integers can match.
    """
    for kind, rule in _rules():
        if isinstance(module, kind):
            rule(module, before, stated)
            return
    _channelwise(module, before, stated)


@cache
def _rules() -> list[tuple[Any, Rule]]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    return [
        (_ConvTransposeNd, _transposed),
        (_ConvNd, _convolution),
        (nn.Linear, _linear),
        (nn.Bilinear, _bilinear),
        (nn.RNNBase, _recurrent),
        (nn.RNNCellBase, _recurrent),
        (nn.MultiheadAttention, _multi_head),
    ]


def _convolution(module: Any, before: Before, stated: Container[str]) -> None:
    """``weight`` is (out, in per group, ...)."""
    new = weight_shape(module)
    old = before.get("weight", new)
    if "groups" not in stated:
        module.groups = _groups(module.groups, (old[0], old[1]), new)
    module.out_channels = _divisible(new[0], module.groups)
    module.in_channels = new[1] * module.groups


def _transposed(module: Any, before: Before, stated: Container[str]) -> None:
    """``weight`` is (in, out per group, ...)."""
    new = weight_shape(module)
    old = before.get("weight", new)
    if "groups" not in stated:
        module.groups = _groups(module.groups, (old[0], old[1]), new)
    module.in_channels = _divisible(new[0], module.groups)
    module.out_channels = new[1] * module.groups


def _groups(groups: int, old: tuple[int, int], new: tuple[int, ...]) -> int:
    """Find the number of groups after channels went.

    Where the groups are as deep as before, whole ones went (of a depthwise convolution, whose
    groups are one deep, nothing else can go); else each of them lost some.

    Args:
        groups: how many there were.
        old: sizes of the weight's axis that all groups share, and of the one within a group.
        new: the same two sizes now, first in the shape.
    """
    share = old[0] // groups
    whole = groups > 1 and new[1] == old[1] and new[0] % share == 0
    return new[0] // share if whole else groups


def _divisible(channels: int, groups: int) -> int:
    if groups < 1 or channels % groups:
        raise ArchitectureError(f"{channels} channels do not divide into {groups} groups")
    return channels


def _linear(module: Any, _before: Before, _stated: Container[str]) -> None:
    module.out_features, module.in_features = weight_shape(module)


def _bilinear(module: Any, _before: Before, _stated: Container[str]) -> None:
    module.out_features, module.in1_features, module.in2_features = weight_shape(module)


def _recurrent(module: Any, _before: Before, _stated: Container[str]) -> None:
    """Rows are the units of every gate; a projection, if there is one, is (outputs, units)."""
    end = "_l0" if hasattr(module, "weight_ih_l0") else ""
    module.input_size = getattr(module, f"weight_ih{end}").shape[1]
    module.hidden_size = getattr(module, f"weight_hh{end}").shape[1]
    if getattr(module, "proj_size", 0):
        module.proj_size, module.hidden_size = module.weight_hr_l0.shape


def _multi_head(module: Any, _before: Before, stated: Container[str]) -> None:
    """Heads keep their length; all of them together are as wide as the queries."""
    packed = module.in_proj_weight
    weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    widths = [(packed if weight is None else weight).shape[1] for weight in weights]
    module.embed_dim, module.kdim, module.vdim = widths
    if "num_heads" not in stated:
        if module.embed_dim % module.head_dim:
            raise ArchitectureError(
                f"{module.embed_dim} channels do not divide into heads of {module.head_dim}"
            )
        module.num_heads = module.embed_dim // module.head_dim


def _channelwise(module: Any, before: Before, stated: Container[str]) -> None:
    """One value per channel in every tensor; other modules have none of these attributes."""
    name, old = next(iter(before.items()))
    new = tuple(getattr(module, name).shape)
    if getattr(module, "normalized_shape", None) is not None and "normalized_shape" not in stated:
        module.normalized_shape = new
    for count in CHANNEL_COUNTS:
        known = type(getattr(module, count, None)) is int and count not in stated
        if known and len(new) == 1 and getattr(module, count) == old[0]:
            setattr(module, count, new[0])


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


HEAD_INPUTS = ("num_features", "head_hidden_size")
"""Names that timm's networks give to the number of channels before the classifier."""


def restructure(model: nn.Module, structure: Sequence[Mapping[str, Any]], shapes: Shapes) -> None:
    """Replay edits of the module tree, then give every tensor its shape, in place.

    Whether the layers go together is not tried; see :func:`filtersurgeon.networks.dry_run`.

    Args:
        model: the network as its architecture makes it, classes and input channels adapted.
        structure: a checkpoint's edits of the module tree.
        shapes: shapes of all its tensors, by name.

    Raises:
        CheckpointError: an edit that this network does not take.
        ArchitectureError: tensors of other names, or shapes that no number of channels gives.
    """
    replay(model, structure)
    difference = name_mismatch(model, shapes)
    if difference:
        raise ArchitectureError(difference)
    inputs = _head_inputs(model)
    resize(model, shapes, stated_values(structure))
    for name in HEAD_INPUTS:
        if inputs is not None and getattr(model, name, None) == inputs:
            setattr(model, name, _head_inputs(model))
    difference = mismatch(model, shapes)
    if difference:
        raise ArchitectureError(difference)


def _head_inputs(model: nn.Module) -> int | None:
    """Give the number of channels that a network's classifier takes, if it has one."""
    modules = dict(model.named_modules())
    for name in adaptable_modules(model)[0]:
        head = modules.get(name)
        found = getattr(head, "in_features", getattr(head, "in_channels", None))
        if isinstance(found, int):
            return found
    return None


def follow(own: Shapes, reference: Shapes, shapes: Shapes) -> Shapes:
    """Give shapes the classes and input channels in which one network differs from another.

    Args:
        own: shapes of a network as its architecture makes it.
        reference: shapes of the same architecture with other classes or input channels.
        shapes: shapes of the reference after pruning.

    Returns:
        The shapes after the same pruning of the network: the sizes in which it differs from the
        reference are its own, and tensors that it lacks (a classifier of no classes) are left out.
    """
    followed = {}
    for name, shape in shapes.items():
        if name in own and len(own[name]) == len(reference.get(name, ())) == len(shape):
            sizes = zip(own[name], reference[name], shape, strict=True)
            followed[name] = tuple(new if new != old else size for new, old, size in sizes)
        elif name in own or name not in reference:
            followed[name] = shape
    return followed
