"""Which filters matter, by a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filtersurgeon.checkpoint.jsontext import parse_json
from filtersurgeon.errors import CheckpointError
from filtersurgeon.ranking import rank
from filtersurgeon.ranking.annotation import read_annotation
from filtersurgeon.ranking.ranking import ANNOTATION
from filtersurgeon.reporting import Section, Subject, Table


def ranking(subject: Subject) -> Section | None:
    """Show the ranking that was asked for, or the one that the checkpoint carries."""
    content = _content(subject)
    if content is None:
        return None
    layers = content["layers"]
    names = list(dict.fromkeys(key for layer in layers for key in layer["statistics"]))
    rows = tuple(
        (
            layer["name"],
            layer["filters"],
            " ".join(map(str, layer["order"][:5])),
            " ".join(map(str, layer["order"][-5:])),
            *(layer["statistics"].get(name, "") for name in names),
        )
        for layer in layers
    )
    columns = ("layer", "filters", "most important", "least important", *names)
    text = f"By {content['method']}, over {len(layers)} layers; higher scores are kept longer."
    return Section("Ranking", (text,), (Table(columns, rows),))


def _content(subject: Subject) -> Mapping[str, Any] | None:
    method, stored = subject.settings.ranking, subject.checkpoint.annotations.get(ANNOTATION)
    if method:
        return rank(subject.checkpoint, method, seed=subject.settings.seed).to_json()
    try:
        read_annotation(subject.checkpoint)
        found: Mapping[str, Any] | None = parse_json(stored) if stored else None
    except (CheckpointError, ValueError):
        return None
    whole = found and all({"filters", "statistics"} <= {*layer} for layer in found["layers"])
    return found if whole else None
