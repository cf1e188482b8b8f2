"""What an initialisation's spectra should look like, as a check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.explain.explanation import Explanation
from filtersurgeon.explain.spectrum import Spectrum

EXPECTATIONS = ("flat", "low-pass")

SLACK = 0.1
"""A flat spectrum's basis filters lie so close to their mean, beyond chance."""

CHANCE = 5.0
"""Standard errors that chance is allowed."""

LOW_PASS = 1.1
"""A low-pass network has so many times the low share of a flat spectrum, at least."""

_NO_MEAN = 1e-3  # of the mean energy: less in the constant basis filter counts as none

_ENOUGH = 16  # kernels per basis filter, to judge a layer by itself


def unmet(explanation: Explanation, expectation: str) -> list[str]:
    """Say what about the spectra is not as expected; nothing if all of it is.

    ``flat``: no basis filter's energy is farther from their mean than a tenth of it and five
    standard errors, in the whole network per kernel size, and in every layer that has at least 16
    kernels per basis filter. ``low-pass``: of the energy of all kernels of a size, at least a
    tenth more lies in low frequencies (:attr:`Spectrum.low_share`) than of a flat spectrum, which
    has no constant part either where the kernels have none.
    Source: the sanity checks of Gaudio et al., *ExplainFix*, Appendix G.

    Args:
        explanation: with uniform weights.
        expectation: ``flat`` or ``low-pass``.

    Raises:
        OptionError: no such expectation, or spectra that are weighed by scores.
    """
    check_expectation(expectation, explanation.weights)
    if expectation == "low-pass":
        return [text for part in explanation.network if (text := _not_low(part))]
    large = [x for x in explanation.layers if x.n_kernels >= _ENOUGH * len(x.e2)]
    return [text for part in (*explanation.network, *large) if (text := _not_flat(part))]


def check_expectation(expectation: str, weights: str) -> None:
    """Refuse an expectation that is unknown, or cannot be had of spectra with such weights.

    Raises:
        OptionError: so it is.
    """
    if expectation not in EXPECTATIONS:
        hint = near_misses(expectation, EXPECTATIONS)
        raise OptionError(f"no expectation called {expectation!r}{hint}")
    if weights != "uniform":
        raise OptionError(
            "an expectation is about the kernels by themselves; leave `data` and scores out"
        )


def _not_flat(part: Spectrum) -> str:
    mean = part.e2.mean()
    if mean == 0:
        return f"{part.name} has no energy at all"
    # If it is flat, every basis filter has this standard error.
    error = 0.0 if part.error is None else float(np.sqrt(np.square(part.error).mean()))
    off = np.abs(part.e2 - mean)
    worst = int(off.argmax())
    if off[worst] <= SLACK * mean + CHANCE * error:
        return ""
    return (
        f"{part.name} is not flat: basis filter {worst} has {part.e2[worst] / mean:.2f} times the "
        f"mean energy of the {len(part.e2)}"
    )


def _not_low(part: Spectrum) -> str:
    flat = np.ones_like(part.e2)
    flat[0] = part.e2[0] > _NO_MEAN * part.e2.mean()
    limit = LOW_PASS * replace(part, e2=flat).low_share
    if part.low_share >= limit:
        return ""
    return (
        f"{part.name} is not low-pass: {100 * part.low_share:.1f} % of the energy lies in low "
        f"frequencies, at least {100 * limit:.1f} % was expected"
    )
