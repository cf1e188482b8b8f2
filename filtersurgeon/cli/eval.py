from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import verb
from filtersurgeon.cli.running import Computation, Data, Jobs

if TYPE_CHECKING:
    from filtersurgeon.learn.evaluation import Evaluation


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
    seed: options.Seed = 0,
    data: Data,
    computation: Computation,
    jobs: Jobs,
    network: options.Network,
    output: options.ResultOutput,
    general: options.General,
) -> None:
    """Measure accuracy on labelled images.

    Images are preprocessed as the checkpoint states, by timm's transforms. The interval is the
    Wilson score interval, at 95 %.
    """
    from filtersurgeon.learn.evaluating import evaluate as evaluate_checkpoint
    from filtersurgeon.learn.evaluating import evaluate_in_jobs
    from filtersurgeon.learn.jobs import JobSettings

    spec = data.needed(seed)
    output.check()
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
        found.to_dict(per_class=per_class),
        lambda: _render(found, per_class, " per worker" if in_jobs else "", name),
    )
    # Written so that nothing passes a limit that is not a number.
    if min_top1 is not None and not found.accuracy >= min_top1:
        show.note(f"top-1 is {100 * found.accuracy:.2f} %, below {100 * min_top1:g} %")
        raise typer.Exit(1)


def _render(
    found: Evaluation, per_class: bool, speed_of: str, name: Callable[[int], str]
) -> Iterator[Any]:
    low, high = found.interval()
    yield f"top-1   {100 * found.accuracy:6.2f} %  ({found.top1:,} of {found.n_images:,})"
    yield f"        {100 * low:6.2f} to {100 * high:.2f} % with 95 % confidence"
    yield f"top-5   {100 * found.accuracy5:6.2f} %"
    yield f"loss    {found.loss:8.4f}"
    yield f"speed   {found.images_per_second:6.1f} images per second{speed_of}"
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
