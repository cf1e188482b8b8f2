"""The ranking that a walk tells of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import OptionError
from filtersurgeon.registry import RANKING_METHODS
from filtersurgeon.walk.settings import WalkSettings

if TYPE_CHECKING:
    from filtersurgeon.ranking import Ranking

DEFAULT = "l2"


def check_method(settings: WalkSettings) -> None:
    """Refuse, before any work, a method that is unknown or looks at images with labels.

    Raises:
        OptionError: it cannot be used here.
    """
    if settings.ranking and "data" in RANKING_METHODS.inputs(settings.ranking):
        raise OptionError(
            f"{settings.ranking} looks at labelled images: rank first, with fsurgeon rank "
            "--annotate, and walk through what that gives"
        )


def find_ranking(checkpoint: Checkpoint, settings: WalkSettings) -> Ranking | None:
    """Rank the filters as asked for, or read the ranking in the checkpoint; else by length.

    Raises:
        OptionError: the method needs images with labels.
        CheckpointError: the ranking in the checkpoint is corrupt.
    """
    from filtersurgeon.filters import find_layers
    from filtersurgeon.ranking import rank
    from filtersurgeon.ranking.annotation import read_ranking

    stored = None if settings.ranking else read_ranking(checkpoint)
    if stored is not None:
        return stored
    if not find_layers(checkpoint):
        return None
    check_method(settings)
    return rank(checkpoint, settings.ranking or DEFAULT, layers=["*"], seed=settings.seed)
