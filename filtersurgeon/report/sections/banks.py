"""How well the built-in bank fits depthwise kernels, and how often each member is used."""

from __future__ import annotations

from filtersurgeon.errors import LayerError
from filtersurgeon.report.reporting import Section, Subject, Table
from filtersurgeon.transforms.replace import LayerReplacement, replace


def banks(subject: Subject) -> Section | None:
    """Fit the closest member of dog8 to every depthwise kernel; nothing is replaced."""
    found: list[LayerReplacement] = []
    try:
        edited = replace(subject.checkpoint, bank="dog8", observe=found.append)
    except LayerError:
        return None
    for change in edited.changes:
        for _ in edited[change.tensor].blocks():
            pass
    labels = found[0].labels
    rows = tuple((x.name, x.n_kernels, x.relative_error, *(int(n) for n in x.usage)) for x in found)
    columns = ("layer", "kernels", "relative error", *labels)
    text = (
        "Every depthwise kernel beside a*g + b with the closest of eight difference-of-Gaussian "
        "kernels: the relative error, and how many kernels each member stands for."
    )
    return Section("Bank use", (text,), (Table(columns, rows),))
