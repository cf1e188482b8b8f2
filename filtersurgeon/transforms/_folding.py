"""Moving the scales of depthwise kernels into the layers that follow, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.banks.closest import ClosestFit
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.weight_parts import one_tensor
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import FilterLayer
from filtersurgeon.graph.follow import Follower, find_followers

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-5
_MIN_SHARE = 1e-6  # of the kernel: a smaller member drowns in rounding beside its offset


@dataclass(frozen=True)
class ScaledKernels:
    """The kernels of a layer as ``scale * (member + shift)``.

    Attributes:
        layer: a depthwise convolution of N kernels.
        members: ``(N, m)`` float64, bank members as the bank has them.
        scale: ``(N,)``; 0 where the kernel is constant.
        shift: ``(N,)``; where the scale is 0, the constant itself.
    """

    layer: FilterLayer
    members: np.ndarray
    scale: np.ndarray
    shift: np.ndarray


def fold(checkpoint: Checkpoint, kernels: Sequence[ScaledKernels]) -> dict[str, StoredTensor]:
    """Leave kernels ``member + shift``, and let the layers that follow take the scales up.

    Where a batch normalisation follows, its running mean and variance take the scale, so that it
    is right in training too, and its weight takes the sign; where weights follow, their input
    columns do.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 4.1.

    Args:
        checkpoint: the network; its architecture must be known.
        kernels: the layers.

    Returns:
        The tensors that change, by name.

    Raises:
        ArchitectureError: the network cannot be built.
        GraphError: it does not run without data.
        LayerError: a scale cannot move exactly.
    """
    from filtersurgeon.graph.graph import trace_shapes
    from filtersurgeon.networks.build import build
    from filtersurgeon.networks.dry_run import find_size
    from filtersurgeon.networks.structure.plain_weights import make_all_plain

    model = build(checkpoint)
    make_all_plain(model)
    trace = trace_shapes(model, find_size(model, checkpoint))
    followers = find_followers(model, trace, [each.layer.name for each in kernels])
    replaced = {each.layer.name for each in kernels}
    edited: dict[str, np.ndarray] = {}
    for each in kernels:
        follower = followers[each.layer.name]
        if follower.name in replaced:
            raise LayerError(
                f"layer {each.layer.name}: its scale would move into {follower.name}, which is "
                f"replaced too; leave one out with `layers` '!{follower.name}'"
            )
        scale, kept = _usable(each, follower.positive)
        edited[each.layer.tensor] = kept.reshape(each.layer.shape)
        bias = f"{each.layer.name}.bias"
        if bias in checkpoint:
            edited[bias] = checkpoint[bias].array() / scale
        edited |= _taken_up(checkpoint, model, follower, scale)
    return {
        name: StoredTensor.from_array(values, one_tensor(checkpoint.tensors, name).dtype)
        for name, values in edited.items()
    }


def _usable(each: ScaledKernels, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Give the scales that move ``(N,)``, and the kernels ``(N, m)`` that stay."""
    limit = _MIN_SHARE * np.abs(each.shift) * each.members.shape[1] ** 0.5
    moves = (each.scale != 0) & (np.linalg.norm(each.members, axis=1) > limit)
    scale = np.where(moves, each.scale, 1.0)
    # Rounded first, so that a file that holds the shift in place of the kernel gives the same one.
    exact = np.float64 if each.layer.stored.dtype == "F64" else np.float32
    kernels = each.members + each.shift.astype(exact).astype(np.float64)[:, None]
    kernels[~moves] *= each.scale[~moves, None]
    constant = each.scale == 0
    kernels[constant] = each.shift[constant, None]
    if positive:
        signs = np.sign(scale)
        scale, kernels = scale * signs, kernels * signs[:, None]
    return scale, kernels


def _taken_up(
    checkpoint: Checkpoint, model: nn.Module, follower: Follower, scale: np.ndarray
) -> dict[str, np.ndarray]:
    """Give the follower's tensors, with the scale of each of its input channels in them."""
    if follower.kind == "weight":
        name = f"{follower.name}.weight"
        weight = one_tensor(checkpoint.tensors, name).array().astype(np.float64)
        return {name: weight * _per_column(weight.shape, scale, follower.groups)}
    names = {part: f"{follower.name}.{part}" for part in ("weight", "running_mean", "running_var")}
    weight, mean, var = (checkpoint[name].array().astype(np.float64) for name in names.values())
    eps = float(model.get_submodule(follower.name).eps)  # type: ignore[arg-type]
    # The variance of what now comes in. Below zero it cannot go; the weight takes the rest.
    var_now = np.maximum((var + eps) / scale**2 - eps, 0.0).astype(np.float32).astype(np.float64)
    weight = weight * scale * np.sqrt((var_now + eps) / (var + eps))
    return dict(zip(names.values(), (weight, mean / scale, var_now), strict=True))


def _per_column(shape: tuple[int, ...], scale: np.ndarray, groups: int) -> np.ndarray:
    """Spread channel factors over a weight ``(out, in/groups, ...)``."""
    per_group = scale.reshape(groups, -1)
    repeats = shape[1] // per_group.shape[1]  # positions of each channel, after a flatten
    columns = np.repeat(per_group, repeats, axis=1)
    rows = np.repeat(columns, shape[0] // groups, axis=0)
    return rows.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))


def check_outputs(before: Checkpoint, after: Checkpoint) -> float:
    """Compare two networks on random images, in float64.

    Args:
        before: one network.
        after: the same, folded.

    Returns:
        ``||after - before|| / ||before||`` of the outputs.

    Raises:
        LayerError: they differ by more than 1e-5.
    """
    from filtersurgeon.networks.build import build
    from filtersurgeon.networks.dry_run import find_size
    from filtersurgeon.networks.outputs import output_difference

    models = [build(checkpoint) for checkpoint in (before, after)]
    difference = output_difference(models[0], models[1], find_size(models[0], before))
    if not difference <= TOLERANCE:
        raise LayerError(
            f"folding would change the outputs of {before.name} by {difference:.1e} of their size "
            f"(at most {TOLERANCE:g}); leave out `fold`, or store the network in float32"
        )
    return difference


def scaled_kernels(
    layer: FilterLayer, bank: np.ndarray, fit: ClosestFit, bias: bool
) -> ScaledKernels:
    """Write ``a * unit member + b`` as ``scale * (member + shift)``.

    Args:
        layer: N kernels.
        bank: ``(K, m)`` members as the bank has them.
        fit: the closest transform of each kernel.
        bias: whether its members are free of their means.
    """
    members = bank[fit.choice]
    means = members.mean(axis=1) if bias else np.zeros(len(members))
    norms = np.linalg.norm(members - means[:, None], axis=1)
    a, b = fit.scale.astype(np.float64), fit.offset.astype(np.float64)
    usable = (a != 0) & (norms > 0)
    scale = np.divide(a, norms, out=np.zeros_like(a), where=usable)
    shift = np.divide(b, scale, out=np.zeros_like(b), where=usable) - means
    return ScaledKernels(layer, members, scale, np.where(usable, shift, b))
