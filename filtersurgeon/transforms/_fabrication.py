"""Random mixtures of a layer's archetypes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from filtersurgeon.checkpoint.tensor import decode, encode
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import layer_seed

DRAWS = ("uniform", "dirichlet")
_CONCENTRATIONS = 1e-3, 1e3


@dataclass(frozen=True)
class Draw:
    """How the coefficients of random mixtures are drawn.

    Attributes:
        kind: ``uniform`` on the simplex, or ``dirichlet``, symmetric.
        concentration: of the Dirichlet distribution, from 0.001 (nearly always a single
            archetype) over 1 (uniform) to 1000 (nearly the mean of all). None is one over the
            number of archetypes, which mixes about two. Goes with ``dirichlet`` only.
        seed: of the draws; every layer draws for itself, by its name.

    Raises:
        OptionError: an unknown kind, or an unusable concentration or seed.
    """

    kind: str = "uniform"
    concentration: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in DRAWS:
            raise OptionError(f"no draw called {self.kind!r}{near_misses(self.kind, DRAWS)}")
        if type(self.seed) is not int or self.seed < 0:
            raise OptionError(f"seed={self.seed} should be a whole number, at least 0")
        if self.concentration is None:
            return
        if self.kind != "dirichlet":
            raise OptionError("a concentration needs `draw='dirichlet'`")
        low, high = _CONCENTRATIONS
        if not isinstance(self.concentration, int | float) or not low <= self.concentration <= high:
            raise OptionError(
                f"concentration={self.concentration} should be a number from {low:g} to {high:g}"
            )

    def coefficients(self, layer: str, n_filters: int, n_archetypes: int) -> np.ndarray:
        """Draw Y of Eq. 2: ``(N, d)`` float64, rows not negative and of sum one."""
        alpha = 1.0
        if self.kind == "dirichlet":
            alpha = 1 / n_archetypes if self.concentration is None else self.concentration
        generator = np.random.default_rng(layer_seed(layer, self.seed))
        return generator.dirichlet(np.full(n_archetypes, alpha), n_filters)


def rounded(values: np.ndarray, dtype: str, layer: str) -> np.ndarray:
    """Round values to a stored type and give them to compute with, in float64.

    Raises:
        LayerError: a value is beyond the type's range.
    """
    found = decode(encode(values, dtype), dtype).reshape(values.shape)
    if not np.isfinite(found).all():
        raise LayerError(f"layer {layer}: some values are beyond the range of {dtype}")
    return found.astype(np.float64)


def match_norms(filters: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Scale filters ``(N, l)`` so that they have given norms ``(N,)``, whichever has which.

    The longest filter gets the greatest norm and so on, so every statistic of the norms is that
    of those given. A filter of zeros stays one.
    """
    own = np.linalg.norm(filters, axis=1)
    wanted = np.empty_like(own)
    wanted[np.argsort(own, kind="stable")] = np.sort(norms)
    return filters * np.divide(wanted, own, out=np.zeros_like(own), where=own > 0)[:, None]
