"""Accuracy before and after an operation, for commands that take ``--data``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from filtersurgeon.cli import show

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.cli.options import CheckpointOutput
    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.learn.evaluate import EvaluationSettings
    from filtersurgeon.learn.outcomes import Outcome

Accuracy: TypeAlias = "tuple[Outcome, Outcome]"


def before_and_after(
    pair: tuple[Checkpoint, Checkpoint],
    images: DataSpec,
    settings: EvaluationSettings,
    preprocess: Mapping[str, Any],
    quiet: bool,
) -> Accuracy:
    """Evaluate two checkpoints on the same images.

    Args:
        pair: the networks.
        images: which.
        settings: how to run the networks.
        preprocess: values that replace those of the checkpoints.
        quiet: show no progress and no notes.

    Raises:
        FilterSurgeonError: as :func:`filtersurgeon.evaluate`.
    """
    from filtersurgeon.learn.evaluating import evaluate

    found: list[Outcome] = []
    for word, checkpoint in zip(("before", "after"), pair, strict=True):
        tell = None if found else show.teller(quiet)
        with show.progress(f"evaluating {word}", quiet) as progress:
            found.append(
                evaluate(
                    checkpoint, images, settings,
                    preprocess=preprocess, progress=progress, tell=tell,
                )
            )  # fmt: skip
    return found[0], found[1]


def warn_of_unknown(output: CheckpointOutput, remedy: str, adapted: bool, quiet: bool) -> None:
    """Say that the accuracy of a written network was not measured; in a pipe, others may show it.

    Args:
        output: where the network goes.
        remedy: what helps where no images were passed.
        adapted: whether images were passed, but only to adapt the network.
        quiet: say nothing.
    """
    from filtersurgeon.learn.evaluation import unknown_accuracy

    if output.output not in (None, "-"):
        remedy = "fsurgeon eval on other images shows it" if adapted else remedy
        show.note(f"warning: {unknown_accuracy(remedy, adapted)}", quiet)


def accuracy_table(found: Accuracy) -> Any:
    """Show both as a table."""
    figures = [one.figures() for one in found]
    rows = [(word, *one.values()) for word, one in zip(("before", "after"), figures, strict=True)]
    columns = [(name, "right" if name else "left") for name in ("", *figures[0])]
    return show.table(f"accuracy on {found[0].n_images:,} images", columns, rows)
