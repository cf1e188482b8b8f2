"""Archetypal analysis of many layers at once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Unpack

from numpy.typing import ArrayLike

from filtersurgeon.archetypes.analysis import analyse
from filtersurgeon.archetypes.problem import checked_filters, distinct_points
from filtersurgeon.archetypes.result import Archetypes, Floats
from filtersurgeon.archetypes.settings import Options, Settings
from filtersurgeon.archetypes.solver import (
    best_of,
    mixtures,
    polished,
    single_threaded_blas,
)
from filtersurgeon.errors import OptionError


def archetypal_analysis_batch(
    layers: Sequence[ArrayLike],
    n_archetypes: int | Sequence[int],
    *,
    n_threads: int | None = None,
    **options: Unpack[Options],
) -> list[Archetypes]:
    """Find archetypes of several layers, as `archetypal_analysis` does of each.

    On the CPU the layers are shared out among threads, the widest first. On a PyTorch device
    layers of as many distinct filters and archetypes go through the sweeps together.

    Args:
        layers: matrices (N, l) with one flattened filter per row.
        n_archetypes: for all layers, or one number for each.
        n_threads: threads on the CPU; one per processor by default. The results do not depend
            on it.
        **options: as in `archetypal_analysis`.

    Returns:
        The archetypes of each layer, in order.

    Raises:
        LayerError: a layer that `archetypal_analysis` refuses.
        OptionError: unusable options, or not one number of archetypes per layer.
    """
    settings = Settings(**options)
    counts = [n_archetypes] * len(layers) if isinstance(n_archetypes, int) else list(n_archetypes)
    if len(counts) != len(layers):
        raise OptionError(f"{len(layers)} layers, but {len(counts)} numbers of archetypes")
    matrices = [checked_filters(layer) for layer in layers]
    with single_threaded_blas():
        if settings.device is not None and settings.coreset_size is None:
            return _together(matrices, counts, settings)
        with ThreadPoolExecutor(n_threads or os.cpu_count()) as pool:
            waiting = {
                k: pool.submit(analyse, matrices[k], counts[k], None, settings)
                for k in sorted(range(len(counts)), key=lambda k: -len(matrices[k]))
            }
            return [waiting[k].result() for k in range(len(counts))]


def _together(matrices: list[Floats], counts: list[int], settings: Settings) -> list[Archetypes]:
    """Solve layers of equal size side by side on a PyTorch device."""
    from filtersurgeon.archetypes.start import first_starts
    from filtersurgeon.archetypes.torch_alternation import alternate_together

    problems = [distinct_points(X, None).problem() for X in matrices]
    starts = [
        first_starts(problem, count, settings)
        for problem, count in zip(problems, counts, strict=True)
    ]
    alike = defaultdict(list)
    for k, (tried, _) in enumerate(starts):
        for start in tried:
            alike[problems[k].size, len(start.picks)].append((k, start))
    tries = defaultdict(list)
    for members in alike.values():
        ended = alternate_together(
            [problems[k] for k, _ in members], [start for _, start in members], settings
        )
        for (k, _), end in zip(members, ended, strict=True):
            tries[k].append(end)
    found = [
        polished(problem, best_of(tries[k]), starts[k][1]) for k, problem in enumerate(problems)
    ]
    return [
        replace(answer, archetypes=mixtures(answer.weights, X))
        for answer, X in zip(found, matrices, strict=True)
    ]
