"""How a transform of weights adapts the rest of the network to them, on images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import as_run, part_of
from filtersurgeon.data.splits import FIT, warning_of
from filtersurgeon.errors import OptionError, near_misses

KINDS = ("none", "batchnorm", "least-squares")


def check_compensation(kind: str, data: object, other: bool = False) -> None:
    """Refuse a compensation that is unknown or lacks its images, and images without a use.

    Args:
        kind: of ``KINDS``.
        data: images, or None.
        other: whether the images have another use.

    Raises:
        OptionError: the words do not go together.
    """
    if kind not in KINDS:
        raise OptionError(
            f"compensate={kind!r} is none of {', '.join(KINDS)}{near_misses(str(kind), KINDS)}"
        )
    if kind != "none" and data is None:
        raise OptionError(f"`compensate` {kind} needs images: pass them with `data`")
    if kind == "none" and data is not None and not other:
        raise OptionError("`data` is used to compensate only; add `compensate`")


def compensated(
    before: Checkpoint, after: Checkpoint, kind: str, data: Any, seed: int
) -> Checkpoint:
    """Adapt the network around changed tensors, and state the images in the history.

    Args:
        before: the original network.
        after: the same with pending changes, the last entry of its history.
        kind: of ``KINDS``; ``none`` changes nothing.
        data: images, for the others.
        seed: of the order of the images, and of what is drawn from them.
    """
    if kind == "none":
        return after
    from filtersurgeon.pruning.compensation.edited import compensate_edit

    after = stated(after, {"compensate": kind, **({"seed": seed} if seed else {})}, data)
    return compensate_edit(before, after, kind, as_run(data), seed)


def stated(after: Checkpoint, options: Mapping[str, Any], data: Any) -> Checkpoint:
    """Add options and images to the last entry of a history."""
    images = part_of(as_run(data).data, FIT).described()
    last = after.history[-1]
    entry = replace(
        last, options={**last.options, **options}, data=images, warning=warning_of(images)
    )
    return replace(after, history=(*after.history[:-1], entry))
