"""Cut a network to a target, or to several, measured and refitted on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec, ImageRun, as_run, part_of
from filtersurgeon.data.splits import FIT, warning_of
from filtersurgeon.errors import FilterSurgeonError, GraphError, OptionError, OutputError
from filtersurgeon.filters import as_globs
from filtersurgeon.networks.devices import FittingBatches
from filtersurgeon.networks.opened_module import sweeps_modules
from filtersurgeon.pruning.report import PruneReport
from filtersurgeon.pruning.settings import RECONSTRUCTION, PruneSettings
from filtersurgeon.pruning.target import read_target
from filtersurgeon.ranking.method import Method

if TYPE_CHECKING:
    from filtersurgeon.graph.opened_model import OpenedModel
    from filtersurgeon.pruning.protection import Protection
    from filtersurgeon.pruning.reconstruction.calibration import Bench
    from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
    from filtersurgeon.pruning.reconstruction.reconstruct import Prepared, Reconstruction
    from filtersurgeon.pruning.worth import Worth


_NEEDED = "residual streams are cut, too: what was asked for cannot be had without"
_BETTER = "residual streams are cut, too: by the losses measured, less is lost that way"
_EQUAL = "all layers lose the same share: on held-out images less is lost than by measured losses"
_TRY_STREAMS = 0.92
"""Where fewer images keep their class, cutting residual streams is tried, too."""

_PROMISING = 0.95
"""What part of the predicted loss must be left for that.

The sum of measured losses tells more than a hundred held-out images do: of nine cuts of CIFAR
networks to .2 to .7 of the operations, these alone chose five right, both together eight.
"""
_CLEARLY = 1.1
"""How many times as much must be lost on held-out images that these overrule the prediction."""

_TRY_EQUAL = 0.75
"""Where fewer images keep their class, cutting the same share of every layer is tried, too.

So it is where outputs that are no classes lose a tenth of their variance.
"""


@dataclass
class PreparedCuts:
    """A network whose cuts are measured; it can be cut to several sizes.

    Attributes:
        protection: the network, the channels of unselected layers pinned.
        prepared: what was measured.
        data: the images; None if they were made from the network.
        widths: a plan to cut by, in place of a target.
        note: what a person should know, if anything.
        streams: measures the network again, its residual streams to be cut, too; None where that
            is not to be tried.
        equal: whether to try equal shares where measured ones ruin the network.
        again: measures everything again.
        fitting: how many images a batch has; halved if memory runs out.
    """

    protection: Protection
    prepared: Prepared
    data: ImageRun | str | None
    widths: CutPlan | None = None
    note: str = ""
    streams: Callable[[], Prepared] | None = None
    equal: bool = True
    again: Callable[[], PreparedCuts] | None = None
    fitting: FittingBatches = field(default_factory=lambda: FittingBatches(1))

    def cut(
        self,
        settings: PruneSettings,
        *,
        verify: bool = True,
        observe: Callable[[PruneReport], None] | None = None,
        progress: Progress | None = None,
    ) -> Checkpoint:
        """Cut the network as settings say, of which only the target may have changed."""
        while True:
            with self.fitting.halving():
                return self._cut(settings, verify, observe, progress)
            # What was measured belongs to batches of another size, and must leave the memory.
            again = self.again
            assert again is not None
            vars(self).clear()
            vars(self).update(vars(again()))

    def _cut(
        self,
        settings: PruneSettings,
        verify: bool,
        observe: Callable[[PruneReport], None] | None,
        progress: Progress | None,
    ) -> Checkpoint:
        from filtersurgeon.pruning.compensation.compensate import apply_compensation
        from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
        from filtersurgeon.pruning.surgery import cut, describe

        opened, data = self.protection.opened, self.data
        found, own_notes, settings = self._share_out(settings, progress)
        images = {} if data is None else part_of(as_run(data).data, FIT).described()
        target = None if settings.target is None else str(settings.target)
        said = list_options(settings, target, None, data)
        if self.widths is not None:
            said["plan"] = dict(self.widths.keep)
        entry = HistoryEntry("prune", said, data=images, warning=warning_of(images))

        def make_up(changed: Mapping[str, Any]) -> Mapping[str, Any]:
            if settings.compensate in ("sequential", "none"):
                return {**changed, **found.changed}
            return apply_compensation(
                settings.compensate, opened, found.plan.keep, changed, images=data,
                seed=settings.seed,
            )  # fmt: skip

        pruned, proof = cut(opened, found.plan, settings, entry, compensate=make_up, check=verify)
        if observe:
            worth = found.worth
            if data is None:
                worth = None
            elif worth is None:
                worth = compare(opened, pruned, as_run(data), settings.seed)
            report = describe(
                self.protection, found.plan, 0.0, pruned, proof, worth, settings=settings
            )
            notes = [*report.notes, *own_notes, *found.notes(made=data is None)]
            observe(replace(report, notes=tuple(notes), plan=CutPlan.of(found, target or "")))
        return pruned

    def _reconstruct(
        self, settings: PruneSettings, progress: Progress | None
    ) -> tuple[Reconstruction, str]:
        """Cut with residual streams whole; where that loses much, see if cutting them is better."""
        from filtersurgeon.pruning.reconstruction.reconstruct import (
            Allocation,
            TooSlowError,
            reach_target,
            reconstruct,
        )

        given = None if self.widths is None else Allocation(self.widths.keep, nan, nan)
        try:
            found = reconstruct(self.prepared, settings, allocation=given, tell=progress)
        except TooSlowError:
            if self.streams is None:
                raise
            return reconstruct(self.streams(), settings, tell=progress), _NEEDED
        if self.streams is None or found.worth is None or not found.worth.below(_TRY_STREAMS):
            return found, self.note
        widths = reach_target(self.streams(), settings)
        if widths.loss > _PROMISING * found.allocation.loss:
            return found, self.note
        other = reconstruct(self.streams(), settings, allocation=widths, tell=progress)
        predicted = not isnan(widths.loss)
        if not _loses_less(other, found, _CLEARLY if predicted else 1.0):
            return found, self.note
        return other, _BETTER

    def _share_out(
        self, settings: PruneSettings, progress: Progress | None
    ) -> tuple[Reconstruction, tuple[str, ...], PruneSettings]:
        """Cut to the target; where that ruins the network, see if equal shares are better.

        Losses are measured for one cut at a time. Where all together lose most of what the network
        does, their sum says little.
        """
        from filtersurgeon.pruning.reconstruction.reconstruct import reconstruct
        from filtersurgeon.pruning.worth import ENOUGH

        found, note = self._reconstruct(settings, progress)
        notes = (note,) if note else ()
        if not self.equal or found.worth is None:
            return found, notes, settings
        limit = ENOUGH if found.worth.agreement is None else _TRY_EQUAL
        if not found.worth.below(limit):
            return found, notes, settings
        equal = replace(settings, allocate="uniform")
        with suppress(OptionError):  # equal shares may not reach the target
            other = reconstruct(found.prepared, equal, tell=progress)
            if _loses_less(other, found):
                return other, (*notes, _EQUAL), equal
        return found, notes, settings


def prepare_cuts(
    checkpoint: Checkpoint,
    settings: PruneSettings,
    data: ImageRun | str | None,
    *,
    plan: CutPlan | str | None = None,
    equal: bool = True,
    fast: bool = False,
    progress: Progress | None = None,
) -> PreparedCuts:
    """Measure what every cut of a network costs.

    Args:
        checkpoint: the network.
        settings: how to prune.
        data: images; None makes some from the network.
        plan: widths, or their file, in place of a target.
        equal: whether equal shares are tried where measured ones ruin the network.
        fast: measure residual branches as a whole, too; so it is where the settings save time.
        progress: told how many steps of how many are done.
    """
    from filtersurgeon.pruning.reconstruction.calibration import bench_batches

    fitting = bench_batches()

    def measure() -> PreparedCuts:
        found = fitting.repeat(
            lambda _: _measure_cuts(
                checkpoint, settings, data, plan, equal, fast, progress, fitting
            )
        )
        found.again = measure
        return found

    return measure()


def _measure_cuts(
    checkpoint: Checkpoint,
    settings: PruneSettings,
    data: ImageRun | str | None,
    plan: CutPlan | str | None,
    equal: bool,
    fast: bool,
    progress: Progress | None,
    fitting: FittingBatches,
) -> PreparedCuts:
    from filtersurgeon.learn.networks import open_network, running
    from filtersurgeon.networks.architecture import identify
    from filtersurgeon.pruning.compensation.calibration import open_calibration
    from filtersurgeon.pruning.frozen import protect_as
    from filtersurgeon.pruning.reconstruction.calibration import open_bench, with_streams
    from filtersurgeon.pruning.reconstruction.made import make_calibration, size_to_make
    from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
    from filtersurgeon.pruning.reconstruction.reconstruct import (
        check_cuts,
        check_plan,
        check_reachable,
        every_bundle,
        has_streams,
        prepare,
        saves_time,
    )
    from filtersurgeon.pruning.scoring import rank_layers

    widths = None if plan is None else CutPlan.read(plan)
    ranking = None
    if settings.select != RECONSTRUCTION:
        ranking = Method(settings.select, settings.options, settings.seed)
    checkpoint = identify(checkpoint)
    calibration = None
    size: tuple[int, ...] | None
    if data is None:
        with running(checkpoint.name):
            network = open_network(checkpoint, any_size=True)
        size = size_to_make(network, checkpoint)
    else:
        calibration = open_calibration(checkpoint, as_run(data), settings.seed)
        size = calibration.image_size()
    protection = protect_as(open_at(checkpoint, size), settings)
    free = protection.free_layers()
    opened = protection.opened
    if settings.target is not None:
        check_reachable(opened, settings.target, every_bundle(opened))
    if calibration is None:
        assert size is not None
        calibration = make_calibration(network, size, settings.seed, progress)
    ranks = None if ranking is None else rank_layers(opened, free, ranking)
    planned = [] if widths is None else list(widths.keep)
    wholly = fast or saves_time(settings) if widths is None else 0 in widths.keep.values()
    branches = wholly and settings.compensate == "sequential" and settings.min_channels == 1
    bench = open_bench(opened, calibration, streams=settings.streams == "cut", fitting=fitting)

    def attempt(bench: Bench, before: Prepared | None = None) -> Prepared:
        check_cuts(bench, settings.target, planned)
        return prepare(
            bench, ranks=ranks, losses=settings.allocate == "measured" and widths is None,
            branches=branches, before=before, seed=settings.seed, tell=progress,
        )  # fmt: skip

    note, streams = "", None
    if settings.streams is None and has_streams(bench):
        try:
            check_cuts(bench, settings.target, planned)
        except FilterSurgeonError:
            bench = with_streams(bench)
            note = _NEEDED
        else:
            if widths is None:
                streams = cache(lambda: attempt(with_streams(bench), prepared))
    prepared = attempt(bench)
    if widths is not None:
        check_plan(prepared, widths.bundles)
    equal = equal and widths is None
    return PreparedCuts(protection, prepared, data, widths, note, streams, equal, fitting=fitting)


def _loses_less(one: Reconstruction, other: Reconstruction, times: float = 1.0) -> bool:
    """Tell whether one cut is known to lose less on held-out images than so many times another."""
    if one.worth is None or other.worth is None:
        return False
    return one.worth.divergence < times * other.worth.divergence


def open_at(checkpoint: Checkpoint, size: tuple[int, ...] | None) -> OpenedModel:
    """Open a network at the size of its images, if known, to count its operations there.

    Args:
        checkpoint: the network.
        size: of an image, (channels, height, width).
    """
    from filtersurgeon.graph.opened_model import open_model

    try:
        return open_model(checkpoint, size)
    except GraphError:
        # What images do not fit, its own run on them tells better.
        return open_model(checkpoint)


@sweeps_modules
def prune_sweep(
    checkpoint: Checkpoint,
    targets: Iterable[str],
    *,
    allocate: str | None = None,
    select: str = RECONSTRUCTION,
    options: Mapping[str, Any] | None = None,
    streams: str | None = None,
    runtime: str = "torch",
    compensate: str = "sequential",
    min_channels: int = 1,
    round_to: int | None = None,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    verify: bool = True,
    data: ImageRun | DataSpec | str | Any | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Checkpoint, PruneReport]]:
    """Prune a network to several targets, with one measurement.

    Args:
        checkpoint: the network; or a module in memory, with its ``example_inputs`` by name.
        targets: sizes, as :func:`prune` takes them.
        allocate: as for :func:`prune`, as are all others.
        select: which channels of a layer go.
        options: of the ranking method that ``select`` names.
        streams: ``keep`` residual streams, or ``cut`` them; by default cut only where needed.
        runtime: what a latency is measured in.
        compensate: how the layers that read cut channels make up for them.
        min_channels: how many channels every layer keeps.
        round_to: widths are multiples of this.
        layers: globs.
        seed: random seed.
        verify: compare outputs with those of the original network, its removed channels zeroed.
        data: images; None makes some from the network.
        progress: told how many steps of how many are done.

    Yields:
        The pruned checkpoint, or module, and what was done, for each target in turn.

    Raises:
        OptionError: a value that has no meaning, or a target that cannot be reached.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "some.npz"), x=pixels)
        ...     found = fs.prune_sweep(
        ...         checkpoint, ["macs=0.8x", "macs=0.6x"], data=str(Path(folder, "some.npz"))
        ...     )
        ...     [round(report.after.macs / report.before.macs, 1) for _, report in found]
        [0.8, 0.6]
    """
    data = None if data is None else as_run(data)
    wanted = [read_target(words) for words in targets]
    if not wanted:
        raise OptionError("`targets` names no size")
    settings = PruneSettings(
        target=wanted[0], options=dict(options or {}), compensate=compensate,
        min_channels=min_channels, round_to=round_to, layers=tuple(as_globs(layers)), seed=seed,
        allocate=allocate or "measured", streams=streams, select=select, runtime=runtime,
    )  # fmt: skip
    # What a later target needs is measured with the first.
    fast = any(target.quantity == "latency" for target in wanted)
    prepared = prepare_cuts(
        checkpoint, settings, data, equal=allocate is None, fast=fast, progress=progress
    )
    for target in wanted:
        done: list[PruneReport] = []
        pruned = prepared.cut(
            replace(settings, target=target), verify=verify, observe=done.append, progress=progress
        )
        yield pruned, done[0]


def compare(opened: OpenedModel, pruned: Checkpoint, run: ImageRun, seed: int) -> Worth | None:
    """See how the outputs of a pruned network compare on some of the images."""
    from filtersurgeon.networks.build import build
    from filtersurgeon.pruning.compensation.calibration import open_calibration
    from filtersurgeon.pruning.worth import compare_worth

    calibration = open_calibration(opened.checkpoint, replace(run, tell=None), seed)
    original = calibration.replica(opened, {})
    slim = build(pruned).float().eval().to(calibration.device)

    def see() -> Worth | None:
        batches, names = calibration.labelled_batches(), calibration.class_names
        return compare_worth(original, slim, batches, calibration.kind, names)

    try:
        return calibration.repeat(see)
    except OutputError:
        return None  # what it returns cannot be compared


def list_options(
    settings: PruneSettings, target: str | None, scores: object, data: object
) -> dict[str, Any]:
    """List the options that differ from their defaults; no paths."""
    said = {
        "sparsity": settings.sparsity,
        "target": target,
        "per_layer": settings.per_layer,
        "ratios": dict(settings.ratios),
        "method": _said_method(settings, scores, data),
        "options": dict(settings.options),
        "mode": settings.mode if settings.mode != "channelprune" else None,
        "border": settings.border if settings.border != "keep" else None,
        "fill": settings.fill if settings.fill != "zero" else None,
        "compensate": settings.compensate if settings.compensate != "none" else None,
        "min_channels": settings.min_channels if settings.min_channels != 1 else None,
        "round_to": settings.round_to if settings.allocate or settings.round_to != 1 else None,
        "allocate": settings.allocate,
        "select": settings.select if settings.select != RECONSTRUCTION else None,
        "streams": settings.streams,
        "runtime": settings.runtime if settings.runtime != "torch" else None,
        "layers": list(settings.layers),
        "keep_frozen": settings.keep_frozen,
        "seed": settings.seed,
    }
    return {key: value for key, value in said.items() if value not in (None, False, 0, [], {})}


def _said_method(settings: PruneSettings, scores: object, data: object) -> str | None:
    if settings.allocate is not None or (scores is not None and data is None):
        return None
    return settings.method
