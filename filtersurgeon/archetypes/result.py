"""What an archetypal analysis returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class Archetypes:
    """The solution of ``min ||X - X B A||_F^2`` with the columns of A and B on simplices.

    X (l, N) holds one filter per column, N filters of l weights, as in the paper.

    Attributes:
        coefficients: A (d, N), every column non-negative with sum 1 and exact zeros; an exact
            optimum for these archetypes.
        weights: B (N, d), every column non-negative with sum 1 and exact zeros. Exact copies of
            a filter share its weight equally.
        archetypes: the archetypes as rows (d, l), or (d, 0) when only a Gram matrix was given.
        objective: ``sum_n w_n ||x_n - X B a_n||^2``, where w are the sample weights (1 without).
        relative_error: root of the objective over that of ``sum_n w_n ||x_n - mean||^2``; 0 when
            all filters are equal.
        n_iter: sweeps over A and B.
        converged: whether the stopping rule was met before ``max_iter``.
        history: objective before every update of B, in order; it never increases.
        coefficients_unique: False when there are more archetypes than the dimension of the
            filters' affine hull plus one, so that a filter has many exact decompositions and
            the number of non-zeros in its column is one of several.
    """

    coefficients: Floats
    weights: Floats
    archetypes: Floats
    objective: float
    relative_error: float
    n_iter: int
    converged: bool
    history: tuple[float, ...]
    coefficients_unique: bool

    @property
    def n_archetypes(self) -> int:
        """How many archetypes there are: at most the number of distinct filters."""
        return self.coefficients.shape[0]
