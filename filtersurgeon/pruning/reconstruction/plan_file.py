"""A cut as a plan that people can read, change, and carry out: how much every bundle keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.documents import read_yaml, reason
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.pruning.reconstruction.reconstruct import Reconstruction

FORMAT = "filtersurgeon cut plan 1"


@dataclass(frozen=True)
class PlannedBundle:
    """How many channels of a bundle are kept.

    Attributes:
        width: groups of channels that it has.
        keep: groups that are kept.
        losses: pairs of groups kept and the loss that was measured on held-out images.
        curve: loss by groups removed, 0 first; empty in a plan that was read.
        readers: the layers that read the channels.
        macs: operations that every group takes part in.
        stated: whether the width is known, as in a plan that gives it.
    """

    width: int
    keep: int
    losses: tuple[tuple[int, float], ...] = ()
    curve: tuple[float, ...] = ()
    readers: tuple[str, ...] = ()
    macs: float = 0.0
    stated: bool = True


@dataclass(frozen=True)
class CutPlan(Tabular):
    """The number of channels that every bundle keeps.

    Attributes:
        bundles: name of the layer that makes the channels -> how many are kept.
        target: what it was made for.
        whole: name of a bundle that is kept whole -> why.
    """

    bundles: Mapping[str, PlannedBundle]
    target: str = ""
    whole: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        kept = sum(bundle.keep for bundle in self.bundles.values())
        total = sum(bundle.width for bundle in self.bundles.values())
        return f"CutPlan({len(self.bundles)} bundles, {kept} of {total} groups kept)"

    def rows(self) -> Iterator[Row]:
        """Give a row for each bundle."""
        for name, bundle in self.bundles.items():
            yield {"bundle": name, "width": bundle.width, "keep": bundle.keep}

    @property
    def keep(self) -> dict[str, int]:
        """Name of a bundle -> how many groups it keeps."""
        return {name: bundle.keep for name, bundle in self.bundles.items()}

    @staticmethod
    def of(found: Reconstruction, target: str) -> CutPlan:
        """Describe a cut."""
        bundles = {}
        slopes = found.prepared.macs_each()
        for curve, each in zip(found.prepared.statistics.curves, slopes, strict=True):
            candidate = curve.candidate
            width = candidate.width
            measured = tuple((width - gone, float(loss)) for gone, loss in curve.measured)
            losses = tuple(float(x) for x in curve.losses()) if curve.measured else ()
            keep = found.allocation.keep.get(candidate.name, width)
            bundles[candidate.name] = PlannedBundle(
                width, keep, measured, losses, candidate.readers, float(each)
            )
        return CutPlan(bundles, target, dict(found.prepared.bench.survey.kept))

    @staticmethod
    def read(source: CutPlan | str) -> CutPlan:
        """Read a plan from its file; a plan is given back.

        Raises:
            OptionError: the file cannot be read, or is no plan.
        """
        if isinstance(source, CutPlan):
            return source
        import yaml

        try:
            content = read_yaml(Path(source))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise OptionError(f"{source}: no plan can be read ({reason(error)})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise OptionError(f"{source}: not a plan (its format should be {FORMAT})")
        bundles = content.get("bundles")
        if not isinstance(bundles, dict):
            raise OptionError(f"{source}: the plan has no bundles")
        return CutPlan({str(name): _read(source, str(name), x) for name, x in bundles.items()})

    def to_yaml(self) -> str:
        """Give the text of the plan's file."""
        import yaml

        bundles: dict[str, Any] = {}
        for name, bundle in self.bundles.items():
            bundles[name] = {"width": bundle.width, "keep": bundle.keep}
            if bundle.curve:
                gone = bundle.width - bundle.keep
                bundles[name]["predicted_loss"] = _short(
                    bundle.curve[min(gone, len(bundle.curve) - 1)]
                )
            if bundle.losses:
                bundles[name]["measured_loss"] = {kept: _short(x) for kept, x in bundle.losses}
            bundles[name]["read_by"] = list(bundle.readers)
        content = {"format": FORMAT, "target": self.target, "bundles": bundles}
        if self.whole:
            content["kept_whole"] = dict(self.whole)
        head = (
            "# How many groups of channels every bundle keeps. Change keep, then prune with this\n"
            "# plan. Losses are KL divergences (nats) on held-out images, each cut by itself.\n"
        )
        return head + str(yaml.safe_dump(content, sort_keys=False, default_flow_style=None))


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _read(source: str, name: str, entry: Any) -> PlannedBundle:
    keep = entry.get("keep") if isinstance(entry, dict) else entry
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 0:
        raise OptionError(f"{source}: {name} should keep a whole number of groups, 0 or more")
    width = entry.get("width") if isinstance(entry, dict) else None
    if not isinstance(width, int):
        return PlannedBundle(keep, keep, stated=False)
    return PlannedBundle(width, keep)
