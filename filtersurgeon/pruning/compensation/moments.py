"""Sums over many rows from which a linear model is fitted."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 65536


class Moments:
    """Second moments of inputs, and of inputs with outputs, in float64.

    Args:
        inputs: numbers in a row of inputs.
        outputs: numbers in a row of outputs.
        device: where they are summed.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        zeros = torch.zeros(inputs + outputs, dtype=torch.float64, device=device)
        self._inputs = inputs
        self._rows = 0
        self._sums = zeros
        self._gram = zeros.new_zeros(inputs, inputs)
        self._cross = zeros.new_zeros(inputs, outputs)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows, ``(rows, inputs)`` and ``(rows, outputs)``."""
        for x, y in zip(inputs.split(_BLOCK), outputs.split(_BLOCK), strict=True):
            x, y = x.double(), y.double()
            self._rows += len(x)
            self._sums += torch.cat([x.sum(0), y.sum(0)])
            self._gram.addmm_(x.T, x)
            self._cross.addmm_(x.T, y)

    def fit(self, prior: Tensor, ridge: float, intercept: bool) -> tuple[Tensor, Tensor]:
        """Fit outputs by weights times inputs, plus a constant.

        ``argmin_{W, c} sum ||y - W x - c||^2 + ridge m ||W - prior||^2``, where m is the mean of
        the inputs' second moments (about their means, if there is a constant).

        Args:
            prior: weights ``(outputs, inputs)`` to stay near where the rows say little.
            ridge: how near; above 0.
            intercept: fit a constant; else it is zero.

        Returns:
            W ``(outputs, inputs)`` and c ``(outputs,)``, in float64.
        """
        start = prior.T.double()
        x, y = self._sums[: self._inputs], self._sums[self._inputs :]
        gram, cross = self._gram, self._cross
        if intercept:
            gram = gram - torch.outer(x, x) / self._rows
            cross = cross - torch.outer(x, y) / self._rows
        mean = gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        stiff = gram + ridge * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        step = torch.cholesky_solve(cross - gram @ start, torch.linalg.cholesky(stiff))
        weights = (start + step).T
        constant = (y - weights @ x) / self._rows if intercept else torch.zeros_like(y)
        return weights, constant
