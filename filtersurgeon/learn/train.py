"""Fine-tuning and training from scratch, under Hugging Face accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import OptionError
from filtersurgeon.learn.extras import require
from filtersurgeon.learn.freeze import frozen
from filtersurgeon.learn.history import EpochRow
from filtersurgeon.learn.session import Session, TrainingData, TrainingStep
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe, check_settings
from filtersurgeon.learn.synced_norm import synced_norms
from filtersurgeon.networks.memory import batch_fits

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrainingResult:
    """What a run did; the network itself was changed in place.

    Attributes:
        history: one row per epoch.
        frozen: names of the layers whose filters were held still.
        best_epoch: the epoch of the greatest validation accuracy, counted from 1, or None.
        stopped_early: patience ran out.
        matched: names of the modules whose outputs were compared with the teacher's.
    """

    history: tuple[EpochRow, ...]
    frozen: tuple[str, ...]
    best_epoch: int | None
    stopped_early: bool
    matched: tuple[str, ...] = ()


def train(
    model: nn.Module,
    data: TrainingData,
    recipe: TrainingRecipe,
    run: RunSettings,
    progress: Callable[[TrainingStep], None] | None = None,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> TrainingResult:
    """Train a network in place; it comes back in the mode it had.

    Started by ``accelerate launch`` or ``torchrun`` on several processes it computes what one
    process would, up to the order of summation, unless the network drops out at random or images
    are mixed, which every process then does in its own way. Everything random is seeded by the
    position in the run, so a run that was killed goes on bit for bit on a CPU.

    Args:
        model: takes (images, channels, height, width), gives (images, classes).
        data: images to learn from and to check on.
        recipe: how to learn.
        run: how long, where, and in which precision.
        progress: called after every step.
        on_epoch: called after every epoch.

    Returns:
        The history and what was frozen.

    Raises:
        DivergedError: the loss is not finite (names the step; the network and the folder keep
            the last good state).
        TrainingError: nothing to train, or a state that does not fit.
        OptionError: unusable settings.
        DataError: an unreadable image.
        OutOfMemoryError: a batch does not fit.
    """
    from filtersurgeon.checkpoint.vision import import_timm

    check_settings(recipe, run)
    import_timm()
    accelerator = _make_accelerator(run)
    was_training = model.training
    model.to(accelerator.device)
    with (
        frozen(model, recipe.freeze) as names,
        synced_norms(model, accelerator.num_processes),
        batch_fits(run.batch_size),
        _leaking(recipe.proxygrad),
    ):
        session = Session(accelerator, model, data, recipe, run)
        try:
            stopped = session.run_epochs(progress, on_epoch)
        finally:
            session.release()
            model.train(was_training)
    rows = tuple(session.history)
    distilled = session.distillation
    matched = tuple(distilled.matched or ()) if distilled else ()
    return TrainingResult(rows, tuple(names), session.best_epoch, stopped, matched)


@contextmanager
def _leaking(slope: float) -> Iterator[None]:
    """Let gradients through rectifiers below zero inside the block, unless the slope is 0.

    Raises:
        ArchitectureError: the network, once it has run, turns out to have no rectifier.
    """
    if not slope:
        yield
        return
    from filtersurgeon.networks.modules.rectifiers.swap import check_met, rectified

    with rectified("proxygrad", slope) as mode:
        yield
    check_met(mode, "the network")


def _make_accelerator(run: RunSettings) -> Any:
    """Set accelerate up, for a precision that may differ from an earlier run's."""
    accelerate = require("accelerate", "train")
    accelerate.state.AcceleratorState._reset_state()
    accelerator = accelerate.Accelerator(cpu=run.device == "cpu", mixed_precision=run.precision)
    # accelerate would quietly compute in float32.
    if run.precision == "fp16" and accelerator.device.type == "cpu":
        raise OptionError("precision 'fp16' needs a GPU; a CPU can do bf16")
    return accelerator
