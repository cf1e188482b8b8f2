"""Which frequencies the spatial kernels are made of."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from filtersurgeon.explain.explanation import distances, explain
from filtersurgeon.plots.heat_map import draw_explanation
from filtersurgeon.report.reporting import Figure, Section, Subject, Table


def spectra(subject: Subject) -> Section:
    """Draw the DCT spectra of every spatial layer; of a pair, both on one scale."""
    found = [explain(x) for x in (subject.checkpoint, subject.before) if x]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "spectra.png"
        draw_explanation(found, path)
        png = path.read_bytes()
    apart = distances(*found) if len(found) > 1 else {}
    columns: tuple[str, ...] = ("layer", "kernels", "energy below half of the highest frequency")
    rows = tuple(
        (x.name, x.n_kernels, x.low_share, *([apart.get(x.name, "")] if apart else []))
        for x in found[0].layers
    )
    text = (
        "The energy of every layer's kernels in the DCT-II, by frequency (ExplainSteer); a flat "
        "spectrum has half of it below half of the highest frequency."
    )
    caption = "Columns are layers, rows frequencies from low to high."
    tables = (Table((*columns, *(["distance"] if apart else [])), rows),)
    return Section("Spectra", (text, *found[0].notes), tables, (Figure(png, caption),))
