"""Position in the layer's simplex: filters near an archetype matter, mixtures are redundant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from filtersurgeon.archetypes import Archetypes, archetypal_analysis, archetypal_analysis_batch
from filtersurgeon.archetypes.problem import Options
from filtersurgeon.errors import OptionError
from filtersurgeon.ranking.archetype_counts import SHARE, find_count, read_count
from filtersurgeon.ranking.method import Scores, filters_only, together
from filtersurgeon.ranking.ranking import kendall_tau

_ROUNDING = 1e-13
"""Share of the largest squared norm that a squared distance of nothing may come to."""


def score_together(
    layers: Sequence[np.ndarray], device: str, seeds: Sequence[int], **options: Any
) -> list[Scores]:
    """Score the filters of many layers, those of equal size side by side on a GPU.

    Random starts and `stability` take the CPU.
    """
    if options.get("stability") or options.get("init") == "furthest-sum":
        each = zip(layers, seeds, strict=True)
        return [archetype(filters, **options, seed=seed) for filters, seed in each]
    rows = [_rows(filters, options.get("normalize", False)) for filters in layers]
    how: Any = {k: options[k] for k in ("tol", "init", "n_init", "max_iter") if k in options}
    how["device"] = device
    share, stated = options.get("share", SHARE), options.get("archetypes")
    counts = [_count(X, share, stated, options.get("capped", True), how) for X in rows]
    models = archetypal_analysis_batch(rows, counts, **how)
    return [_scores(X, model) for X, model in zip(rows, models, strict=True)]


@together(score_together)
@filters_only
def archetype(
    filters: np.ndarray,
    *,
    share: float = SHARE,
    archetypes: str | None = None,
    capped: bool = True,
    normalize: bool = False,
    tol: float = 1e-5,
    init: str = "successive-projection",
    n_init: int | None = None,
    max_iter: int = 300,
    stability: int = 0,
    seed: int = 0,
) -> Scores:
    """Score N filters of l weights, ``(N, l)``, by how few archetypes describe them.

    The filters are modelled as convex combinations of archetypes, ``X ~ X B A``. The score is the
    negative number of archetypes that a filter mixes, ``-||a_i||_0``. Equal scores are decided by
    the largest coefficient, then by the distance to the nearest archetype.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, Eq. 1 and section 4.

    Args:
        filters: one filter per row.
        share: number of archetypes as a share of the filters.
        archetypes: their number itself, such as 16, or ``elbow``, where the error against their
            number turns; in place of the share.
        capped: take no greater share than makes as many archetypes as weights plus one. Beyond
            that, which the many filters of a depthwise layer reach, a filter is a mixture in more
            than one way, and the number of archetypes in it means little.
        normalize: scale every filter to unit norm first, so that only directions count.
        tol: stop the analysis at this relative improvement of its objective.
        init: where the analysis starts: ``successive-projection``, which draws nothing, or
            ``furthest-sum``, which begins at a filter drawn by the seed.
        n_init: number of starts, of which the best is kept; by default a search that is about as
            good as 50 starts.
        max_iter: sweeps of a start at most.
        stability: repeat the analysis from so many other starts, drawn by the seed
            (furthest-sum), and compare the orders.
        seed: of ``furthest-sum`` and of those starts.

    Returns:
        Scores from ``-d`` to ``-1``; statistics ``archetypes`` (d), ``error`` (relative residual
        of the model), ``pure`` (share of the filters that are an archetype by themselves), and
        ``stability`` if it was asked for: the mean of Kendall's tau between this order and those
        from the other starts, at most 1.
    """
    if stability < 0:
        raise OptionError(f"stability={stability} should be a number of starts")
    X = _rows(filters, normalize)
    search: Options = {"tol": tol, "init": init, "n_init": n_init, "max_iter": max_iter,
                       "random_state": seed}  # fmt: skip
    count = _count(X, share, archetypes, capped, search)
    model = archetypal_analysis(X, count, **search)
    scores = _scores(X, model)
    if not stability:
        return scores
    others = (
        archetypal_analysis(X, count, tol=tol, init="furthest-sum", random_state=seed + start)
        for start in range(1, stability + 1)
    )
    order = scores.order()
    taus = [kendall_tau(order, _scores(X, other).order()) for other in others]
    return scores._replace(statistics={**scores.statistics, "stability": float(np.mean(taus))})


def _rows(filters: np.ndarray, normalize: bool) -> np.ndarray:
    X = np.asarray(filters, np.float64)
    if not normalize:
        return X
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.where(norms > 0, norms, 1.0))


def _count(
    X: np.ndarray, share: float, archetypes: str | None, capped: bool, search: Options
) -> int:
    """Give the number of archetypes."""
    if not 0 < share <= 1:
        raise OptionError(f"share={share} should lie above 0 and not above 1")
    wanted = share if archetypes is None else read_count(archetypes)
    return find_count(X, wanted, capped=capped, **search)[0]


def _scores(X: np.ndarray, model: Archetypes) -> Scores:
    A = model.coefficients
    mixed = (A > 0).sum(axis=0)
    statistics = {
        "archetypes": len(A),
        "error": model.relative_error,
        "pure": float((mixed == 1).mean()),
    }
    nearest = _distance_to_nearest(X, model.weights.T @ X)
    return Scores(-mixed.astype(np.float64), (A.max(axis=0), -nearest), statistics)


def _distance_to_nearest(X: np.ndarray, archetypes: np.ndarray) -> np.ndarray:
    centre = X.mean(axis=0)
    X, Z = X - centre, archetypes - centre
    norms = (X**2).sum(axis=1)
    squared = (norms[:, None] + (Z**2).sum(axis=1) - 2.0 * X @ Z.T).min(axis=1)
    # Rounding, which is another one on every processor, must not put filters in order that are
    # archetypes themselves.
    return np.sqrt(np.where(squared > _ROUNDING * norms.max(), squared, 0.0))
