from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.learn.evaluation import Evaluation


def evaluate(
    source: options.Input = "-",
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.Split = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", help="Evaluate N shards side by side.", min=1)
    ] = 1,
    backend: Annotated[
        str,
        typer.Option(
            "--backend", help="Where jobs run: loky (processes of this machine), dask or ray."
        ),
    ] = "loky",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Of a running Dask scheduler or Ray cluster.  [default: start one]"
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", metavar="DIR", help="Keep finished shards here; the same command goes on."
        ),
    ] = None,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Count which class is taken for which.")
    ] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show a row per class.")] = False,
    min_top1: Annotated[
        float | None,
        typer.Option(
            "--min-top1",
            metavar="PERCENT",
            help="Exit with 1 below this accuracy.",
            min=0,
            max=100,
        ),
    ] = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Measure accuracy on labelled images.

    Images go through the preprocessing that the checkpoint states, by timm's own transforms. The
    interval is Wilson's, at 95 %.
    """
    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.learn.evaluate import EvaluationSettings
    from filtersurgeon.learn.evaluating import evaluate as evaluate_checkpoint
    from filtersurgeon.learn.evaluating import evaluate_in_jobs
    from filtersurgeon.learn.jobs import JobSettings

    if not data:
        raise OptionError("no images: name them with --data")
    show.check_json_path(output, force)
    spec = DataSpec(data, split, labels, root, subset, seed, skip_bad)
    settings = EvaluationSettings(batch_size, workers, device, confusion)
    job_settings = JobSettings(jobs, backend, address, cache)
    in_jobs = job_settings != JobSettings()
    values = options.preprocess_values(preprocess)
    architecture = options.architecture(arch, factory)
    with (
        opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint,
        show.progress("evaluating", quiet) as progress,
    ):
        if in_jobs:
            found = evaluate_in_jobs(
                checkpoint, source, spec, settings, job_settings,
                preprocess=values, allow_pickle=allow_pickle, progress=progress,
                tell=show.teller(quiet),
            )  # fmt: skip
        else:
            found = evaluate_checkpoint(
                checkpoint, spec, settings, preprocess=values, progress=progress,
                tell=show.teller(quiet),
            )  # fmt: skip
    show.result(
        found.to_dict(),
        lambda: _render(found, per_class, " per worker" if in_jobs else ""),
        as_json=as_json,
        output=output,
    )
    # Written so that nothing passes a limit that is not a number.
    if min_top1 is not None and not 100 * found.accuracy >= min_top1:
        show.note(f"top-1 is {100 * found.accuracy:.2f} %, below {min_top1:g} %")
        raise typer.Exit(1)


def _render(found: Evaluation, per_class: bool, speed_of: str) -> Iterator[Any]:
    low, high = found.interval()
    yield f"top-1   {100 * found.accuracy:6.2f} %  ({found.top1:,} of {found.n_images:,})"
    yield f"        {100 * low:6.2f} to {100 * high:.2f} % with 95 % confidence"
    yield f"top-5   {100 * found.accuracy5:6.2f} %"
    yield f"loss    {found.loss:8.4f}"
    yield f"speed   {found.images_per_second:6.1f} images per second{speed_of}"
    pairs = list(zip(found.class_images, found.class_correct, strict=True))
    if per_class:
        rows = [(k, n, right, right / n) for k, (n, right) in enumerate(pairs) if n]
        columns = [("class", "right"), ("images", "right"), ("right", "right"), ("share", "right")]
        yield show.table("per class", columns, rows)
    if found.confusion is not None:
        yield show.table("most confused", CONFUSED, _most_confused(found.confusion))


CONFUSED = [("class", "right"), ("taken for", "right"), ("times", "right")]


def _most_confused(table: tuple[tuple[int, ...], ...], count: int = 15) -> list[tuple[int, ...]]:
    cells = [
        (times, true, taken)
        for true, row in enumerate(table)
        for taken, times in enumerate(row)
        if times and true != taken
    ]
    return [(true, taken, times) for times, true, taken in sorted(cells, reverse=True)[:count]]
