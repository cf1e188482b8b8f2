"""One kernel of ones; replaced kernels keep only their means."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank


def ones(size: tuple[int, int]) -> FilterBank:
    """Make the bank.

    Source of using it: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*,
    2022, section 3.1.

    Args:
        size: height and width, any.
    """
    return FilterBank("ones", np.ones((1, *size)), ("ones",), __doc__ or "")
