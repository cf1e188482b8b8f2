from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import check_destination, deliver, opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.learn.history import EpochRow
    from filtersurgeon.learn.train import TrainingResult


def tune(
    source: options.Input = "-",
    data: options.Data = None,
    validation: Annotated[
        str | None,
        typer.Option(
            "--validation",
            metavar="DATA",
            help="Check on these images every epoch.  [default: --data's own test images]",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="FILE",
            help="Also learn from this network's outputs and features, such as the original's.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="CSV or JSON that labels the files of --data; shuffled, to see what is memorised; "
            "or none, to learn from --teacher alone.",
        ),
    ] = None,
    noisy_copies: Annotated[
        int,
        typer.Option(
            "--noisy-copies",
            metavar="N",
            help="N more versions of every image, with noise and a random label that stay.",
            min=0,
        ),
    ] = 0,
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
    proxygrad: Annotated[
        float,
        typer.Option(
            "--proxygrad",
            metavar="SLOPE",
            help="Let gradients through rectifiers below zero, with this slope; 0 is off.",
        ),
    ] = 0.0,
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
            "cutmix, clip_grad, ema_decay; with --teacher: temperature, teacher_weight, "
            "feature_weight; with --augment: scale, ratio, hflip, vflip, color_jitter, "
            "auto_augment, re_prob.",
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
    checkpoint_steps: Annotated[
        int,
        typer.Option(
            "--checkpoint-steps",
            metavar="N",
            min=0,
            help="Also keep the state every N steps, not only after every epoch.",
        ),
    ] = 0,
    device: Annotated[str, typer.Option("--device", help="auto or cpu.")] = "auto",
    workers: options.Workers = 0,
    seed: options.Seed = 0,
    arch: options.Arch = None,
    factory: options.Factory = None,
    arch_teacher: Annotated[
        str | None,
        typer.Option("--arch-teacher", metavar="NAME", help="The teacher's, where it differs."),
    ] = None,
    factory_teacher: Annotated[
        str | None,
        typer.Option(
            "--factory-teacher", metavar="MODULE:FUNCTION", help="The teacher's, where it differs."
        ),
    ] = None,
    preprocess: options.Preprocess = None,
    output: options.Output = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Train, with chosen parts held still.

    On several devices or machines: "accelerate launch -m filtersurgeon tune ...", or torchrun in
    its place. A run with --run that was killed goes on with --resume, on a CPU bit for bit.
    """
    from filtersurgeon.data.data import DataSpec, held_out
    from filtersurgeon.data.label_noise import LabelNoise
    from filtersurgeon.data.preprocess import Augmentation
    from filtersurgeon.learn import processes
    from filtersurgeon.learn.settings import RunSettings, TrainingRecipe, check_settings
    from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, recipe_from_words
    from filtersurgeon.learn.tuning import tune as tune_checkpoint

    if not data:
        raise OptionError("no images: name them with --data")
    if folder is None and (resume or checkpoint_steps):
        raise OptionError(f"--{'resume' if resume else 'checkpoint-steps'} needs --run DIR")
    if source == "-" and processes.count() > 1:
        raise OptionError("several processes cannot read one pipe: name a file")
    if teacher is None and (arch_teacher or factory_teacher or labels == "none"):
        raise OptionError("--arch-teacher, --factory-teacher and --labels none need --teacher")
    if source == teacher == "-":
        raise OptionError("only one of INPUT and --teacher can come through the pipe")
    recipe, augmentation = recipe_from_words(
        options.key_values(parameters),
        TrainingRecipe(freeze=freeze, optimizer=optimizer, lr=lr, proxygrad=proxygrad),
        Augmentation() if augment else None,
    )
    run = RunSettings(
        epochs, batch_size, accumulate, precision, device=device, workers=workers, seed=seed,
        patience=patience, folder=folder, resume=resume, checkpoint_steps=checkpoint_steps,
    )  # fmt: skip
    check_settings(recipe, run)
    quiet = quiet or not processes.is_first()
    if processes.is_first():
        check_destination(output, source, force)
    label_noise = LabelNoise(labels == "shuffled", noisy_copies)
    labelled = labels != "none"
    labels = None if label_noise.shuffled or not labelled else labels
    train = DataSpec(data, None, labels, root, subset, seed, skip_bad)
    # Images whose labels are of no use cannot be checked on.
    check = held_out(train) if labelled else None
    if validation is not None:
        check = DataSpec(validation, root=None if os.path.exists(validation) else root)
    images = TrainingImages(
        train, check and replace(check, skip_bad=skip_bad), augmentation, label_noise, labelled
    )
    start = TrainingStart(scratch, classes, options.preprocess_values(preprocess))
    architecture = options.architecture(arch, factory)
    teachers = options.architecture(arch_teacher, factory_teacher, "-teacher")
    with (
        opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint,
        (
            nullcontext()
            if teacher is None
            else opened(
                teacher, arch=teachers or architecture, allow_pickle=allow_pickle, quiet=quiet
            )
        ) as known,
    ):
        with show.progress("training", quiet) as progress:
            tuned, result = tune_checkpoint(
                checkpoint, images, recipe, run, start=start, teacher=known,
                progress=progress and (
                    lambda step: progress(
                        (step.epoch - 1) * step.steps + step.step, epochs * step.steps
                    )
                ),
                # A bar and lines would write over each other.
                on_epoch=None if progress else (lambda row: _tell_epoch(row, quiet)),
                tell=show.teller(quiet),
            )  # fmt: skip
            shown = progress is None
        for row in () if shown else result.history:
            _tell_epoch(row, quiet)
        _summarise(result, quiet)
        if teacher is not None:
            show.note(_describe_matched(result), quiet)
        if processes.is_first():
            deliver(tuned, output, force=force, quiet=quiet)


def _tell_epoch(row: EpochRow, quiet: bool) -> None:
    checked = "" if row.accuracy is None else f", top-1 {100 * row.accuracy:.2f} %"
    show.note(f"epoch {row.epoch}: loss {row.train_loss:.4f}{checked}", quiet)


def _describe_matched(result: TrainingResult) -> str:
    if not result.matched:
        return "teacher: only outputs were compared"
    return f"teacher: outputs and the features of {len(result.matched)} modules were compared"


def _summarise(result: TrainingResult, quiet: bool) -> None:
    if result.frozen:
        show.note(f"held still: {len(result.frozen)} layers", quiet)
    if result.stopped_early:
        show.note(f"stopped early; the best epoch is {result.best_epoch}", quiet)
