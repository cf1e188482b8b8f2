"""What the solver is given and gives back: options, checked filters, and archetypes.

Filters are centred, deduplicated, and brought into an order that depends on their values only.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filtersurgeon.errors import LayerError, OptionError, near_misses

STARTS = ("successive-projection", "convex-hull", "furthest-sum")


class Search(TypedDict, total=False):
    """Keywords of the solver but for the device; `Settings` says what they mean."""

    init: str
    n_init: int | None
    tol: float
    max_iter: int
    random_state: int
    coreset_size: int | None


class Options(Search, total=False):
    """Keywords of the solver; `Settings` says what they mean and holds their defaults."""

    device: str | None


@dataclass(frozen=True)
class Settings:
    """How to solve.

    Attributes:
        init: filters to start from: ``successive-projection`` (each the farthest from the span
            of those before), ``convex-hull`` (the farthest from their hull; often a little better
            and a little slower) or ``furthest-sum``, which alone draws something at random.
        n_init: how many starts to try, `init` first; the best solution is kept. None tries 4 in
            layers of up to 128 filters, where that takes milliseconds. There, and in wider layers
            whose filters have few weights, it also starts two or three times with too many
            archetypes and removes those that are missed least, which finds more than 50 starts
            find; one start is tried in others.
        tol: stop when a sweep over A and B lowers the objective by less than this share of it
            (or of a thousandth of the spread, if that is more), and the Frank-Wolfe duality gap
            met in that sweep is below 100 times this share of the spread, which is the objective
            of a single archetype at the mean.
        max_iter: sweeps at most.
        random_state: seed of everything drawn at random.
        coreset_size: find the archetypes from a weighted sample of so many filters only, for
            layers that are too wide for their Gram matrix; None takes all of them. All filters
            are modelled either way.
        device: where PyTorch alternates, such as ``cuda``; None stays with the compiled code
            for the CPU.
    """

    init: str = "successive-projection"
    n_init: int | None = None
    tol: float = 1e-5
    max_iter: int = 300
    random_state: int = 0
    coreset_size: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.init not in STARTS:
            raise OptionError(f"unknown start {self.init!r}{near_misses(self.init, STARTS)}")
        if self.n_init is not None and self.n_init < 1:
            raise OptionError(f"at least one start is needed, not {self.n_init}")
        if not 0 <= self.tol < 1:
            raise OptionError(f"the tolerance must be in [0, 1), not {self.tol}")
        if self.max_iter < 1:
            raise OptionError(f"at least one sweep is needed, not {self.max_iter}")
        if self.coreset_size is not None and self.coreset_size < 1:
            raise OptionError(f"a coreset needs at least one filter, not {self.coreset_size}")


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


ROOM = 256 << 20
"""Bytes that compiling, or the working space of matrix products, takes at most."""


def check_room() -> None:
    """Raise MemoryError where memory is too short, while there is a process to raise it.

    LLVM and OpenBLAS report no error: the one aborts, the other exits.
    """
    try:
        mmap.mmap(-1, ROOM).close()
    except OSError:
        raise MemoryError("no room to compile") from None


# Squared distances below this share of the largest squared norm are rounding of equal points.
_EQUAL = 1e-13


@dataclass(frozen=True)
class Problem:
    """Distinct filters in the Gram domain, and how they stand for the caller's.

    Attributes:
        gram: inner products of the n distinct filters about their weighted mean (n, n).
        mass: weight of every distinct filter in the objective (n,).
        members: for each of the caller's N filters, which distinct filter it equals (N,).
        factor: the centred filters (n, l) when l is so small that products with them are
            cheaper than products with `gram`, else None.
    """

    gram: Floats
    mass: Floats
    members: Integers
    factor: Floats | None = None

    @property
    def size(self) -> int:
        """How many distinct filters there are."""
        return self.gram.shape[0]

    @property
    def spread(self) -> float:
        """Objective of a single archetype at the mean: the weighted sum of squared norms."""
        return float(self.mass @ self.gram.diagonal())

    def multiply(self, rows: Floats) -> Floats:
        """Give `rows @ gram` (k, n)."""
        if self.factor is None:
            return rows @ self.gram
        return (rows @ self.factor) @ self.factor.T


@dataclass(frozen=True)
class Points:
    """Distinct filters, before their Gram matrix.

    Attributes:
        X: the distinct filters about their weighted mean (n, l), in an order of their own.
        mean: that mean (l,).
        mass: weight of every distinct filter in the objective (n,).
        members: for each of the caller's N filters, which distinct filter it equals (N,).
    """

    X: Floats
    mean: Floats
    mass: Floats
    members: Integers

    def problem(self) -> Problem:
        """Go over to the Gram domain."""
        X = self.X
        factor = X if 4 * X.shape[1] <= len(X) else None
        return Problem(X @ X.T, self.mass, self.members, factor)


def distinct_points(X: Floats, sample_weight: ArrayLike | None) -> Points:
    """Put exact copies together and the origin into the mean.

    Args:
        X: one filter per row (N, l), checked.
        sample_weight: weights of the filters in the objective (N,), or None for ones.

    Returns:
        The distinct filters. Permuting the rows permutes `members` and changes nothing else,
        because they are put in order by their first weights and then by the bytes of all.

    Raises:
        LayerError: unusable weights.
    """
    distinct, members = _distinct_rows(X)
    mass = _masses(sample_weight, members, len(distinct))
    mean = mass @ distinct / mass.sum()
    distinct -= mean
    return Points(distinct, mean, mass, members)


def problem_from_gram(gram: ArrayLike, sample_weight: ArrayLike | None) -> Problem:
    """Prepare a Gram matrix of filters, centred or not.

    Args:
        gram: (N, N), symmetric and positive semi-definite.
        sample_weight: weights of the filters in the objective (N,), or None for ones.

    Returns:
        The problem. Filters are put in order by their norms, then by their smallest inner
        product, so permuting the matrix permutes the answer unless two filters agree in both.

    Raises:
        LayerError: not a symmetric square matrix, a value that is not finite, a negative
            diagonal entry, or unusable weights.
    """
    G = np.asarray(gram, dtype=np.float64)
    if G.ndim != 2 or G.shape[0] != G.shape[1] or not G.size:
        raise LayerError(f"a Gram matrix is square and not empty, but this has shape {G.shape}")
    if not np.isfinite(G).all():
        raise LayerError("some inner products are not finite, so there are no archetypes")
    norms = G.diagonal()
    if norms.min() < 0 or np.abs(G - G.T).max() > 1e-6 * norms.max():
        raise LayerError("a Gram matrix is symmetric and its diagonal is not negative")
    order = np.lexsort((G.min(axis=1), norms))
    G = G[np.ix_(order, order)]
    twins = G.diagonal()[:, None] + G.diagonal() - 2 * G <= _EQUAL * norms.max()
    first, position = np.unique(np.argmax(twins, axis=1), return_inverse=True)
    members = np.empty(len(order), np.intp)
    members[order] = position
    mass = _masses(sample_weight, members, len(first))
    return Problem(_double_centred(G[np.ix_(first, first)], mass), mass, members)


def nearest_only(C: Floats, squares: Floats) -> Floats:
    """Model every filter by the nearest archetype alone.

    Args:
        C: inner products of filters and archetypes (n, d).
        squares: squared norms of the archetypes (d,).

    Returns:
        A (n, d), a single one in every row.
    """
    A = np.zeros(C.shape)
    A[np.arange(len(A)), np.argmin(squares - 2 * C, axis=1)] = 1.0
    return A


def check_filters(filters: ArrayLike) -> Floats:
    """Give filters as a finite C-ordered float64 matrix (N, l), or raise `LayerError`."""
    check_room()
    X = np.asarray(filters)
    if X.ndim != 2 or 0 in X.shape:
        raise LayerError(f"archetypes need a matrix with one filter per row, not shape {X.shape}")
    X = np.ascontiguousarray(X, dtype=np.float64)
    if not np.isfinite(X).all():
        raise LayerError("some weights are not finite, so there are no archetypes")
    return X


def _distinct_rows(X: Floats) -> tuple[Floats, Integers]:
    """Give the distinct rows of X in an order of their own, and for each row its position."""
    order = np.argsort(X[:, 0])
    first = X[order, 0]
    if (first[1:] > first[:-1]).all():
        members = np.empty(len(X), np.intp)
        members[order] = np.arange(len(X))
        return X[order], members
    X = X + 0.0  # negative zeros have other bytes
    rows = X.view(np.dtype((np.void, X.itemsize * X.shape[1]))).ravel()
    _, position, members = np.unique(rows, return_index=True, return_inverse=True)
    rank = np.argsort(X[position, 0], kind="stable")
    return X[position[rank]], np.argsort(rank)[members]


def _masses(sample_weight: ArrayLike | None, members: Integers, size: int) -> Floats:
    """Add up the weights of the filters that each distinct filter stands for."""
    if sample_weight is None:
        sample_weight = np.ones(members.shape)
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != members.shape:
        raise LayerError(f"{members.size} filters need as many weights, not shape {weight.shape}")
    if not np.isfinite(weight).all() or weight.min() < 0 or weight.max() == 0:
        raise LayerError("the filters' weights must be finite, not negative and not all zero")
    return np.bincount(members, weights=weight, minlength=size).astype(np.float64)


def _double_centred(G: Floats, mass: Floats) -> Floats:
    """Move the origin of a Gram matrix to the weighted mean."""
    mean = mass @ G / mass.sum()
    centred: Floats = G - mean[:, None] - mean + mass @ mean / mass.sum()
    return centred
