"""Which filters matter, by a ranking."""

from __future__ import annotations

from filtersurgeon.data.data import ImageRun
from filtersurgeon.errors import CheckpointError
from filtersurgeon.ranking import Ranking, rank
from filtersurgeon.ranking.annotation import read_ranking
from filtersurgeon.ranking.method import takes_images
from filtersurgeon.report.reporting import Section, Subject, Table


def ranking(subject: Subject) -> Section | None:
    """Show the ranking that was asked for, or the one that the checkpoint carries."""
    shown = _find_ranking(subject)
    if shown is None:
        return None
    layers = shown.layers.values()
    names = list(dict.fromkeys(key for layer in layers for key in layer.statistics))
    rows = tuple(
        (
            layer.name,
            len(layer.order),
            " ".join(map(str, layer.order[:5])),
            " ".join(map(str, layer.order[-5:])),
            *(layer.statistics.get(name, "") for name in names),
        )
        for layer in layers
    )
    columns = ("layer", "filters", "most important", "least important", *names)
    text = f"By {shown.method}, over {len(layers)} layers; higher scores are kept longer."
    return Section("Ranking", (text,), (Table(columns, rows),))


def _find_ranking(subject: Subject) -> Ranking | None:
    settings = subject.settings
    if settings.ranking:
        data = None
        if settings.data is not None and takes_images(settings.ranking):
            data = ImageRun(settings.data, settings.preprocess, device=settings.device)
        return rank(subject.checkpoint, settings.ranking, seed=settings.seed, data=data)
    try:
        return read_ranking(subject.checkpoint)
    except CheckpointError:
        return None
