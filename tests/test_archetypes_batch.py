"""Many layers at once, on threads and on PyTorch devices; weighted samples of wide layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from filtersurgeon.archetypes import (
    Archetypes,
    Settings,
    archetypal_analysis,
    archetypal_analysis_batch,
    convex_coefficients,
)
from filtersurgeon.archetypes.analysis import coreset
from filtersurgeon.archetypes.problem import distinct_points
from filtersurgeon.errors import LayerError, OptionError


def layers() -> list[np.ndarray]:
    """Layers of three sizes, among them one with copies, one of a low dimension, one constant."""
    rng = np.random.default_rng(4)
    same = [rng.standard_normal((40, 27)) for _ in range(3)]
    copies = np.vstack([same[0][:20], same[0][:20]])
    return [*same, copies, rng.standard_normal((90, 4)), np.ones((5, 3))]


def assert_equal(left: Archetypes, right: Archetypes) -> None:
    np.testing.assert_array_equal(left.coefficients, right.coefficients)
    np.testing.assert_array_equal(left.weights, right.weights)
    np.testing.assert_array_equal(left.archetypes, right.archetypes)
    assert left.history == right.history


@pytest.mark.parametrize("n_threads", [1, 3, None])
def test_a_batch_equals_its_layers_one_by_one(n_threads: int | None) -> None:
    counts = [10, 9, 8, 7, 20, 2]
    batch = archetypal_analysis_batch(layers(), counts, n_threads=n_threads)
    for found, layer, count in zip(batch, layers(), counts, strict=True):
        assert_equal(found, archetypal_analysis(layer, count))


def test_one_number_of_archetypes_serves_all_layers() -> None:
    batch = archetypal_analysis_batch(layers(), 6)
    assert [found.n_archetypes for found in batch] == [6, 6, 6, 6, 6, 1]
    with pytest.raises(OptionError, match="6 layers, but 2 numbers"):
        archetypal_analysis_batch(layers(), [3, 4])


def test_an_empty_batch_is_empty() -> None:
    assert archetypal_analysis_batch([], 4) == []


def check_device(device: str) -> None:
    rng = np.random.default_rng(4)
    small = [*(rng.standard_normal((20, 12)) for _ in range(3)), np.ones((5, 3))]
    here = archetypal_analysis_batch(small, 5)
    there = archetypal_analysis_batch(small, 5, device=device)
    for left, right in zip(here, there, strict=True):
        assert right.objective == pytest.approx(left.objective, rel=1e-4, abs=1e-10)
        assert right.converged
        assert (right.coefficients >= 0).all()
        np.testing.assert_allclose(right.weights.sum(axis=0), 1.0, atol=1e-12)
        assert (np.diff(right.history) <= 1e-10 * right.history[0]).all()
    alone = archetypal_analysis(small[0], 5, device=device)
    assert alone.objective == pytest.approx(here[0].objective, rel=1e-4)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Small operations on several threads wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_torch_thread")
def test_pytorch_agrees_with_the_compiled_code() -> None:
    check_device("cpu")


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_compiled_code() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    check_device("cuda")


@pytest.mark.usefixtures("one_torch_thread")
def test_unused_archetypes_are_moved_the_same_way_by_pytorch() -> None:
    from filtersurgeon.archetypes import alternation, torch_alternation
    from filtersurgeon.archetypes.start import Start

    X = np.random.default_rng(9).standard_normal((12, 6))
    problem = distinct_points(X, None).problem()
    # The second archetype starts on the first, so that no filter is modelled by it.
    start = Start(np.array([0, 0, 5]), settle=False)
    once = alternation.alternate(problem, start, 1e-5, 1).state
    assert once.A[:, 1].max() == 0.0
    assert once.B[1].max() == 1.0
    assert once.B[1, 0] == 0.0
    settings = Settings(max_iter=12)
    here = alternation.alternate(problem, start, settings.tol, settings.max_iter)
    layers = torch_alternation.first_layers([problem], [start], torch.device("cpu"))
    ended = torch_alternation.alternate_layers(layers, settings.tol, settings.max_iter)
    there = ended.alternations()[0]
    assert there.history[-1] == pytest.approx(here.history[-1], rel=1e-4)


@pytest.mark.usefixtures("one_torch_thread")
def test_archetypes_are_removed_the_same_way_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    from filtersurgeon.archetypes import alternation, elimination, torch_search
    from filtersurgeon.archetypes.start import first_starts
    from filtersurgeon.archetypes.torch_alternation import Layers

    rng = np.random.default_rng(4)
    problems = [distinct_points(rng.standard_normal((40, 12)), None).problem() for _ in range(2)]
    states = []
    for problem in problems:
        start = first_starts(problem, 9, Settings())[0][0]
        states.append(alternation.alternate(problem, start, 1e-5, 20).state)
        # No other archetype models the first filter.
        states[-1].A[0] = np.eye(9)[3]
    arrays = zip(*((p.gram, p.mass, s.A, s.B, s.GB) for p, s in zip(problems, states, strict=True)),
                 strict=True)  # fmt: skip
    together = Layers(*(torch.from_numpy(np.stack(each)) for each in arrays))
    # After few steps, rounding decides between equal gradients.
    monkeypatch.setattr(elimination, "STEPS", 8)
    costs = torch_search.removal_costs(together).numpy()
    expected = [elimination.costs_of_removal(p, s) for p, s in zip(problems, states, strict=True)]
    np.testing.assert_allclose(costs, expected, rtol=1e-2, atol=1e-3 * np.max(expected))
    for gone in (0, 3, 8):
        left = torch_search._keep(together, torch_search._others(torch.tensor([gone, gone]), 9))
        for k, state in enumerate(states):
            wanted = elimination.without(state, gone)
            for name in ("A", "B", "GB"):
                found = getattr(left, name)[k].numpy()
                np.testing.assert_allclose(found, getattr(wanted, name), atol=1e-12)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("count", [5, 18])
def test_wide_layers_are_searched_the_same_way_by_pytorch(count: int) -> None:
    X = np.random.default_rng(5).standard_normal((140, count - 1))
    here = archetypal_analysis(X, count, max_iter=15)
    there = archetypal_analysis(X, count, max_iter=15, device="cpu")
    # Rounding, which differs between processors, decides which of nearly equal archetypes go.
    assert there.relative_error == pytest.approx(here.relative_error, rel=5e-3)
    assert there.n_archetypes == count


def test_a_coreset_of_all_filters_is_no_coreset() -> None:
    X = layers()[0]
    assert_equal(archetypal_analysis(X, 6, coreset_size=40), archetypal_analysis(X, 6))


def test_a_coreset_finds_corners() -> None:
    rng = np.random.default_rng(1)
    corners = 3.0 * np.eye(4)
    X = np.vstack([rng.dirichlet(np.full(4, 0.3), 3000) @ corners, corners])
    X = X[rng.permutation(len(X))]
    found = archetypal_analysis(X, 4, coreset_size=400)
    assert (found.weights.sum(axis=1) > 0).sum() <= 400
    np.testing.assert_allclose(np.sort(found.archetypes.max(axis=1)), 3.0, atol=0.05)
    error = ((X - found.coefficients.T @ (found.weights.T @ X)) ** 2).sum()
    assert found.objective == pytest.approx(error, rel=1e-9)
    whole = archetypal_analysis(X, 4)
    assert found.relative_error < whole.relative_error + 0.02


def test_a_coreset_estimates_the_objective_without_bias() -> None:
    X = np.random.default_rng(2).standard_normal((200, 5)) * np.arange(1, 6)
    points = distinct_points(X, None)
    errors = (points.X[:, 0] - 1.0) ** 2
    estimates = []
    for seed in range(400):
        chosen, mass = coreset(points.X, points.mass, Settings(coreset_size=50, random_state=seed))
        estimates.append(mass @ errors[chosen])
    spread = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - errors.sum()) < 4 * spread


def test_coresets_follow_the_seed_and_not_the_order() -> None:
    X = np.random.default_rng(2).standard_normal((200, 5))
    order = np.random.default_rng(3).permutation(200)
    first = archetypal_analysis(X, 5, coreset_size=40)
    assert_equal(first, archetypal_analysis(X, 5, coreset_size=40))
    permuted = archetypal_analysis(X[order], 5, coreset_size=40)
    np.testing.assert_array_equal(permuted.coefficients, first.coefficients[:, order])
    other = archetypal_analysis(X, 5, coreset_size=40, random_state=1)
    assert other.objective != first.objective


def test_coreset_sizes_are_checked() -> None:
    with pytest.raises(OptionError, match="coreset"):
        archetypal_analysis(np.eye(3), 2, coreset_size=0)


def test_coefficients_for_given_archetypes() -> None:
    Z = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    X = np.array([[0.5, 0.5], [2.0, 2.0], [-3.0, -3.0], [1.0, -1.0], [2.0, 0.0]])
    expected = [[0.5, 0.25, 0.25], [0, 0.5, 0.5], [1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]]
    np.testing.assert_allclose(convex_coefficients(X, Z).T, expected, atol=1e-12)
    with pytest.raises(LayerError, match="2 weights"):
        convex_coefficients(X, np.eye(3))
