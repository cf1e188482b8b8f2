"""What holds for every layer: simplices, monotony, equivariance, optimality of A."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from filtersurgeon.archetypes import Archetypes, archetypal_analysis

LAYERS = settings(max_examples=100)


@st.composite
def layers(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """A matrix of filters with the oddities of real layers, and a number of archetypes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, size = draw(st.integers(2, 40)), draw(st.integers(1, 30))
    X = rng.standard_normal((n, size))
    if draw(st.booleans()):
        X = np.round(X)
    if draw(st.booleans()):
        X[rng.integers(0, n, n // 3)] = 0.0
    if draw(st.booleans()):
        X[:, rng.random(size) < 0.5] = 0.0
    return X * draw(st.sampled_from([1e-4, 1.0, 1e3])), draw(st.integers(1, 12))


def centred(X: np.ndarray, found: Archetypes) -> tuple[np.ndarray, np.ndarray]:
    return X - X.mean(axis=0), found.archetypes - X.mean(axis=0)


@LAYERS
@given(layers())
def test_simplices_and_objective(layer: tuple[np.ndarray, int]) -> None:
    X, d = layer
    found = archetypal_analysis(X, d)
    for columns in (found.coefficients, found.weights):
        assert (columns >= 0).all()
        np.testing.assert_allclose(columns.sum(axis=0), 1.0, atol=1e-12)
    spread = ((X - X.mean(axis=0)) ** 2).sum()
    error = ((X - found.coefficients.T @ found.archetypes) ** 2).sum()
    np.testing.assert_allclose(found.objective, error, rtol=1e-8, atol=1e-12 * spread)
    np.testing.assert_allclose(found.relative_error**2 * spread, error, atol=1e-8 * spread)


@LAYERS
@given(layers())
def test_the_objective_never_rises(layer: tuple[np.ndarray, int]) -> None:
    X, d = layer
    found = archetypal_analysis(X, d, tol=0.0, max_iter=30)
    path = np.array([*found.history, found.objective])
    spread = ((X - X.mean(axis=0)) ** 2).sum()
    assert (np.diff(path) <= 1e-12 * spread).all()


@LAYERS
@given(layers())
def test_coefficients_meet_the_optimality_conditions(layer: tuple[np.ndarray, int]) -> None:
    X, d = layer
    found = archetypal_analysis(X, d, max_iter=3)
    points, Z = centred(X, found)
    A = found.coefficients
    slope = Z @ (Z.T @ A - points.T)
    level = (A * slope).sum(axis=0)
    size = max((points**2).sum(axis=1).max(), 1e-300)
    assert (level - slope.min(axis=0)).max() <= 1e-10 * size
    assert np.where(A > 0, np.abs(slope - level), 0.0).max() <= 1e-10 * size


@LAYERS
@given(layers(), st.randoms(use_true_random=False))
def test_permuting_the_filters_permutes_the_answer(layer: tuple[np.ndarray, int], random) -> None:
    X, d = layer
    order = list(range(len(X)))
    random.shuffle(order)
    found, permuted = archetypal_analysis(X, d), archetypal_analysis(X[order], d)
    np.testing.assert_array_equal(permuted.coefficients, found.coefficients[:, order])
    np.testing.assert_array_equal(permuted.weights, found.weights[order])


def _tied(X: np.ndarray) -> bool:
    """Tell whether different filters are equally far from another one, but for rounding."""
    distinct = np.unique(X + 0.0, axis=0)
    squared = ((distinct[:, None] - distinct) ** 2).sum(axis=2)
    far = np.sort(squared, axis=1)[:, 1:]
    return bool((np.diff(far, axis=1) <= 1e-9 * squared.max()).any())


@LAYERS
@given(layers(), st.floats(-5, 5))
def test_moving_the_filters_moves_the_archetypes(
    layer: tuple[np.ndarray, int], shift: float
) -> None:
    X, d = layer
    moved = X + shift * np.abs(X).max()
    found, there = archetypal_analysis(X, d), archetypal_analysis(moved, d)
    spread = ((X - X.mean(axis=0)) ** 2).sum()
    # Rounding breaks ties of equally extreme filters another way, into another local optimum.
    share = 0.05 if _tied(X) else 0.02
    assert abs(there.objective - found.objective) <= share * spread
    error = ((moved - there.coefficients.T @ there.archetypes) ** 2).sum()
    np.testing.assert_allclose(there.objective, error, rtol=1e-7, atol=1e-12 * spread)


@LAYERS
@given(layers())
def test_zeros_are_exact(layer: tuple[np.ndarray, int]) -> None:
    X, d = layer
    found = archetypal_analysis(X, d)
    dimension = np.linalg.matrix_rank(X - X.mean(axis=0))
    assert (found.coefficients > 0).sum(axis=0).max() <= dimension + 1
    assert found.weights[found.weights > 0].min() > 1e-11
