"""The search for archetypes in PyTorch: what is planned for many layers, side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from filtersurgeon.archetypes import alternation, elimination
from filtersurgeon.archetypes.alternation import Alternation
from filtersurgeon.archetypes.elimination import Plan
from filtersurgeon.archetypes.problem import Problem, Settings
from filtersurgeon.archetypes.start import Start
from filtersurgeon.archetypes.torch_alternation import (
    Layers,
    alternate_layers,
    first_layers,
    pair_steps,
)
from filtersurgeon.networks.devices import FittingBatches

_NUMBERS = 1 << 27
"""Numbers of the Gram matrices of layers that are solved side by side at most."""
_Try = tuple[int, int, Start]
"""The number of a layer, the place of a try in its plan, and where it begins."""
_ROWS = 1 << 24
"""Numbers of the rows that are modelled anew at a time."""


def search_together(
    problems: Sequence[Problem], plans: Sequence[Plan], settings: Settings
) -> list[list[Alternation]]:
    """Do what is planned for several layers; those of equal size go through it side by side.

    Args:
        problems: the filters of each layer.
        plans: what is tried in each.
        settings: how to solve, and the device.

    Returns:
        Of each layer, the solutions in the order of its plan.

    Raises:
        OutOfMemoryError: one layer alone does not fit into the device's memory.
    """
    alike: dict[tuple[int, int, int, int], list[_Try]] = defaultdict(list)
    for k, (problem, plan) in enumerate(zip(problems, plans, strict=True)):
        tried = [*((start, 0) for start in plan.starts), *plan.eliminations]
        for place, (start, step) in enumerate(tried):
            alike[problem.size, len(start.picks), plan.n_archetypes, step].append((k, place, start))
    found: list[dict[int, Alternation]] = [{} for _ in problems]
    for (size, _, n_archetypes, step), members in alike.items():
        solve = partial(_solve, problems, members, n_archetypes, step, settings)
        together = FittingBatches(max(1, _NUMBERS // size**2), "layers side by side")
        for ended, numbers in together.run(solve, torch.arange(len(members))):
            for number, each in zip(numbers.tolist(), ended, strict=True):
                k, place, _ = members[number]
                found[k][place] = each
    return [[each[place] for place in sorted(each)] for each in found]


def _solve(
    problems: Sequence[Problem],
    members: Sequence[_Try],
    n_archetypes: int,
    step: int,
    settings: Settings,
    numbers: Tensor,
) -> list[Alternation]:
    """Do what was planned under some numbers, side by side."""
    part = [members[number] for number in numbers.tolist()]
    layers = first_layers(
        [problems[k] for k, _, _ in part],
        [start for _, _, start in part],
        torch.device(settings.device or "cpu"),
    )
    if step:
        layers = eliminate_together(layers, n_archetypes, step, settings.tol)
    return alternate_layers(layers, settings.tol, settings.max_iter).alternations()


def eliminate_together(layers: Layers, n_archetypes: int, step: int, tol: float) -> Layers:
    """Remove archetypes of layers of equal size until as many are left as are wanted.

    Args:
        layers: where to begin, with too many archetypes; stays as it is.
        n_archetypes: how many are left at the end.
        step: how many go between two alternations.
        tol: as in `Settings`.

    Returns:
        The layers after the last removal, which no alternation has followed yet.
    """
    layers = alternate_layers(layers, tol, elimination.SWEEPS).layers
    while layers.B.shape[1] > n_archetypes:
        costs = removal_costs(layers)
        for _ in range(min(step, layers.B.shape[1] - n_archetypes)):
            left = _others(costs.argmin(1), costs.shape[1])
            layers, costs = _keep(layers, left), costs.gather(1, left)
        if layers.B.shape[1] > n_archetypes:
            layers = alternate_layers(layers, tol, elimination.SWEEPS_BETWEEN).layers
    return layers


def removal_costs(layers: Layers) -> Tensor:
    """Estimate how much each objective rises without each archetype, (L, d)."""
    C = layers.GB.transpose(1, 2)
    H = layers.GB @ layers.B.transpose(1, 2)
    gradient = layers.A @ H - C
    errors = (layers.A * (gradient - C)).sum(2)
    # Only filters that an archetype models miss it.
    used = layers.A.nonzero()
    rises = torch.zeros_like(layers.A)
    for layer, n, j in (part.T for part in used.split(max(1, _ROWS // layers.A.shape[2]))):
        a, slope, of = layers.A[layer, n], gradient[layer, n], j[:, None]
        own = a.gather(1, of)
        trial = a.scatter(1, of, 0.0)
        # The weight goes to the archetype by which the error rises least to first order.
        diagonal = H.diagonal(dim1=1, dim2=2)[layer]
        away = diagonal + diagonal.gather(1, of) - 2.0 * H[layer, j]
        change = own * (slope - slope.gather(1, of)) + 0.5 * own**2 * away
        best = change.scatter(1, of, torch.inf).argmin(1)
        trial.scatter_add_(1, best[:, None], own)
        slope = (slope + own * (H[layer, best] - H[layer, j])).scatter(1, of, torch.inf)
        pair_steps(trial, slope, H, elimination.STEPS, layer)
        after = (trial * (slope.scatter(1, of, 0.0) - C[layer, n])).sum(1)
        rises[layer, n, j] = layers.mass[layer, n] * (after - errors[layer, n]).clamp(min=0.0)
    return rises.sum(1)


def _others(gone: Tensor, count: int) -> Tensor:
    """Give the archetypes that are left without one, (L, d - 1)."""
    others = torch.arange(count - 1, device=gone.device)
    return others + (others >= gone[:, None]).long()


def _keep(layers: Layers, left: Tensor) -> Layers:
    """Keep some archetypes; filters that only the others modelled are modelled by the nearest."""
    of_filters = left[:, None].expand(-1, layers.A.shape[1], -1)
    of_rows = left[:, :, None].expand(-1, -1, layers.B.shape[2])
    A = layers.A.gather(2, of_filters)
    B, GB = layers.B.gather(1, of_rows), layers.GB.gather(1, of_rows)
    total = A.sum(2, keepdim=True)
    squares = (B * GB).sum(2)
    nearest = (squares[:, None] - 2.0 * GB.transpose(1, 2)).argmin(2, keepdim=True)
    alone = torch.zeros_like(A).scatter(2, nearest, 1.0)
    A = torch.where(total > alternation.NOTHING, A / total, alone)
    return Layers(layers.gram, layers.mass, A, B, GB)
