"""The alternating solution in PyTorch, for layers of equal size side by side.

It makes the same moves as the compiled code, in lock-step over layers and filters, so on a GPU
it pays for many layers or wide ones. Everything is float64, as on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.archetypes import alternation
from filtersurgeon.archetypes.alternation import CAREFUL, Alternation, State
from filtersurgeon.archetypes.problem import Problem
from filtersurgeon.archetypes.start import Start


@dataclass
class Layers:
    """Problems and their states, L layers of n filters and d archetypes.

    Attributes:
        gram: (L, n, n).
        mass: (L, n).
        A: coefficients (L, n, d).
        B: weights (L, d, n).
        GB: B times the Gram matrix (L, d, n).
    """

    gram: Tensor
    mass: Tensor
    A: Tensor
    B: Tensor
    GB: Tensor

    def take(self, rows: Tensor) -> Layers:
        """Copy some of the layers."""
        return Layers(*(value[rows] for value in vars(self).values()))

    def copy(self) -> Layers:
        """Copy the states of all layers."""
        states = self.A.clone(), self.B.clone(), self.GB.clone()
        return Layers(self.gram, self.mass, *states)

    def put(self, rows: Tensor, other: Layers) -> None:
        """Overwrite the states of some of the layers."""
        self.A[rows], self.B[rows], self.GB[rows] = other.A, other.B, other.GB

    def norms(self) -> Tensor:
        """Squared norms of the filters (L, n)."""
        return self.gram.diagonal(dim1=1, dim2=2)


@dataclass(frozen=True)
class Ended:
    """Where the alternations of several layers ended.

    Attributes:
        layers: the solutions.
        histories: of each layer, the objective before every update of B.
        converged: of each, whether the stopping rule was met.
    """

    layers: Layers
    histories: list[list[float]]
    converged: list[bool]

    def alternations(self) -> list[Alternation]:
        """Copy each solution to the host."""
        parts = [x.cpu().numpy() for x in (self.layers.A, self.layers.B, self.layers.GB)]
        return [
            Alternation(State(*(part[k] for part in parts)), tuple(history), self.converged[k])
            for k, history in enumerate(self.histories)
        ]


def alternate_layers(layers: Layers, tol: float, max_iter: int) -> Ended:
    """Do for several layers of equal size what `alternation.alternate_from` does for one.

    Args:
        layers: where to begin; stays as it is.
        tol: as in `Settings`.
        max_iter: likewise.
    """
    spread = (layers.mass * layers.norms()).sum(1)
    alive = torch.arange(len(spread), device=spread.device)
    momentum = torch.full_like(spread, alternation.MOMENTUM)
    last = torch.full_like(spread, torch.inf)
    histories: list[list[float]] = [[] for _ in range(len(spread))]
    ended, converged = layers.copy(), [False] * len(spread)
    previous = layers
    for sweep in range(max_iter):
        kept = layers.copy()
        ahead = layers.copy()
        steps = CAREFUL.steps if sweep else CAREFUL.first_steps
        if sweep > 1:
            _extrapolate(ahead, previous, momentum)
        objective, gap = _sweep_coefficients(ahead, steps)
        momentum = (1.1 * momentum).clamp(max=alternation.MOMENTUM)
        worse = (objective > last).nonzero()[:, 0]
        if len(worse):
            back = kept.take(worse)
            objective[worse], gap[worse] = _sweep_coefficients(back, steps)
            ahead.put(worse, back)
            momentum[worse] /= 2.0
        gap = gap + _sweep_weights(ahead)
        numbers = alive.tolist()
        for k, value in zip(numbers, objective.tolist(), strict=True):
            histories[k].append(value)
        least = tol * objective.maximum(alternation.SMALL * spread)
        done = (last - objective <= least) & torch.isfinite(last)
        done &= gap <= alternation.GAP * tol * spread
        done |= objective <= alternation.EXACT * spread
        finished = done | (sweep == max_iter - 1)
        rows = finished.nonzero()[:, 0]
        if len(rows):
            ended.put(alive[rows], ahead.take(rows))
            for k, met in zip(alive[rows].tolist(), done[rows].tolist(), strict=True):
                converged[k] = met
        on = (~finished).nonzero()[:, 0]
        if not len(on):
            break
        layers, previous, last = ahead, kept, objective
        if len(on) < len(alive):
            layers, previous, last = ahead.take(on), kept.take(on), objective[on]
            spread, momentum, alive = spread[on], momentum[on], alive[on]
    return Ended(ended, histories, converged)


def first_layers(
    problems: Sequence[Problem], starts: Sequence[Start], device: torch.device
) -> Layers:
    """Put problems of equal size onto a device, with the states that starts give them."""
    firsts = [
        alternation.first_state(problem, start)
        for problem, start in zip(problems, starts, strict=True)
    ]
    arrays = (
        [problem.gram for problem in problems],
        [problem.mass for problem in problems],
        [first.A for first in firsts],
        [first.B for first in firsts],
        [first.GB for first in firsts],
    )
    return Layers(*(torch.from_numpy(np.stack(each)).to(device) for each in arrays))


def _extrapolate(layers: Layers, previous: Layers, momentum: Tensor) -> None:
    """Go on from `layers` in the direction from `previous`, without leaving the simplices."""
    step = momentum[:, None, None]
    A = (layers.A + step * (layers.A - previous.A)).clamp(min=0.0)
    layers.A = A / A.sum(2, keepdim=True)
    B = layers.B + step * (layers.B - previous.B)
    total = B.clamp(min=0.0).sum(2, keepdim=True)
    ahead = layers.GB + step * (layers.GB - previous.GB)
    layers.GB = (ahead - B.clamp(max=0.0) @ layers.gram) / total
    layers.B = B.clamp(min=0.0) / total


def _sweep_coefficients(layers: Layers, steps: int) -> tuple[Tensor, Tensor]:
    """Improve A; give the objectives and A's parts of the duality gaps (L,)."""
    C = layers.GB.transpose(1, 2)
    H = layers.GB @ layers.B.transpose(1, 2)
    gradient = layers.A @ H - C
    gap = (layers.A * gradient).sum(2) - gradient.amin(2)
    pair_steps(layers.A, gradient, H, steps)
    errors = layers.mass * (layers.norms() + (layers.A * (gradient - C)).sum(2))
    gaps = 2.0 * (layers.mass * gap).sum(1)
    used = (layers.mass[:, None] @ layers.A)[:, 0] > 0.0
    for row in (~used.all(1)).nonzero()[:, 0].tolist():
        if _move_unused(layers, row, ~used[row], errors[row]):
            gaps[row] = torch.inf
    return errors.sum(1).clamp(min=0.0), gaps


def _move_unused(layers: Layers, row: int, unused: Tensor, errors: Tensor) -> bool:
    """Put the unused archetypes of one layer onto its worst modelled filters."""
    idle = unused.nonzero()[:, 0]
    worst = torch.argsort(errors, descending=True, stable=True)[: len(idle)]
    spread = layers.mass[row] @ layers.norms()[row]
    idle = idle[errors[worst] > alternation.NOTHING * spread]
    worst = worst[: len(idle)]
    layers.B[row, idle] = 0.0
    layers.B[row, idle, worst] = 1.0
    layers.GB[row, idle] = layers.gram[row, worst]
    return len(idle) > 0


def _sweep_weights(layers: Layers) -> Tensor:
    """Improve one archetype after the other; give B's parts of the duality gaps (L,)."""
    weighted = (layers.A * layers.mass[:, :, None]).transpose(1, 2)
    M = weighted @ layers.A
    Q = weighted @ layers.gram
    gap = torch.zeros_like(layers.mass[:, 0])
    for start in range(0, M.shape[1], alternation.BLOCK):
        block = slice(start, start + alternation.BLOCK)
        gradient = M[:, block] @ layers.GB - Q[:, block]
        gap += (layers.B[:, block] * gradient).sum((1, 2)) - gradient.amin(2).sum(1)
        for j in range(gradient.shape[1]):
            _improve_archetype(layers, gradient, M[:, block, block], start, j)
    return 2.0 * gap


def _improve_archetype(layers: Layers, gradient: Tensor, M: Tensor, start: int, j: int) -> None:
    """Improve archetype `start + j` of every layer, and the gradients of those after it."""
    scale = M[:, j, j]
    used = (scale > 0.0)[:, None]
    before = torch.where(used, gradient[:, j] / scale.where(used[:, 0], 1.0)[:, None], 0.0)
    slope = before[:, None].clone()
    rows = layers.B[:, start + j : start + j + 1]
    pair_steps(rows, slope, layers.gram, alternation.STEPS_B)
    moved = slope[:, 0] - before
    layers.GB[:, start + j] += moved
    gradient[:, j + 1 :] += M[:, j + 1 :, j, None] * moved[:, None]


def pair_steps(
    points: Tensor, gradient: Tensor, hessian: Tensor, steps: int, layer: Tensor | None = None
) -> None:
    """Move mass between pairs of coordinates (see the compiled kernel of that name).

    Args:
        points: rows on simplices (L, m, k), updated in place; or (m, k), with `layer`.
        gradient: of the quadratics, in the same shape, updated in place.
        hessian: shared by the rows of a layer (L, k, k).
        steps: how many for each row.
        layer: the layer of each row (m,), where rows of several layers come in one list.
    """
    if layer is None:
        layer = torch.arange(len(points), device=points.device)[:, None]
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    for _ in range(steps):
        low, taker = gradient.min(-1)
        high, giver = gradient.where(points > 0.0, -torch.inf).max(-1)
        to, away = hessian[layer, taker], hessian[layer, giver]
        curvature = diagonal[layer, taker] + diagonal[layer, giver]
        curvature -= 2.0 * to.gather(-1, giver[..., None])[..., 0]
        available = points.gather(-1, giver[..., None])[..., 0]
        way = high - low
        mass = available.where(way >= curvature * available, way / curvature)
        mass = torch.where(way > 0.0, mass, 0.0)[..., None]
        points.scatter_add_(-1, giver[..., None], -mass)
        points.scatter_add_(-1, taker[..., None], mass)
        gradient += mass * (to - away)
