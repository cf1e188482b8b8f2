"""Archetypal analysis: filters as convex mixtures of a few extreme mixtures of filters."""

from __future__ import annotations

from filtersurgeon.archetypes.result import Archetypes
from filtersurgeon.archetypes.solver import archetypal_analysis, archetypal_analysis_from_gram

__all__ = ["Archetypes", "archetypal_analysis", "archetypal_analysis_from_gram"]
