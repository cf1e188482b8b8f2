"""Line detectors at up to four angles with their negatives, 3x3: line-2, line-4 or line-8."""

from __future__ import annotations

from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.banks.builtin.edge_line import subset

COUNTS = {2: (5, 7), 4: (5, 7, 14, 16), 8: (5, 6, 7, 8, 14, 15, 16, 17)}


def line(size: Size, *, count: int = 8) -> FilterBank | None:
    """Make the bank; it has 3x3 kernels only.

    2 are the lines at 0 and 90 degrees, 4 also their negatives, 8 all angles and negatives.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, Table 6.7 (``even``).

    Args:
        size: height and width.
        count: 2, 4 or 8.

    Returns:
        The bank, or None unless the size is 3x3.

    Raises:
        OptionError: another count.
    """
    return subset("line", size, count, COUNTS, __doc__ or "")
