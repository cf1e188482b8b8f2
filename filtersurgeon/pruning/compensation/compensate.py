"""Apply a compensation by its name."""

from __future__ import annotations

from torch import Tensor

from filtersurgeon.data.data import ImageRun, as_run
from filtersurgeon.errors import OptionError
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.pruning.compensation.calibration import open_calibration
from filtersurgeon.pruning.compensation.readers import Tensors
from filtersurgeon.registry import COMPENSATIONS


def apply_compensation(
    kind: str,
    opened: OpenedModel,
    keep: Mask,
    changed: Tensors,
    *,
    images: ImageRun | str | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Change weights so that a network misses its removed channels less.

    Args:
        kind: the name of a compensation, a file of ``kinds``.
        opened: the network.
        keep: group -> whether it is kept.
        changed: tensors with other values than the network's, in its original shapes.
        images: to calibrate with, for the kinds that look at images.
        seed: of the order of the images, and of what is drawn from them.

    Returns:
        ``changed`` and more of that kind.

    Raises:
        OptionError: an unknown kind, or one that needs images and has none.
        DataError: the images are missing or do not fit the network.
        OutOfMemoryError: a batch does not fit.
    """
    check_images(kind, images)
    function = COMPENSATIONS.function(kind)
    found: dict[str, Tensor]
    if images is None or not calibrates(kind):
        found = function(opened, keep, changed)
    else:
        calibration = open_calibration(opened.checkpoint, as_run(images), seed)
        found = function(opened, keep, changed, calibration)
    return found


def calibrates(kind: str) -> bool:
    """Tell whether a compensation looks at images; ``none`` does not."""
    return kind != "none" and "images" in COMPENSATIONS.inputs(kind)


def check_images(kind: str, images: object) -> None:
    """Refuse a compensation that lacks its images; raises OptionError."""
    if images is None and calibrates(kind):
        raise OptionError(f"`compensate` {kind} looks at images: pass some with `data`")
