"""Archetypal analysis: filters as convex mixtures of a few extreme mixtures of filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filtersurgeon.archetypes.analysis import (
    archetypal_analysis,
    archetypal_analysis_batch,
    archetypal_analysis_from_gram,
)
from filtersurgeon.archetypes.problem import Archetypes, Settings
from filtersurgeon.archetypes.solver import convex_coefficients

if TYPE_CHECKING:
    from filtersurgeon.archetypes.estimator import ArchetypalAnalysis

__all__ = [
    "ArchetypalAnalysis",
    "Archetypes",
    "Settings",
    "archetypal_analysis",
    "archetypal_analysis_batch",
    "archetypal_analysis_from_gram",
    "convex_coefficients",
]


def __getattr__(name: str) -> Any:
    # scikit-learn takes seconds to import, and most callers need only the functions.
    if name == "ArchetypalAnalysis":
        from filtersurgeon.archetypes.estimator import ArchetypalAnalysis

        return ArchetypalAnalysis
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
