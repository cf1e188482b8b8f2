"""Labelled images for a network to be run on, and where it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from filtersurgeon.data.data import DataSpec


@dataclass(frozen=True)
class ImageRun:
    """What an analysis that needs the running network is given.

    Attributes:
        data: which images.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        workers: processes that read images ahead.
        device: torch's name of the device.
        tell: told what was converted or left out.
    """

    data: DataSpec
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 0
    device: str = "cpu"
    tell: Callable[[str], None] | None = None


def as_run(data: ImageRun | DataSpec | str) -> ImageRun:
    """Give a run; images alone, or their source alone, stand for one with every default."""
    if isinstance(data, ImageRun):
        return data
    return ImageRun(DataSpec(data) if isinstance(data, str) else data)
