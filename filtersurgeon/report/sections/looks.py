"""Where the network looks in some images."""

from __future__ import annotations

from dataclasses import replace

from filtersurgeon.report.reporting import Section, Subject, sheet
from filtersurgeon.see.gradcam import gradcam

_IMAGES = 4


def looks(subject: Subject) -> Section | None:
    """Draw Grad-CAM for a few of the given images, of each checkpoint."""
    settings = subject.settings
    if settings.data is None or subject.network is None:
        return None
    few = replace(settings.data, subset=_IMAGES, seed=settings.seed)
    pair = [subject.before, subject.checkpoint] if subject.before else [subject.checkpoint]
    found = gradcam(
        [x for x in pair if x], data=few, device=settings.device, preprocess=settings.preprocess
    )
    text = (
        f"Grad-CAM at {found.looks[0].layer} for the class that "
        f"{'the network compared with' if subject.before else 'the network'} sees; below each, the "
        "class that is seen."
    )
    return Section("Where it looks", (text,), (), (sheet(found.rows(), text, tile=128),))
