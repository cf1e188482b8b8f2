"""The archetype solver on problems whose answer is known, and on layers that hardly have one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, nnls

from filtersurgeon.archetypes import (
    Archetypes,
    archetypal_analysis,
    archetypal_analysis_from_gram,
    convex_coefficients,
)
from filtersurgeon.archetypes.problem import Settings, distinct_points
from filtersurgeon.errors import LayerError, OptionError


def planted(n: int, size: int, d: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Mixtures (n, size) of d random corners, which are the first d of them, and the corners."""
    rng = np.random.default_rng(7)
    corners = rng.standard_normal((d, size))
    mixing = rng.dirichlet(np.full(d, 0.4), n)
    mixing[:d] = np.eye(d)
    return mixing @ corners + noise * rng.standard_normal((n, size)), corners


def assert_on_simplices(found: Archetypes) -> None:
    for columns in (found.coefficients, found.weights):
        assert (columns >= 0).all()
        np.testing.assert_allclose(columns.sum(axis=0), 1.0, atol=1e-12)


def error_of(X: np.ndarray, found: Archetypes) -> float:
    return float(((X - found.coefficients.T @ (found.weights.T @ X)) ** 2).sum())


def mixture_by_nnls(x: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """The convex mixture of the rows of Z closest to x, by a solver of another kind."""
    heavy = 1e5 * np.abs(Z).max()
    rows = np.vstack([Z.T, np.full(len(Z), heavy)])
    return nnls(rows, np.append(x, heavy))[0]


@pytest.mark.parametrize("init", ["successive-projection", "convex-hull", "furthest-sum"])
def test_corners_of_a_triangle(init: str) -> None:
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    mixing = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    X = np.vstack([mixing @ corners, corners])
    found = archetypal_analysis(X, 3, init=init, tol=1e-9)
    order = np.lexsort(np.round(found.archetypes, 3).T)
    np.testing.assert_allclose(found.archetypes[order], corners, atol=1e-6)
    np.testing.assert_allclose(found.coefficients[order, :40].T, mixing, atol=1e-6)
    assert found.relative_error < 1e-6
    assert found.converged
    assert found.coefficients_unique


def test_two_archetypes_of_a_line_are_its_ends() -> None:
    X = np.linspace(0.0, 1.0, 11)[:, None] * np.array([3.0, 4.0]) - 7.0
    found = archetypal_analysis(X, 2)
    ends = found.archetypes[np.argsort(found.archetypes[:, 0])]
    np.testing.assert_allclose(ends, [[-7.0, -7.0], [-4.0, -3.0]], atol=1e-9)
    assert sorted((found.coefficients > 0).sum(axis=0)) == [1, 1] + 9 * [2]


def test_one_archetype_is_the_mean() -> None:
    X = np.random.default_rng(3).standard_normal((20, 5))
    found = archetypal_analysis(X, 1, tol=1e-9)
    np.testing.assert_allclose(found.archetypes[0], X.mean(axis=0), atol=1e-3)
    assert found.relative_error == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_planted_archetypes_are_found(noise: float) -> None:
    X, corners = planted(200, 150, 24, noise)
    found = archetypal_analysis(X, 24)
    far = np.linalg.norm(found.archetypes[:, None] - corners, axis=2)
    rows, columns = linear_sum_assignment(far)
    relative = far[rows, columns] / np.linalg.norm(corners[columns], axis=1)
    assert relative.max() < 0.05


def test_gram_alone_gives_the_same_answer() -> None:
    X, _ = planted(60, 90, 8, 0.1)
    found = archetypal_analysis(X, 8)
    alone = archetypal_analysis_from_gram(X @ X.T, 8)
    assert alone.archetypes.shape == (8, 0)
    assert alone.objective == pytest.approx(found.objective, rel=1e-6)
    assert alone.objective == pytest.approx(error_of(X, alone), rel=1e-8)


def test_coefficients_equal_those_of_another_solver() -> None:
    X = np.random.default_rng(1).standard_normal((40, 12))
    found = archetypal_analysis(X, 9)
    for x, column in zip(X, found.coefficients.T, strict=True):
        other = mixture_by_nnls(x, found.archetypes)
        np.testing.assert_allclose(column, other, atol=1e-6)
        assert (column > 0).sum() == (other > 1e-9).sum()


def test_archetypes_are_optimal_for_their_coefficients() -> None:
    X, _ = planted(50, 30, 6, 0.3)
    found = archetypal_analysis(X, 6, tol=1e-12, max_iter=3000)
    A, B = found.coefficients, found.weights
    gradient = X @ (X.T @ B @ A - X.T) @ A.T
    gap = (B * gradient).sum() - gradient.min(axis=0).sum()
    assert 0 <= gap < 1e-6 * found.objective


def test_sample_weights_count_as_copies() -> None:
    X = np.random.default_rng(5).standard_normal((30, 8))
    copies = np.random.default_rng(6).integers(1, 4, 30)
    repeated = archetypal_analysis(np.repeat(X, copies, axis=0), 5)
    weighted = archetypal_analysis(X, 5, sample_weight=copies)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-12)
    first = np.cumsum(copies) - copies
    np.testing.assert_array_equal(weighted.coefficients, repeated.coefficients[:, first])


def test_weight_zero_frees_a_filter_from_being_modelled() -> None:
    X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    found = archetypal_analysis(X, 3, sample_weight=[1, 1, 1, 0])
    assert found.objective == pytest.approx(0.0, abs=1e-12)
    assert found.weights[3].max() == 0.0


def test_exact_copies_share_what_one_of_them_would_have() -> None:
    X, _ = planted(40, 30, 5)
    doubled = archetypal_analysis(np.vstack([X, X]), 5)
    single = archetypal_analysis(X, 5)
    np.testing.assert_allclose(doubled.archetypes, single.archetypes, atol=1e-9)
    np.testing.assert_array_equal(doubled.weights[:40], doubled.weights[40:])
    np.testing.assert_array_equal(doubled.coefficients[:, :40], doubled.coefficients[:, 40:])


@pytest.mark.parametrize(
    ("X", "asked", "given"),
    [
        (np.ones((6, 4)), 2, 1),
        (np.zeros((6, 4)), 3, 1),
        (np.array([[1.0, 2.0]]), 1, 1),
        (np.array([[1.0, 2.0]]), 5, 1),
        (np.eye(3), 7, 3),
        (np.repeat(np.eye(3), 4, axis=0), 5, 3),
        (np.vstack([np.zeros((3, 2)), np.eye(2)]), 3, 3),
        (np.array([[0.0], [-0.0], [1.0]]), 2, 2),
    ],
)
def test_layers_with_few_distinct_filters(X: np.ndarray, asked: int, given: int) -> None:
    for found in (archetypal_analysis(X, asked), archetypal_analysis_from_gram(X @ X.T, asked)):
        assert found.n_archetypes == given
        assert found.objective == pytest.approx(0.0, abs=1e-12)
        assert found.converged
        assert_on_simplices(found)
        assert error_of(X, found) == pytest.approx(0.0, abs=1e-12)


def test_more_archetypes_than_dimensions_allow_is_said() -> None:
    X = np.random.default_rng(2).standard_normal((60, 2))
    found = archetypal_analysis(X, 12)
    assert not found.coefficients_unique
    assert (found.coefficients > 0).sum(axis=0).max() <= 3
    assert archetypal_analysis(X, 3).coefficients_unique


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e12])
def test_the_scale_of_the_filters_does_not_matter(scale: float) -> None:
    X, _ = planted(40, 30, 5, 0.2)
    found, scaled = archetypal_analysis(X, 5), archetypal_analysis(X * scale, 5)
    assert scaled.relative_error == pytest.approx(found.relative_error, rel=1e-6)


def test_unusable_filters_are_refused() -> None:
    bad = np.ones((4, 3))
    bad[1, 2] = np.nan
    for X, words in [
        (bad, "not finite"),
        (np.full((4, 3), np.inf), "not finite"),
        (np.ones((0, 3)), "shape"),
        (np.ones((3, 0)), "shape"),
        (np.ones(3), "shape"),
    ]:
        with pytest.raises(LayerError, match=words):
            archetypal_analysis(X, 2)
    for weight in ([1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, np.nan, 1.0]):
        with pytest.raises(LayerError, match="weights"):
            archetypal_analysis(np.eye(3), 2, sample_weight=weight)


def test_unusable_gram_matrices_are_refused() -> None:
    for G, words in [
        (np.ones((2, 3)), "square"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (np.diag([1.0, -1.0]), "not negative"),
    ]:
        with pytest.raises(LayerError, match=words):
            archetypal_analysis_from_gram(G, 1)


def test_unusable_options_are_refused() -> None:
    with pytest.raises(OptionError, match="did you mean furthest-sum"):
        archetypal_analysis(np.eye(3), 2, init="farthest-sum")
    with pytest.raises(OptionError, match="at least one archetype"):
        archetypal_analysis(np.eye(3), 0)
    with pytest.raises(OptionError, match="sweep"):
        archetypal_analysis(np.eye(3), 2, max_iter=0)
    with pytest.raises(OptionError, match="one start"):
        archetypal_analysis(np.eye(3), 2, n_init=0)
    with pytest.raises(OptionError, match="tolerance"):
        archetypal_analysis(np.eye(3), 2, tol=-1.0)


def test_permuting_a_gram_matrix_permutes_the_answer() -> None:
    X = np.random.default_rng(4).standard_normal((30, 6))
    order = np.random.default_rng(5).permutation(30)
    G = X @ X.T
    found = archetypal_analysis_from_gram(G, 5)
    permuted = archetypal_analysis_from_gram(G[np.ix_(order, order)], 5)
    np.testing.assert_array_equal(permuted.coefficients, found.coefficients[:, order])
    np.testing.assert_array_equal(permuted.weights, found.weights[order])


def test_running_out_of_sweeps_is_said() -> None:
    X = np.random.default_rng(4).standard_normal((60, 30))
    found = archetypal_analysis(X, 10, max_iter=2)
    assert found.n_iter == 2
    assert not found.converged
    longer = archetypal_analysis(X, 10)
    assert longer.converged
    assert longer.objective < found.objective


def test_a_deep_start_beats_random_corners() -> None:
    X, _ = planted(120, 60, 20, 0.1)
    extremes = archetypal_analysis(X, 20).objective
    assert archetypal_analysis(X, 20, init="convex-hull").objective < 1.1 * extremes
    rng = np.random.default_rng(0)
    for _ in range(3):
        Z = X[rng.choice(len(X), 20, replace=False)]
        A = convex_coefficients(X, Z)
        assert extremes < 0.8 * ((X - A.T @ Z) ** 2).sum()


def test_more_starts_never_do_worse() -> None:
    X = np.random.default_rng(12).standard_normal((60, 200))
    found = [archetypal_analysis(X, 15, n_init=n).objective for n in (1, 2, 4, 8)]
    assert all(np.diff(found) <= 0)
    assert found[-1] < found[0]
    assert archetypal_analysis(X, 15).objective == found[2]


def test_furthest_sum_with_more_starts_still_follows_the_seed() -> None:
    X = np.random.default_rng(12).standard_normal((60, 200))
    options = {"init": "furthest-sum", "n_init": 3}
    found = [archetypal_analysis(X, 15, random_state=k, **options).objective for k in range(6)]
    assert len(set(found)) > 2


def test_the_seed_decides_furthest_sum() -> None:
    X = np.random.default_rng(8).standard_normal((80, 20))
    runs = [
        archetypal_analysis(X, 10, init="furthest-sum", random_state=seed).objective
        for seed in (0, 0, 1, 2, 3)
    ]
    assert runs[0] == runs[1]
    assert len(set(runs)) > 1


def test_importing_the_solver_does_not_import_what_is_slow() -> None:
    script = (
        "import sys, filtersurgeon.archetypes as a; a.archetypal_analysis\n"
        "print([m for m in ('numba', 'sklearn', 'torch', 'scipy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert shown.stdout.decode().strip() == "[]"


def test_wide_layers_end_as_low_as_after_many_starts():
    """One start ends up to a fifth higher on such layers, of few weights and many filters."""
    generator = np.random.default_rng(3)
    for n, weights in ((240, 9), (400, 25)):
        X = generator.standard_normal((n, weights)) * generator.gamma(1.0, 1.0, (n, 1))
        found = archetypal_analysis(X, weights + 1).objective
        many = archetypal_analysis(X, weights + 1, n_init=20).objective
        assert found <= 1.01 * many


@pytest.mark.parametrize("init", ["convex-hull", "furthest-sum"])
def test_eliminations_start_from_the_picks_of_their_own_number(init):
    from filtersurgeon.archetypes.elimination import plan_search
    from filtersurgeon.archetypes.start import first_picks, first_starts

    X = np.random.default_rng(5).standard_normal((200, 9))
    problem, settings = distinct_points(X, None).problem(), Settings(init=init)
    plan = plan_search(problem, first_starts(problem, 10, settings)[0], settings)
    assert [len(start.picks) for start, _ in plan.eliminations] == [13, 16, 22]
    for start, _ in plan.eliminations:
        expected = first_picks(problem, len(start.picks), settings)
        np.testing.assert_array_equal(start.picks, expected)


def test_only_the_best_solution_of_a_wide_layer_is_finished():
    from filtersurgeon.archetypes import elimination
    from filtersurgeon.archetypes.start import first_starts

    settings = Settings()
    for n, solutions in ((100, 6), (200, 1)):
        X = np.random.default_rng(5).standard_normal((n, 9))
        problem = distinct_points(X, None).problem()
        plan = elimination.plan_search(problem, first_starts(problem, 10, settings)[0], settings)
        found = elimination.search(problem, plan, settings)
        assert len(found) == solutions
        assert all(each.converged for each in found)


@pytest.mark.parametrize("size", [1, 2, 26, 300])
def test_a_pair_step_moves_mass_between_the_first_of_equal_gradients(size: int) -> None:
    from filtersurgeon.archetypes.kernels import update_coefficients

    rng = np.random.default_rng(size)
    norms = np.ones(200)
    # Gradients that are equal, that differ in their last bits, and zeros of both signs.
    C = rng.choice([0.0, -0.0, 1.0, 1.0 + 2**-52, 1.0 + 2**-44, -1.0], (200, size))
    A = rng.multinomial(3, np.full(size, 1 / size), 200) / 4.0
    A[:, 0] += 0.25
    H = np.eye(size)
    expected = A.copy()
    for a, c in zip(expected, C, strict=True):
        gradient = a @ H - c
        giver = np.flatnonzero(a)[np.argmax(gradient[a > 0])]
        taker = np.argmin(gradient)
        mass = min(a[giver], (gradient[giver] - gradient[taker]) / 2)
        if mass > 0:
            a[giver] -= mass
            a[taker] += mass
    update_coefficients(A, C, H, norms, 1, 0.0)
    np.testing.assert_array_equal(A, expected)
