"""The integers in which modules mirror the shapes of their tensors.

To add a kind of module, write a rule and put it into ``_rules``. A rule sets the integers of a
module whose tensors have their new shapes already; ``before`` are the shapes that changed, by
name, and ``stated`` the attributes that are known and must be left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from functools import cache
from typing import Any

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.structure.plain_weights import weight_shape

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

    return [(_ConvTransposeNd, _transposed), (_ConvNd, _convolution), (nn.Linear, _linear)]


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
