"""How often the network is right."""

from __future__ import annotations

from filtersurgeon.report.reporting import Section, Subject, Table


def accuracy(subject: Subject) -> Section | None:
    """Evaluate on the given images, each checkpoint."""
    outcomes = subject.measures.outcomes()
    if outcomes is None:
        return None
    named = zip(("this", "compared with"), outcomes, strict=False)
    rows = tuple((name, *found.figures().values(), found.n_images) for name, found in named)
    columns = ("", *outcomes[0].figures(), "images")
    return Section("Accuracy", (), (Table(columns, rows),))
