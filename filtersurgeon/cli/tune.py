from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import check_destination, deliver, opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.learn.train import TrainingResult


def tune(
    source: options.Input = "-",
    data: options.Data = None,
    validation: Annotated[
        str | None,
        typer.Option(
            "--validation", metavar="DATA", help="Check here every epoch.  [default: test split]"
        ),
    ] = None,
    labels: options.Labels = None,
    root: options.Root = None,
    subset: options.Subset = None,
    skip_bad: options.SkipBad = False,
    epochs: Annotated[
        int, typer.Option("--epochs", help="Passes over the training images.", min=1)
    ] = 10,
    freeze: Annotated[
        str,
        typer.Option(
            "--freeze",
            help="Hold still: none, spatial (all spatial filters), depthwise (filters x + b).",
        ),
    ] = "none",
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="Of timm: adamw, sgd, adam, lamb, ...")
    ] = "adamw",
    lr: Annotated[float, typer.Option("--lr", help="Greatest learning rate.")] = 1e-3,
    augment: Annotated[
        bool, typer.Option("--augment", help="Random crops, flips and colours.")
    ] = False,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            metavar="NAME=VALUE",
            help="weight_decay, momentum, schedule, warmup_epochs, min_lr, label_smoothing, mixup, "
            "cutmix, clip_grad, ema_decay; with --augment: scale, ratio, hflip, vflip, "
            "color_jitter, auto_augment, re_prob.",
        ),
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Reset everything that is not held still.")
    ] = False,
    classes: Annotated[
        int | None, typer.Option("--classes", metavar="N", help="A new classifier.", min=1)
    ] = None,
    batch_size: options.BatchSize = 64,
    accumulate: Annotated[int, typer.Option("--accumulate", help="Batches per update.", min=1)] = 1,
    precision: Annotated[str, typer.Option("--precision", help="no, bf16 or fp16.")] = "no",
    patience: Annotated[
        int, typer.Option("--patience", help="Stop after so many epochs without progress.", min=0)
    ] = 0,
    folder: Annotated[
        str | None,
        typer.Option("--run", metavar="DIR", help="Keep state, log.csv and log.png here."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --run.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto or cpu.")] = "auto",
    workers: options.Workers = 0,
    seed: options.Seed = 0,
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    output: options.Output = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Train, with chosen parts held still.

    Runs under "accelerate launch -m filtersurgeon tune ..." on several devices or machines. A run
    with --run that was killed goes on with --resume, on a CPU bit for bit.
    """
    from filtersurgeon.learn.data import DataSpec
    from filtersurgeon.learn.preprocess import Augmentation
    from filtersurgeon.learn.settings import Recipe, RunSettings, check_settings
    from filtersurgeon.tuning import Start, TrainingImages, recipe_from_words
    from filtersurgeon.tuning import tune as tune_checkpoint

    if data is None:
        raise OptionError("no images: name them with --data")
    if resume and folder is None:
        raise OptionError("--resume needs --run DIR")
    recipe, augmentation = recipe_from_words(
        options.key_values(parameters),
        Recipe(freeze=freeze, optimizer=optimizer, lr=lr),
        Augmentation() if augment else None,
    )
    run = RunSettings(
        epochs, batch_size, accumulate, precision, device=device, workers=workers, seed=seed,
        patience=patience, folder=folder, resume=resume,
    )  # fmt: skip
    check_settings(recipe, run)
    first = os.environ.get("RANK", "0") == "0"
    if first:
        check_destination(output, source, force)
    train = DataSpec(data, "train", labels, root, subset, seed, skip_bad)
    check = DataSpec(validation or data, "test", None if validation else labels, root)
    has_check = validation is not None or (labels is None and not os.path.isdir(data))
    images = TrainingImages(train, check if has_check else None, augmentation)
    architecture = options.architecture(arch, factory)
    with opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        with show.progress("training", quiet or not first) as progress:
            tuned, result = tune_checkpoint(
                checkpoint, images, recipe, run,
                start=Start(scratch, classes),
                preprocess=options.preprocess_values(preprocess),
                progress=progress and (
                    lambda step: progress(
                        (step.epoch - 1) * step.steps + step.step, epochs * step.steps
                    )
                ),
                tell=lambda text: show.note(f"note: {text}", quiet or not first),
            )  # fmt: skip
        if first:
            _summarise(result, quiet)
            deliver(tuned, output, force=force, quiet=quiet)


def _summarise(result: TrainingResult, quiet: bool) -> None:
    for row in result.history:
        checked = "" if row.accuracy is None else f", top-1 {100 * row.accuracy:.2f} %"
        show.note(f"epoch {row.epoch}: loss {row.train_loss:.4f}{checked}", quiet)
    if result.frozen:
        show.note(f"held still: {len(result.frozen)} layers", quiet)
    if result.stopped_early:
        show.note(f"stopped early; the best epoch is {result.best_epoch}", quiet)
