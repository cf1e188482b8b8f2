"""One page about a checkpoint, or about a pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon import __version__
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import FilterSurgeonError, ImageError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.networks.opened_module import analyses_modules, open_like
from filtersurgeon.plots.page import picture_address, write_page
from filtersurgeon.plots.sheet import Row, draw_sheet, png_bytes
from filtersurgeon.registry import Registry
from filtersurgeon.report.measures import Measures
from filtersurgeon.report.verdict import verdict

if TYPE_CHECKING:
    from torch import nn

    from filtersurgeon.learn.networks import Network

SECTIONS = Registry("filtersurgeon.report.sections", "section")
ORDER = (
    "history", "size", "accuracy", "layers", "filters", "spectra", "ranking", "banks", "decoded",
    "looks",
)  # fmt: skip
"""Sections in this order; others, found in the same folder, follow by name."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names; numbers are aligned right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        png: its file.
        caption: shown below it, and its alternative text.
        title: what opens and closes it; empty for one that is always shown.
        width: how wide it is shown, in CSS pixels, each of its pixels a sharp square; None for its
            own size.
        is_open: whether one with a title is shown at first.
    """

    png: bytes
    caption: str
    title: str = ""
    width: int | None = None
    is_open: bool = True

    @property
    def address(self) -> str:
        """The picture as an address that holds it."""
        return picture_address(self.png)


def sheet(rows: list[Row], caption: str, **layout: Any) -> Figure:
    """Make a figure of a contact sheet."""
    return Figure(png_bytes(draw_sheet(rows, **layout)), caption)


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: its heading.
        text: sentences below it.
        tables: shown open, if they are short.
        figures: below the tables.
    """

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class ReportSettings:
    """Settings of a report.

    Attributes:
        data: labelled images; without them nothing is said about accuracy.
        ranking: a ranking method; None takes the ranking in the checkpoint's metadata, if any.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        batch_size: images at a time.
        device: where to compute; ``auto`` is a GPU if there is one.
        seed: of what is drawn.
        latency_runs: timed passes; 0 for none, so that the same report is the same bytes.
    """

    data: DataSpec | None = None
    ranking: str | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    device: str = "auto"
    seed: int = 0
    latency_runs: int = 10


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        checkpoint: the one in question.
        before: the one that it is compared with, or None.
        network: that of the checkpoint, or None where it cannot be built.
        network_before: that of ``before``.
        settings: what may be looked at.
        measures: accuracy, work and time of both.
    """

    checkpoint: Checkpoint
    before: Checkpoint | None
    network: Network | None
    network_before: Network | None
    settings: ReportSettings
    measures: Measures


@analyses_modules
def write_report(
    checkpoint: Checkpoint,
    path: str | Path,
    before: Checkpoint | nn.Module | None = None,
    settings: ReportSettings = ReportSettings(),
    *,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[str]:
    """Write an HTML report about a network, or a pair, in one file.

    The page begins with a verdict in one line, from what is measured: parameters, accuracy, speed.
    Every file in ``report/sections`` adds a section, or None where its inputs are missing.

    Args:
        checkpoint: what the report is about; or a module in memory, with its ``example_inputs`` by
            name.
        path: where to.
        before: what to compare it with.
        settings: what to look at.
        progress: told sections done and sections in all.
        tell: told what had to be left out, and why.

    Returns:
        The titles of the sections.

    Raises:
        CheckpointError: the file cannot be written.
        ImageError: an image cannot be read.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     titles = fs.write_report(checkpoint, Path(folder, "report.html"))
        >>> titles[0]
        'History'
    """
    other = None if before is None else open_like(before, checkpoint)
    subject = _open(checkpoint, other, settings, tell)
    known = SECTIONS.names()
    names = [*(n for n in ORDER if n in known), *(n for n in known if n not in ORDER)]
    sections: list[Section] = []
    missing: list[str] = []
    for done, name in enumerate(names, 1):
        try:
            section = SECTIONS.function(name)(subject)
        except ImageError:
            raise
        except FilterSurgeonError as error:
            section = None
            missing.append(f"no section about {name}: {error}")
        if section is not None:
            sections.append(section)
        if progress:
            progress(done, len(names))
    if tell:
        for note in missing:
            tell(note)
    found = verdict(subject.measures)
    write_page("report.html", path, sections=sections, verdict=found, **_head(subject))
    return [section.title for section in sections]


def _open(
    checkpoint: Checkpoint,
    before: Checkpoint | None,
    settings: ReportSettings,
    tell: Callable[[str], None] | None,
) -> Subject:
    checkpoints = [x for x in (checkpoint, before) if x is not None]
    networks = [_network(x, settings, tell) for x in checkpoints]
    measures = Measures(
        checkpoints, networks, settings.data,
        EvaluationSettings(settings.batch_size, device=settings.device), settings.preprocess,
        settings.latency_runs,
    )  # fmt: skip
    other = networks[1] if before is not None else None
    return Subject(checkpoint, before, networks[0], other, settings, measures)


def _network(
    checkpoint: Checkpoint, settings: ReportSettings, tell: Callable[[str], None] | None
) -> Network | None:
    from filtersurgeon.learn.networks import open_network

    try:
        return open_network(checkpoint, settings.preprocess)
    except FilterSurgeonError as error:
        if tell:
            tell(f"only the tensors are analysed: {error}")
        return None


def _head(subject: Subject) -> dict[str, Any]:
    names = [Path(x.name).name for x in (subject.checkpoint, subject.before) if x]
    described = subject.checkpoint.architecture or "architecture not stated"
    return {
        "title": " compared with ".join(names),
        "summary": f"{described}, {subject.measures.parameters[0]:,} parameters",
        "version": __version__,
    }
