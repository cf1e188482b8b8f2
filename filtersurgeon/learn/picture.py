"""A comparison of two networks as a picture."""

from __future__ import annotations

from pathlib import Path

from filtersurgeon.checkpoint.atomic import atomic_file
from filtersurgeon.learn.comparison import Comparison, short_names


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw what the second network costs and knows, as ratios to the first.

    Args:
        comparison: two networks.
        path: where to; the suffix chooses the format (``.png``, ``.svg``, ``.pdf``).
    """
    from matplotlib.figure import Figure

    ratios, (first, second) = cost_ratios(comparison), short_names(comparison)
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = left.barh(list(ratios), list(ratios.values()), color="tab:blue")
    left.bar_label(bars, fmt=" {:.3g}")
    left.axvline(1, color="black", linewidth=0.8)
    left.margins(x=0.2)
    left.set(xlabel=f"{second} / {first}")
    pairs = zip((first, second), (comparison.first, comparison.second), strict=True)
    known = [(name, side.evaluation) for name, side in pairs if side.evaluation]
    # The reference on top, where one begins to read.
    for place, (_, found) in enumerate(reversed(known)):
        low, high = found.interval()
        value = found.accuracy
        spread = [[100 * (value - low)], [100 * (high - value)]]
        right.errorbar([100 * value], [place], xerr=spread, fmt="o", capsize=4)
    right.set_yticks(range(len(known)), [name for name, _ in reversed(known)])
    right.margins(y=0.5)
    if not known:
        right.set_axis_off()
    agreement = f"same class: {100 * comparison.difference.agreement:.1f} %"
    right.set(xlabel="top-1 (%), 95 % interval", title=agreement)
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def cost_ratios(comparison: Comparison) -> dict[str, float]:
    """Give parameters, MACs, file size and latency of the second network over the first's."""
    first, second = comparison.first, comparison.second
    pairs = {
        "latency": (
            first.latency.median_ms if first.latency else None,
            second.latency.median_ms if second.latency else None,
        ),
        "file size": (first.file_bytes, second.file_bytes),
        "MACs": (first.macs, second.macs),
        "parameters": (first.parameters, second.parameters),
    }
    return {word: b / a for word, (a, b) in pairs.items() if a and b is not None}
