"""The ranking that a walk tells of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import CheckpointError, OptionError
from filtersurgeon.registry import RANKING_METHODS
from filtersurgeon.see.walk.settings import WalkSettings

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
            f"{settings.ranking} looks at labelled images: rank first, with --annotate, and walk "
            "through what that gives"
        )


def find_ranking(checkpoint: Checkpoint, settings: WalkSettings) -> Ranking | None:
    """Rank the filters as asked for, or read the ranking in the checkpoint; else by length.

    Raises:
        OptionError: the method needs images with labels.
    """
    from filtersurgeon.filters import find_layers
    from filtersurgeon.ranking import rank
    from filtersurgeon.ranking.ranking import ANNOTATION

    if settings.ranking is None and ANNOTATION in checkpoint.annotations:
        return read_ranking(checkpoint)
    if not find_layers(checkpoint):
        return None
    check_method(settings)
    return rank(checkpoint, settings.ranking or DEFAULT, layers=["*"], seed=settings.seed)


def read_ranking(checkpoint: Checkpoint) -> Ranking:
    """Read the ranking in a checkpoint's metadata.

    Raises:
        CheckpointError: it is corrupt.
    """
    from filtersurgeon.ranking import Ranking
    from filtersurgeon.ranking.annotation import read_annotation
    from filtersurgeon.ranking.ranking import ANNOTATION, LayerRanking

    orders = read_annotation(checkpoint) or {}
    content = json.loads(checkpoint.annotations[ANNOTATION])
    try:
        layers = {
            x["name"]: LayerRanking(
                x["name"], str(x["kind"]), np.array(x["scores"], np.float64), orders[x["name"]]
            )
            for x in content["layers"]
        }
        return Ranking(str(content["method"]), {}, layers)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.name} carries a corrupt ranking in its metadata: {error}"
        ) from None
