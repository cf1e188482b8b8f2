"""Kernels steered like those of another network, the guide."""

from __future__ import annotations

import numpy as np

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.explain.basis import Guide
from filtersurgeon.filters import FilterLayer

FITS = ("kde", "normal")


def guided_steer(
    layer: FilterLayer,
    generator: np.random.Generator,
    guide: Guide,
    *,
    fit: str = "kde",
    bandwidth: float = 0.25,
) -> np.ndarray:
    """Draw kernels whose coefficients are distributed like those of a layer of the guide.

    The basis is that of the guide's principal components over all its kernels of the size, in
    which coefficients are uncorrelated; each of them is drawn by itself, and the layer need not be
    as wide as the guide's.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Algorithm 1
    (layer-wise, not centred).

    Args:
        layer: whose kernels to make.
        generator: draws the coefficients.
        guide: the other network.
        fit: ``kde`` draws from a Gaussian kernel density estimate, which keeps the shape of the
            distribution; ``normal`` from a normal distribution, which keeps mean and deviation.
        bandwidth: of ``kde``, in units of Silverman's ``0.9 min(deviation, IQR / 1.34) n^-1/5``,
            which is for a single bump and blurs the sharp peak that trained coefficients have;
            with 0 the guide's own coefficients are drawn again.

    Returns:
        ``(n_kernels, height, width)``.
    """
    if fit not in FITS:
        raise OptionError(f"guided-steer has no fit {fit!r}{near_misses(fit, FITS)}")
    if not 0 <= bandwidth < np.inf:
        raise OptionError(f"bandwidth={bandwidth} should not be negative")
    vectors = guide.basis(layer.kernel_size).vectors
    known = guide.coefficients(layer)
    shape = layer.n_kernels, known.shape[1]
    noise = generator.standard_normal(shape)
    if fit == "normal":
        drawn = known.mean(axis=0) + known.std(axis=0) * noise
    else:
        picked = generator.integers(len(known), size=shape)
        width = bandwidth * _silverman(known)
        drawn = np.take_along_axis(known, picked, axis=0) + width * noise
    return (drawn @ vectors).reshape(-1, *layer.kernel_size)


def _silverman(values: np.ndarray) -> np.ndarray:
    """Give a bandwidth for every column.

    The deviation alone, as in Scott's rule, would smear the sharp peak of trained coefficients.
    Source: Silverman, *Density Estimation for Statistics and Data Analysis*, 1986, Eq. 3.31.
    """
    upper, lower = np.percentile(values, [75, 25], axis=0)
    spread = np.minimum(values.std(axis=0), (upper - lower) / 1.34)
    return np.asarray(0.9 * spread * len(values) ** -0.2)
