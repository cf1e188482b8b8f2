"""Archetypal analysis with scikit-learn's interface."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from filtersurgeon.archetypes.analysis import archetypal_analysis
from filtersurgeon.archetypes.problem import Floats
from filtersurgeon.archetypes.solver import convex_coefficients


class ArchetypalAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Model samples by convex mixtures of a few convex mixtures of samples.

    Minimises ``||X - A B X||_F^2`` over A (n_samples, n_archetypes) and B (n_archetypes,
    n_samples) with rows on simplices (Cutler and Breiman 1994).

    Args:
        n_archetypes: how many; where fewer samples differ, each of those is an archetype.
        init: ``successive-projection``, ``convex-hull`` or ``furthest-sum``.
        n_init: how many starts to try; the best is kept. None tries more for few samples.
        tol: of the stopping rule, see `filtersurgeon.archetypes.problem.Settings`.
        max_iter: sweeps over A and B at most.
        random_state: seed or generator for ``furthest-sum`` and the coreset.
        coreset_size: find the archetypes from a weighted sample of so many samples only.
        device: PyTorch device to alternate on; None stays with compiled code for the CPU.

    Attributes:
        archetypes_: the archetypes (n_archetypes_, n_features).
        coefficients_: A for the samples of `fit` (n_samples, n_archetypes_).
        weights_: B transposed (n_samples, n_archetypes_).
        n_archetypes_: how many there are.
        reconstruction_error_: the objective reached.
        n_iter_: sweeps made.
        converged_: whether the stopping rule was met.
        n_features_in_: features seen by `fit`.
    """

    def __init__(
        self,
        n_archetypes: int = 8,
        *,
        init: str = "successive-projection",
        n_init: int | None = None,
        tol: float = 1e-5,
        max_iter: int = 300,
        random_state: int | np.random.RandomState | None = 0,
        coreset_size: int | None = None,
        device: str | None = None,
    ) -> None:
        self.n_archetypes = n_archetypes
        self.init = init
        self.n_init = n_init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.coreset_size = coreset_size
        self.device = device

    def fit(
        self,
        X: ArrayLike,
        y: Any = None,  # noqa: ARG002  # scikit-learn's pipelines pass it
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Find the archetypes of samples X (n_samples, n_features).

        Args:
            X: the samples.
            y: not used.
            sample_weight: weight of every sample in the objective (n_samples,); a sample of
                weight zero counts as absent.

        Returns:
            The estimator.
        """
        samples = validate_data(self, X, dtype=[np.float64, np.float32])
        weight = _check_sample_weight(
            sample_weight,
            samples,
            dtype=np.float64,
            ensure_non_negative=True,
            allow_all_zero_weights=False,
        )
        present = weight > 0
        found = archetypal_analysis(
            samples[present],
            self.n_archetypes,
            sample_weight=weight[present],
            init=self.init,
            n_init=self.n_init,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=check_random_state(self.random_state).randint(2**31 - 1),
            coreset_size=self.coreset_size,
            device=self.device,
        )
        self.archetypes_ = found.archetypes
        self.n_archetypes_ = found.n_archetypes
        self.weights_ = np.zeros((len(samples), found.n_archetypes))
        self.weights_[present] = found.weights
        self.coefficients_ = convex_coefficients(samples, found.archetypes).T
        self.reconstruction_error_ = found.objective
        self.n_iter_ = found.n_iter
        self.converged_ = found.converged
        return self

    def transform(self, X: ArrayLike) -> Floats:
        """Give the coefficients (n_samples, n_archetypes_) of the mixtures closest to X."""
        check_is_fitted(self)
        samples = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return convex_coefficients(samples, self.archetypes_).T

    def inverse_transform(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give the mixtures (n_samples, n_features) that coefficients stand for."""
        check_is_fitted(self)
        return np.asarray(X, dtype=np.float64) @ self.archetypes_

    @property
    def _n_features_out(self) -> int:
        return self.n_archetypes_
