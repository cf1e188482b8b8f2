"""Edge detectors at up to four angles with their negatives, 3x3: edge-2, edge-4 or edge-8."""

from __future__ import annotations

from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.banks.builtin.edge_line import subset

COUNTS = {2: (1, 3), 4: (1, 3, 10, 12), 8: (1, 2, 3, 4, 10, 11, 12, 13)}


def edge(size: Size, *, count: int = 8) -> FilterBank | None:
    """Make the bank; it has 3x3 kernels only.

    2 are the edges at 0 and 90 degrees, 4 also their negatives, 8 all angles and negatives.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, Table 6.7 (``uneven``).

    Args:
        size: height and width.
        count: 2, 4 or 8.

    Returns:
        The bank, or None unless the size is 3x3.

    Raises:
        OptionError: another count.
    """
    return subset("edge", size, count, COUNTS, __doc__ or "")
