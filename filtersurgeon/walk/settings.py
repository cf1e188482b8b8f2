"""What a walk shows, and the bounds of its server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOOPBACK = "127.0.0.1"
LARGEST_UPLOAD = 20_000_000
"""Bytes of an image file that ``--serve`` takes."""


@dataclass(frozen=True)
class WalkSettings:
    """What a walk shows.

    Attributes:
        ranking: the method of the filters' scores; None takes the ranking in the checkpoint's
            metadata, else their length (``l2``).
        decode: globs on layers whose channels are shown decoded.
        maximize: globs on layers whose channels are shown by the image that excites them.
        units: which channels of those layers, such as ``0,3,8-11``, or ``all``.
        max_size: of the page, in megabytes (10^6 bytes); None for no bound.
        seed: of what is drawn.
        device: where to compute.
        preprocess: values that replace those of the first checkpoint's ``pretrained_cfg``.
    """

    ranking: str | None = None
    decode: tuple[str, ...] = ()
    maximize: tuple[str, ...] = ()
    units: str | None = None
    max_size: float | None = 50.0
    seed: int = 0
    device: str = "cpu"
    preprocess: Mapping[str, Any] = field(default_factory=dict)


USUAL = WalkSettings()
