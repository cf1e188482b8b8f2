"""How stable the order by archetypes is over starts."""

import json

import numpy as np
import pytest
from scipy.stats import kendalltau

import filtersurgeon as fs
from filtersurgeon.archetypes import archetypal_analysis
from filtersurgeon.errors import OptionError
from filtersurgeon.ranking.methods.archetype import archetype


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _ranks_from_start(X: np.ndarray, count: int, start: int) -> np.ndarray:
    """Rank by the definition, from the solver's answer alone; 0 is the most important."""
    model = archetypal_analysis(X, count, init="furthest-sum", random_state=start)
    A, Z = model.coefficients, model.archetypes
    nearest = np.linalg.norm(X[:, None] - Z[None], axis=2).min(axis=1)
    keys = [(np.count_nonzero(a), -a.max(), r) for a, r in zip(A.T, nearest, strict=True)]
    order = sorted(range(len(X)), key=lambda n: keys[n])
    return np.argsort(order)


def test_stability_is_the_mean_tau_with_the_orders_from_other_starts():
    X = _normal(40, 12)
    found = archetype(X, stability=3, seed=5)
    ranks = np.argsort(found.order())
    taus = [kendalltau(ranks, _ranks_from_start(X, 10, 6 + k)).statistic for k in range(3)]
    assert found.statistics["stability"] == pytest.approx(np.mean(taus))
    assert -1 <= found.statistics["stability"] <= 1
    plain = archetype(X)
    assert "stability" not in plain.statistics
    np.testing.assert_array_equal(plain.order(), found.order())


def test_what_has_one_answer_is_stable():
    # The corners of a simplex, each some times over, and mixtures of two: no start can miss them.
    corners = 10 * np.eye(4, 9)
    mixtures = [0.5 * (corners[0] + corners[1]), 0.3 * corners[2] + 0.7 * corners[3]]
    X = np.vstack([corners, mixtures, np.repeat(corners[:1], 10, axis=0)])
    assert archetype(X, share=0.25, stability=4).statistics["stability"] == 1


def test_a_single_filter_is_stable():
    assert archetype(_normal(1, 9), stability=2).statistics["stability"] == 1


def test_the_option_at_the_command_line(model, fsurgeon, refuse):
    words = ("rank", model, "--layers", "stem")
    done = json.loads(fsurgeon(*words, "--stability", "2", "--seed", "1").stdout)
    assert done["options"] == {"stability": 2, "seed": 1}
    expected = fs.rank(fs.load(model), layers=["stem"], options={"stability": 2}, seed=1)
    assert done == expected.to_json()
    assert "stability" not in json.loads(fsurgeon(*words).stdout)["layers"][0]["statistics"]
    assert "stability" in refuse("rank", model, "-m", "l2", "--stability", "2")


def test_a_negative_number_of_starts():
    with pytest.raises(OptionError, match="stability"):
        archetype(_normal(4, 9), stability=-1)
