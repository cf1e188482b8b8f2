from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show, streams
from filtersurgeon.cli.bundles import Bundle, replaced, values, verb, without
from filtersurgeon.cli.recipe_words import recipe_from_words
from filtersurgeon.cli.running import Computation, Data, data_option
from filtersurgeon.cli.verbs import IMAGES
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.checkpoint.progress import Progress
    from filtersurgeon.data.preprocess import Augmentation
    from filtersurgeon.learn.session import TrainingStep
    from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
    from filtersurgeon.learn.state import EpochRow
    from filtersurgeon.learn.train import TrainingResult
    from filtersurgeon.learn.tuning import TrainingImages

_RUN = "Training run"


@dataclass(frozen=True)
class Training(Bundle):
    """How the network is trained."""

    freeze: Annotated[
        str,
        options.choice(
            "--freeze",
            among=("none", "spatial", "depthwise"),
            help="Weights to freeze: all spatial filters, or depthwise filters up to a trainable "
            "bias b (x + b).",
        ),
    ] = "none"
    proxygrad: Annotated[
        float,
        typer.Option(
            "--proxygrad",
            metavar="SLOPE",
            help="Use a leaky-ReLU gradient of this slope in the backward pass; 0 is off.",
        ),
    ] = 0.0
    optimizer: Annotated[
        str,
        typer.Option("--optimizer", metavar="NAME", help="timm optimizer: adamw, sgd, lamb, ..."),
    ] = "adamw"
    lr: Annotated[float, typer.Option("--lr", metavar="RATE", help="Maximum learning rate.")] = 1e-3
    augment: Annotated[
        bool, typer.Option("--augment", help="Apply random crops, flips and colour changes.")
    ] = False
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            metavar="NAME=VALUE",
            help="weight_decay, momentum, schedule, warmup_epochs, min_lr, label_smoothing, mixup, "
            "cutmix, clip_grad, ema_decay. With masks: dice_weight. With --teacher: temperature, "
            "teacher_weight, feature_weight. With --augment: scale, ratio, hflip, vflip, "
            "color_jitter, auto_augment, re_prob. May be repeated.",
        ),
    ] = None
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Reset all trainable weights first.")
    ] = False
    classes: Annotated[
        int | None,
        typer.Option("--classes", metavar="N", help="Use a new classifier with N classes.", min=1),
    ] = None

    def recipe(self) -> tuple[TrainingRecipe, Augmentation | None]:
        """Give the settings as the library takes them."""
        from filtersurgeon.data.preprocess import Augmentation
        from filtersurgeon.learn.settings import TrainingRecipe

        said = TrainingRecipe(
            freeze=self.freeze, optimizer=self.optimizer, lr=self.lr, proxygrad=self.proxygrad
        )
        given = options.key_values(self.parameters)
        return recipe_from_words(given, said, Augmentation() if self.augment else None)


@dataclass(frozen=True)
class Teaching(Bundle):
    """A second network to learn from."""

    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="FILE",
            help="Also learn from the outputs and features of this network, such as the original.",
        ),
    ] = None
    arch_teacher: Annotated[
        str | None,
        typer.Option(
            "--arch-teacher",
            metavar="NAME",
            help="Architecture of the teacher.  [default: --arch]",
        ),
    ] = None
    factory_teacher: Annotated[
        str | None,
        typer.Option(
            "--factory-teacher",
            metavar="MODULE:FUNCTION",
            help="Function that builds the teacher.  [default: --factory]",
        ),
    ] = None

    def check(self, source: str, labels: str | None) -> None:
        """Refuse options that would do nothing; raises OptionError."""
        if self.teacher is None and (self.arch_teacher or self.factory_teacher or labels == "none"):
            raise OptionError("--arch-teacher, --factory-teacher and --labels none need --teacher")
        if source == self.teacher == "-":
            raise OptionError("only one of INPUT and --teacher can come through the pipe")

    def opened(
        self, network: options.Network, quiet: bool
    ) -> AbstractContextManager[Checkpoint | None]:
        """Open the teacher, if there is one."""
        if self.teacher is None:
            return nullcontext()
        architecture = options.architecture(self.arch_teacher, self.factory_teacher, "-teacher")
        return streams.opened(
            self.teacher,
            arch=architecture or network.architecture,
            allow_factory=network.allow_factory,
            allow_pickle=network.allow_pickle,
            quiet=quiet,
        )


@dataclass(frozen=True)
class Run(Bundle):
    """How the training is carried out; the fields are those of ``RunSettings``."""

    epochs: Annotated[
        int,
        typer.Option(
            "--epochs", metavar="N", help="Passes over the training images.", min=1,
            rich_help_panel=_RUN,
        ),
    ] = 10  # fmt: skip
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate", metavar="N", help="Batches per update of the weights.", min=1,
            rich_help_panel=_RUN,
        ),
    ] = 1  # fmt: skip
    precision: Annotated[
        str,
        options.choice(
            "--precision", among=("no", "bf16", "fp16"), panel=_RUN,
            help="Mixed precision; no is float32.",
        ),
    ] = "no"  # fmt: skip
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last", rich_help_panel=_RUN,
            help="Store activations channels last, which is faster for many networks.",
        ),
    ] = False  # fmt: skip
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", rich_help_panel=_RUN,
            help="Compile the network with torch.compile first, which takes minutes.",
        ),
    ] = False  # fmt: skip
    patience: Annotated[
        int,
        typer.Option(
            "--patience", metavar="N", min=0, rich_help_panel=_RUN,
            help="Stop after N epochs without a better validation score; 0 never stops.",
        ),
    ] = 0  # fmt: skip
    folder: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="DIR", rich_help_panel=_RUN,
            help="Directory for the state of the run, log.csv and log.png.",
        ),
    ] = None  # fmt: skip
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the run in --run.", rich_help_panel=_RUN),
    ] = False
    checkpoint_steps: Annotated[
        int,
        typer.Option(
            "--checkpoint-steps", metavar="N", min=0, rich_help_panel=_RUN,
            help="Also save the state every N steps, not only after every epoch.",
        ),
    ] = 0  # fmt: skip

    def settings(self, computation: Computation, seed: int) -> RunSettings:
        """Give them as the library takes them."""
        from filtersurgeon.learn.settings import RunSettings

        return RunSettings(**values(self), **values(computation), seed=seed)


@dataclass(frozen=True)
class Material(Bundle):
    """Images besides those of ``--data``, and versions of them."""

    validation: Annotated[
        str | None,
        data_option(
            "--validation", metavar="DATA",
            help="Images to validate on after every epoch.  [default: test images of --data]",
        ),
    ] = None  # fmt: skip
    validation_labels: Annotated[
        str | None,
        data_option(
            "--validation-labels", metavar="FILE",
            help="CSV or JSON file with the labels of --validation, or directory of its masks.",
        ),
    ] = None  # fmt: skip
    noisy_copies: Annotated[
        int,
        typer.Option(
            "--noisy-copies", metavar="N", min=0, rich_help_panel=IMAGES,
            help="Add N noisy versions of every image, each with a fixed random label.",
        ),
    ] = 0  # fmt: skip

    def images(self, data: Data, seed: int, augmentation: Augmentation | None) -> TrainingImages:
        """Say what to train and to validate on.

        Raises:
            OptionError: no images were passed.
        """
        from filtersurgeon.data.data import DataSpec, find_held_out
        from filtersurgeon.data.generated import LabelNoise
        from filtersurgeon.learn.tuning import TrainingImages

        noise = LabelNoise(data.labels == "shuffled", self.noisy_copies)
        labelled = data.labels != "none"
        no_file = noise.shuffled or not labelled
        train = replace(data, labels=None if no_file else data.labels).needed(seed)
        # Images whose labels are of no use cannot be checked on.
        check = find_held_out(train) if labelled else None
        if self.validation is not None:
            root = None if os.path.exists(self.validation) else data.root
            check = DataSpec(self.validation, labels=self.validation_labels, root=root)
        elif self.validation_labels is not None:
            raise OptionError("--validation-labels needs --validation")
        checked = check and replace(check, skip_bad=data.skip_bad)
        return TrainingImages(train, checked, augmentation, noise, labelled)


_TRAINING_LABELS = data_option(
    "--labels", metavar="FILE",
    help="CSV or JSON file that labels the files of --data, or directory of their masks. Or "
    "shuffled: random labels, to measure memorisation. Or none: learn from --teacher alone.",
)  # fmt: skip


@verb("fsurgeon tune m.safetensors --data photographs --epochs 1 -o tuned.safetensors")
def tune(
    source: options.Input = "-",
    *,
    training: Training,
    teaching: Teaching,
    seed: options.Seed = 0,
    run: Run,
    data: Annotated[Data, without("split"), replaced(labels=_TRAINING_LABELS)],
    material: Material,
    computation: Computation,
    network: options.Network,
    output: Annotated[options.CheckpointOutput, without("dry_run", "as_json")],
    general: options.General,
) -> None:  # fmt: skip
    """Fine-tune a network, optionally with frozen layers.

    To use several devices or machines, run "accelerate launch -m filtersurgeon tune ..." or
    torchrun. A run with --run that was interrupted continues with --resume; on a CPU, the result is
    the same bit for bit.
    """
    from filtersurgeon.learn import engine
    from filtersurgeon.learn.settings import check_settings
    from filtersurgeon.learn.tuning import TrainingStart
    from filtersurgeon.learn.tuning import tune as tune_checkpoint

    data.needed(seed)
    if run.folder is None and (run.resume or run.checkpoint_steps):
        raise OptionError(f"--{'resume' if run.resume else 'checkpoint-steps'} needs --run DIR")
    if source == "-" and engine.count_processes() > 1:
        raise OptionError("several processes cannot read one pipe; pass a file")
    teaching.check(source, data.labels)
    recipe, augmentation = training.recipe()
    settings = run.settings(computation, seed)
    check_settings(recipe, settings)
    quiet = general.quiet or not engine.is_first_process()
    if engine.is_first_process():
        output.check(source)
    images = material.images(data, seed, augmentation)
    start = TrainingStart(training.scratch, training.classes, data.preprocessing)
    with (
        network.opened(source, quiet) as checkpoint,
        teaching.opened(network, quiet) as teacher,
    ):
        with show.progress("training", quiet) as progress:
            on_step, on_epoch = (None, None) if progress is None else _watch(progress, run.epochs)
            tuned, result = tune_checkpoint(
                checkpoint, images, recipe, settings, start=start, teacher=teacher,
                progress=on_step,
                # A bar and lines would write over each other.
                on_epoch=on_epoch or (lambda row: _tell_epoch(row, quiet)),
                tell=show.teller(quiet),
            )  # fmt: skip
            shown = progress is None
        for row in () if shown else result.history:
            _tell_epoch(row, quiet)
        _summarise(result, quiet)
        if teacher is not None:
            show.note(_describe_matched(result), quiet)
        if engine.is_first_process():
            output.deliver(tuned, quiet)


def _watch(
    progress: Progress, epochs: int
) -> tuple[Callable[[TrainingStep], None], Callable[[EpochRow], None]]:
    """Give callbacks for steps and epochs, which show the loss and the last accuracy."""
    from filtersurgeon.checkpoint.progress import tell_metric

    checked = ""

    def count(step: TrainingStep) -> None:
        tell_metric(progress, f"loss {step.loss:.3f}{checked}")
        progress((step.epoch - 1) * step.steps + step.step, epochs * step.steps)

    def note_accuracy(row: EpochRow) -> None:
        nonlocal checked
        checked = "" if row.accuracy is None else f", top-1 {100 * row.accuracy:.1f} %"

    return count, note_accuracy


def _tell_epoch(row: EpochRow, quiet: bool) -> None:
    checked = "" if row.accuracy is None else f", {row.metric} {100 * row.accuracy:.2f} %"
    show.note(f"epoch {row.epoch}: loss {row.train_loss:.4f}{checked}", quiet)


def _describe_matched(result: TrainingResult) -> str:
    if not result.matched:
        return "teacher: only outputs were compared"
    return f"teacher: outputs and the features of {len(result.matched)} modules were compared"


def _summarise(result: TrainingResult, quiet: bool) -> None:
    if result.frozen:
        show.note(f"frozen: {len(result.frozen)} layers", quiet)
    if result.stopped_early:
        show.note(f"stopped early; the best epoch is {result.best_epoch}", quiet)
