"""How often the network is right."""

from __future__ import annotations

from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.evaluating import evaluate
from filtersurgeon.report.reporting import Section, Subject, Table


def accuracy(subject: Subject) -> Section | None:
    """Evaluate on the given images, each checkpoint."""
    settings = subject.settings
    if settings.data is None or subject.network is None:
        return None
    how = EvaluationSettings(settings.batch_size, device=settings.device)
    rows: list[tuple[object, ...]] = []
    columns: tuple[str, ...] = ()
    named = (("this", subject.checkpoint), ("compared with", subject.before))
    for name, checkpoint in named:
        if checkpoint is not None:
            found = evaluate(checkpoint, settings.data, how, preprocess=settings.preprocess)
            figures = found.figures()
            columns = ("", *figures, "images")
            rows.append((name, *figures.values(), found.n_images))
    return Section("Accuracy", (), (Table(columns, tuple(rows)),))
