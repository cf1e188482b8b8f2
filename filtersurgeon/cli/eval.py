from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import verb
from filtersurgeon.cli.running import Computation, Data, Jobs
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.learn.evaluation import Evaluation
    from filtersurgeon.learn.outcomes import Outcome
    from filtersurgeon.learn.segmentation import MaskEvaluation
    from filtersurgeon.learn.several_labels import MultiLabelEvaluation


@verb("fsurgeon eval m.safetensors --data photographs")
def evaluate(
    source: options.Input = "-",
    *,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Count which class is predicted for which.")
    ] = False,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="Show one row per class, or add the counts of every class to the JSON.",
        ),
    ] = False,
    min_top1: Annotated[
        float | None,
        typer.Option(
            "--min-top1",
            metavar="SHARE",
            parser=options.accuracy,
            help="Exit with 1 if the top-1 accuracy is lower, such as 0.9 or 90%.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            metavar="SHARE",
            parser=options.accuracy,
            help="Exit with 1 if the score is lower: top-1 accuracy, mean ROC AUC or mean Dice.",
        ),
    ] = None,
    seed: options.Seed = 0,
    data: Data,
    computation: Computation,
    jobs: Jobs,
    network: options.Network,
    output: options.ResultOutput,
    general: options.General,
) -> None:
    """Measure accuracy on labelled images.

    Shows top-1 and top-5 for images with one class each, ROC AUC and average precision for several
    labels, Dice and IoU for masks. Images are preprocessed as the checkpoint states, by timm's
    transforms. Intervals are at 95 %: Wilson's for top-1, Hanley and McNeil's for ROC AUC,
    Student's over images for Dice.
    """
    from filtersurgeon.data.data import kind_of_labels
    from filtersurgeon.data.kinds import CLASSES, NAMED
    from filtersurgeon.learn.evaluating import evaluate as evaluate_checkpoint
    from filtersurgeon.learn.evaluating import evaluate_in_jobs
    from filtersurgeon.learn.jobs import JobSettings

    spec = data.needed(seed)
    output.check()
    if min_top1 is not None and (kind := kind_of_labels(spec)) != CLASSES:
        raise OptionError(
            f"--min-top1 needs one class for each image, and the labels are {NAMED[kind]}; "
            "pass --min-score"
        )
    settings = computation.settings(confusion)
    job_settings = jobs.settings()
    in_jobs = job_settings != JobSettings()
    quiet = general.quiet
    with network.opened(source, quiet) as checkpoint, show.progress("evaluating", quiet) as bar:
        name = show.class_namer(checkpoint)
        more: dict[str, Any] = {
            "preprocess": data.preprocessing, "progress": bar, "tell": show.teller(quiet),
        }  # fmt: skip
        if in_jobs:
            found = evaluate_in_jobs(
                checkpoint, source, spec, settings, job_settings,
                allow_pickle=network.allow_pickle, **more,
            )  # fmt: skip
        else:
            found = evaluate_checkpoint(checkpoint, spec, settings, **more)
    output.show(
        found.to_dict(per_class=per_class) if found.score_name == "top-1" else found.to_dict(),
        lambda: _render(found, per_class, " per worker" if in_jobs else "", name),
    )
    for limit in (min_top1, min_score):
        # Written so that nothing passes a limit that is not a number.
        if limit is not None and not found.score >= limit:
            show.note(f"{found.score_name} is {100 * found.score:.2f} %, below {100 * limit:g} %")
            raise typer.Exit(1)


def _render(
    found: Outcome, per_class: bool, speed_of: str, name: Callable[[int], str]
) -> Iterator[Any]:
    from filtersurgeon.learn.segmentation import MaskEvaluation
    from filtersurgeon.learn.several_labels import MultiLabelEvaluation

    speed = f"{found.images_per_second:6.1f} images per second{speed_of}"
    if isinstance(found, MultiLabelEvaluation):
        yield from _render_labels(found, speed, name)
    elif isinstance(found, MaskEvaluation):
        yield from _render_masks(found, speed, name)
    else:
        yield from _render_classes(found, per_class, speed, name)


def _render_labels(
    found: MultiLabelEvaluation, speed: str, name: Callable[[int], str]
) -> Iterator[Any]:
    yield f"mean ROC AUC            {100 * found.mean_auc:6.2f} %  ({found.n_images:,} images)"
    yield f"mean average precision  {100 * found.mean_precision:6.2f} %"
    yield f"loss                    {found.loss:8.4f}"
    yield f"speed                   {speed}"
    rows = []
    for number, row in enumerate(found.rows()):
        area, precision = (row[key] for key in ("ROC AUC", "average precision"))
        between = "" if area is None else f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"
        shown = [None if x is None else f"{100 * x:.2f}" for x in (area, precision)]
        label = row["class"] if found.names else name(number)
        rows.append((label, row["known"], row["positive"], shown[0], between, shown[1]))
    heads = ("class", "known", "positive", "ROC AUC %", "95 % interval", "average precision %")
    yield show.table("per class", [(head, "right") for head in heads], rows)


def _render_masks(found: MaskEvaluation, speed: str, name: Callable[[int], str]) -> Iterator[Any]:
    yield f"mean Dice  {100 * found.mean_dice:6.2f} %  ({found.n_images:,} images, without class 0)"
    yield f"mean IoU   {100 * found.mean_iou:6.2f} %"
    between = found.interval()
    if between is not None:
        mean, low, high = (100 * x for x in between)
        yield f"Dice of an image {mean:.2f} %, {low:.2f} to {high:.2f} % with 95 % confidence"
    yield f"loss       {found.loss:8.4f}"
    yield f"speed      {speed}"
    rows = []
    for number, row in enumerate(found.rows()):
        shown = [None if row[x] is None else f"{100 * row[x]:.2f}" for x in ("Dice", "IoU")]
        rows.append((name(number), row["pixels"], *shown))
    heads = ("class", "pixels", "Dice %", "IoU %")
    yield show.table("per class", [(x, "right") for x in heads], rows)


def _render_classes(
    found: Evaluation, per_class: bool, speed: str, name: Callable[[int], str]
) -> Iterator[Any]:
    low, high = found.interval()
    yield f"top-1   {100 * found.accuracy:6.2f} %  ({found.top1:,} of {found.n_images:,})"
    yield f"        {100 * low:6.2f} to {100 * high:.2f} % with 95 % confidence"
    yield f"top-5   {100 * found.accuracy5:6.2f} %"
    yield f"loss    {found.loss:8.4f}"
    yield f"speed   {speed}"
    pairs = list(zip(found.class_images, found.class_correct, strict=True))
    if per_class:
        rows = [(name(k), n, right, right / n) for k, (n, right) in enumerate(pairs) if n]
        columns = [("class", "right"), ("images", "right"), ("right", "right"), ("share", "right")]
        yield show.table("per class", columns, rows)
    if found.confusion is not None:
        confused = _most_confused(found.confusion)
        named = [(name(true), name(taken), times) for true, taken, times in confused]
        yield show.table("most confused", CONFUSED, named)


CONFUSED = [("class", "right"), ("taken for", "right"), ("times", "right")]


def _most_confused(table: tuple[tuple[int, ...], ...], count: int = 15) -> list[tuple[int, ...]]:
    cells = [
        (times, true, taken)
        for true, row in enumerate(table)
        for taken, times in enumerate(row)
        if times and true != taken
    ]
    return [(true, taken, times) for times, true, taken in sorted(cells, reverse=True)[:count]]
