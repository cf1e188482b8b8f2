"""The first line of a report: size, accuracy and speed, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import hypot, isfinite
from typing import TYPE_CHECKING, Any, TypeVar

from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.learn.several_labels import MultiLabelEvaluation

if TYPE_CHECKING:
    from filtersurgeon.learn.latency import Latency
    from filtersurgeon.learn.outcomes import Outcome
    from filtersurgeon.report.measures import Measures

T = TypeVar("T")

_LEAST_KEPT = 0.5
"""Below this share of the original's advantage over guessing, the accuracy counts as lost."""
_FRACTIONS = {1 / 2: "half", 1 / 3: "a third of", 1 / 4: "a quarter of"}
_NEAR = 0.01


def verdict(measures: Measures) -> str:
    """Say in one line what the network is like, or how it differs from the original.

    The line names what was not measured. An accuracy that is lost comes before everything else.
    """
    outcomes, failed = _try(measures.outcomes)
    if measures.data is None:
        absent = "accuracy not measured (no labelled images)"
    elif failed:
        absent = "accuracy not measured (the evaluation failed)"
    else:
        absent = "accuracy not measured (the network cannot be built)"
    times, _ = _try(measures.latencies)
    if len(measures.checkpoints) == 1:
        parts = [_size(measures), _score(outcomes[0]) if outcomes else absent, _time(times)]
        return _sentence(parts)
    size, speed = _smaller(*measures.parameters), _faster(times)
    if outcomes is None:
        return _sentence([size, absent, speed])
    lost = _loss(*outcomes)
    if lost:
        return f"{_sentence([lost])} {_sentence([size, speed])}"
    return _sentence([size, _difference(*outcomes), speed])


def _try(measure: Callable[[], T | None]) -> tuple[T | None, bool]:
    """Give what was measured, and whether that failed."""
    try:
        return measure(), False
    except FilterSurgeonError:
        return None, True


def _sentence(parts: Sequence[str]) -> str:
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _size(measures: Measures) -> str:
    text = f"{measures.parameters[0]:,} parameters"
    macs, _ = _try(measures.macs)
    return f"{text}, {macs[0] / 1e6:,.0f} million multiply-accumulates per image" if macs else text


def _smaller(now: int, before: int) -> str:
    """Compare the parameters of two networks."""
    if now == before or not before:
        return "as many parameters"
    ratio = now / before
    for fraction, word in _FRACTIONS.items():
        if abs(ratio - fraction) < _NEAR:
            return f"{word} the parameters"
    if ratio > 1:
        return f"{ratio:.3g} times the parameters"
    return f"{100 * ratio:.3g} % of the parameters"


def _name(outcome: Outcome) -> str:
    name = str(outcome.score_name)
    return f"{name} accuracy" if isinstance(outcome, Evaluation) else name


def _guessing(outcome: Outcome) -> float:
    """Give the score of a network that has learnt nothing about these images."""
    if isinstance(outcome, Evaluation):
        counts = outcome.class_images
        return max(1 / max(len(counts), 1), max(counts, default=0) / outcome.n_images)
    return 0.5 if isinstance(outcome, MultiLabelEvaluation) else 0.0


def _above_guessing(outcome: Outcome) -> bool:
    low = outcome.interval()[0] if isinstance(outcome, Evaluation) else outcome.score
    return bool(low > _guessing(outcome))


def _score(outcome: Outcome) -> str:
    name, images = _name(outcome), f"{outcome.n_images:,} images"
    if not isfinite(outcome.score):
        return f"{name} not defined on these {images}"
    text = f"{name} {100 * outcome.score:.1f} % ({images})"
    return text if _above_guessing(outcome) else f"{text}, not measurably better than guessing"


def _loss(now: Outcome, before: Outcome) -> str | None:
    """Say that the accuracy is lost, or that there is none to lose; None where it is kept."""
    name, images = _name(now), f"{now.n_images:,} images"
    if not isfinite(now.score) or not isfinite(before.score):
        return f"{name} not defined on these {images}"
    level = f"from {100 * before.score:.1f} % to {100 * now.score:.1f} %"
    if not _above_guessing(before):
        if _above_guessing(now):
            return None
        return (
            f"neither network is measurably better than guessing: {name} "
            f"{100 * before.score:.1f} % and {100 * now.score:.1f} % ({images})"
        )
    chance = _guessing(before)
    if now.score - chance >= _LEAST_KEPT * (before.score - chance):
        return None
    return f"the accuracy is lost: {name} falls {level} ({images})"


def _difference(now: Outcome, before: Outcome) -> str:
    name, images = _name(now), f"{now.n_images:,} images"
    points = 100 * (now.score - before.score)
    if abs(points) < 0.05:
        return f"the same {name} ({100 * now.score:.1f} %, {images})"
    found = f"{abs(points):.1f} points {'more' if points > 0 else 'less'} {name}"
    level = f"{100 * now.score:.1f} % instead of {100 * before.score:.1f} %, {images}"
    doubt = ", within the uncertainty" if _is_uncertain(now, before) else ""
    return f"{found} ({level}{doubt})"


def _is_uncertain(now: Any, before: Any) -> bool:
    """Tell whether two accuracies differ by less than their 95 % intervals allow."""
    if not isinstance(now, Evaluation) or not isinstance(before, Evaluation):
        return False
    halves = [(high - low) / 2 for low, high in (now.interval(), before.interval())]
    return bool(abs(now.score - before.score) <= hypot(*halves))


def _time(times: Sequence[Latency] | None) -> str:
    if not times:
        return "speed not measured"
    return f"{times[0].median_ms:.3g} ms per image ({times[0].device})"


def _faster(times: Sequence[Latency] | None) -> str:
    if not times:
        return "speed not measured"
    now, before = times
    level = f"{now.median_ms:.3g} ms instead of {before.median_ms:.3g} ms per image, {now.device}"
    apart = now.high_ms < before.low_ms or before.high_ms < now.low_ms
    ratio = before.median_ms / now.median_ms
    if not apart or 0.95 < ratio < 1.05:
        return f"no measurable difference in speed ({level})"
    if ratio > 1:
        return f"{ratio:.2g} times as fast ({level})"
    return f"takes {1 / ratio:.2g} times as long ({level})"
