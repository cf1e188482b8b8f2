"""The scikit-learn estimator: its library's own checks, and that it is the same solver."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from filtersurgeon.archetypes import ArchetypalAnalysis, archetypal_analysis


@parametrize_with_checks([ArchetypalAnalysis(n_archetypes=3)])
def test_scikit_learn_checks(estimator: ArchetypalAnalysis, check) -> None:
    check(estimator)


def test_it_is_the_same_solver() -> None:
    X = np.random.default_rng(0).standard_normal((50, 8))
    model = ArchetypalAnalysis(6).fit(X)
    found = archetypal_analysis(X, 6)
    np.testing.assert_array_equal(model.archetypes_, found.archetypes)
    np.testing.assert_allclose(model.coefficients_, found.coefficients.T, atol=1e-9)
    assert model.reconstruction_error_ == found.objective
    error = ((X - model.inverse_transform(model.transform(X))) ** 2).sum()
    np.testing.assert_allclose(error, found.objective, rtol=1e-9)


def test_it_works_in_a_pipeline() -> None:
    X = np.random.default_rng(0).standard_normal((50, 8))
    pipeline = clone(make_pipeline(StandardScaler(), ArchetypalAnalysis(4)))
    mixtures = pipeline.fit_transform(X)
    assert mixtures.shape == (50, 4)
    assert list(pipeline[-1].get_feature_names_out()) == [
        f"archetypalanalysis{k}" for k in range(4)
    ]
