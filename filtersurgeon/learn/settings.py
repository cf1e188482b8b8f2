"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.networks.devices import check_device_name

FREEZES = ("none", "spatial", "depthwise")
SCHEDULES = ("cosine", "tanh", "poly", "step", "none")
PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class TrainingRecipe:
    """Hyperparameters of training.

    Attributes:
        freeze: which convolution weights are frozen (see ``train.py``).
        optimizer: timm's name: ``adamw``, ``sgd`` (with Nesterov momentum), ``adam``, ``lamb``...
        lr: greatest learning rate.
        weight_decay: not applied to biases and normalisation.
        momentum: of optimisers that have one.
        schedule: timm's name of the learning-rate schedule, or ``none``.
        decays: of the schedule ``step``, how often it divides the learning rate by ten, at equal
            distances.
        warmup_epochs: epochs in which the learning rate grows linearly.
        min_lr: where the schedule ends.
        label_smoothing: mass taken from the true class.
        dice_weight: weight of the Dice loss beside the cross-entropy of the pixels, of masks; 0 is
            off.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off.
        clip_grad: greatest norm of the gradient; 0 is off.
        ema_decay: decay of the moving average of the weights, which is then the result; 0 is off.
        proxygrad: slope of the leaky-ReLU gradient in the backward pass; outputs do not
            change (Linse, *Towards Understanding CNNs*, 2025, section 5.4);
            0 is off.
        temperature: softens the class probabilities of network and teacher; needs a teacher.
        teacher_weight: weight of the softened probabilities, 0 to 1; the labels have the rest.
        feature_weight: weight of the error of the features; 0 is off.
    """

    freeze: str = "none"
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: str = "cosine"
    decays: int = 2
    warmup_epochs: int = 0
    min_lr: float = 0.0
    label_smoothing: float = 0.0
    dice_weight: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    clip_grad: float = 0.0
    ema_decay: float = 0.0
    proxygrad: float = 0.0
    temperature: float = 4.0
    teacher_weight: float = 0.9
    feature_weight: float = 1.0


@dataclass(frozen=True)
class RunSettings:
    """Settings of a training run.

    Attributes:
        epochs: passes over the data.
        batch_size: images per step over all processes together.
        accumulate: steps per update of the weights.
        precision: ``no`` (float32), ``bf16`` or ``fp16`` mixed precision.
        channels_last: store activations channels last, faster for many networks.
        device: torch's name of the device; ``auto`` is a GPU if there is one, and the share of
            each process under ``accelerate launch``.
        compile: compile the network with ``torch.compile`` before training.
        workers: processes that read images ahead.
        seed: of the order of images, mixing and dropout.
        patience: stop after this many epochs without a better validation accuracy and give the
            best epoch back; 0 never stops and gives the last epoch back.
        checkpoint_steps: also save the state every so many steps, not only after every epoch.
        folder: where state, log and plot go; None keeps nothing.
        resume: go on from the state in the folder.
    """

    epochs: int = 10
    batch_size: int = 64
    accumulate: int = 1
    precision: str = "no"
    channels_last: bool = False
    compile: bool = False
    device: str = "auto"
    workers: int = 0
    seed: int = 0
    patience: int = 0
    checkpoint_steps: int = 0
    folder: str | None = None
    resume: bool = False


def check_settings(recipe: TrainingRecipe, run: RunSettings) -> None:
    """Refuse settings that cannot work.

    Raises:
        OptionError: a word is unknown or a number out of range.
    """
    for option, value, known in (
        ("freeze", recipe.freeze, FREEZES),
        ("schedule", recipe.schedule, SCHEDULES),
        ("precision", run.precision, PRECISIONS),
    ):
        if value not in known:
            raise OptionError(f"{option} {value!r} is unknown{near_misses(value, known)}")
    check_device_name(run.device)
    for option, number in (
        ("epochs", run.epochs),
        ("batch_size", run.batch_size),
        ("accumulate", run.accumulate),
    ):
        if number < 1:
            raise OptionError(f"{option} must be at least 1, not {number}")
    if recipe.decays < 1:
        raise OptionError(f"decays must be at least 1, not {recipe.decays}")
    _check_ranges(recipe, run)
    if run.resume and run.folder is None:
        raise OptionError("resume needs the directory of the run")
    if recipe.warmup_epochs and recipe.schedule == "none":
        raise OptionError("warmup_epochs needs a schedule")
    if (recipe.mixup or recipe.cutmix) and run.batch_size % 2:
        raise OptionError(f"mixup and cutmix need an even batch size, not {run.batch_size}")


def _check_ranges(recipe: TrainingRecipe, run: RunSettings) -> None:
    """Refuse numbers out of range, and those that are not numbers."""
    for option in ("lr", "temperature"):
        if not 0 < getattr(recipe, option) < inf:
            raise OptionError(f"{option} must be positive, not {getattr(recipe, option):g}")
    if not 0 <= recipe.teacher_weight <= 1:
        raise OptionError(f"teacher_weight must lie in 0..1, not {recipe.teacher_weight:g}")
    for option, limit in (
        ("weight_decay", inf),
        ("momentum", 1),
        ("warmup_epochs", run.epochs + 1),
        ("min_lr", recipe.lr),
        ("label_smoothing", 1),
        ("dice_weight", inf),
        ("mixup", inf),
        ("cutmix", inf),
        ("clip_grad", inf),
        ("ema_decay", 1),
        ("proxygrad", 1),
        ("feature_weight", inf),
    ):
        number = getattr(recipe, option)
        if not 0 <= number < limit:
            below = "" if limit == inf else f" and below {limit:g}"
            raise OptionError(f"{option} must be at least 0{below}, not {number:g}")
