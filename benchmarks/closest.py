"""Closest linear transform of 50,000 7x7 kernels against a bank of 100.

The peer copies the same bytes and makes one matrix product of that size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.measure import Row, in_turn
from filtersurgeon.banks.closest import closest_linear, unit_bank


def run() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((50_000, 49), dtype=np.float32)
    unit = unit_bank(rng.standard_normal((100, 49)))
    columns = unit.T.astype(np.float32)
    ours, peer = in_turn(
        lambda: closest_linear(kernels, unit), lambda: (kernels.copy(), kernels @ columns), 15
    )
    yield Row("closest of 100, 50,000 7x7 : copy and product", 1e3 * ours, 1e3 * peer, "ms", 5.0)
