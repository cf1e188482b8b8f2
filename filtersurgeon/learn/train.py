"""Fine-tuning and training from scratch under Hugging Face accelerate, with frozen filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.checkpoint.vision import require
from filtersurgeon.errors import OptionError, TrainingError
from filtersurgeon.learn.engine import synced_norms
from filtersurgeon.learn.frozen_weights import skip_weight_gradients
from filtersurgeon.learn.session import Session, TrainingData, TrainingStep
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe, check_settings
from filtersurgeon.learn.state import EpochRow
from filtersurgeon.networks.devices import batch_fits, find_device
from filtersurgeon.networks.structure.plain_weights import keeps_weight, list_joined, weight_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn


def frozen_layers(model: nn.Module, freeze: str) -> list[str]:
    """Name the convolutions whose weights a freezing protocol holds still.

    Args:
        model: any network.
        freeze: ``spatial``: every convolution wider than one pixel (Gaudio et al., ExplainFix,
            section 3.1); ``depthwise``: those of them with one input channel per filter and more
            than one group (Babaiee et al., section 4); ``none``.

    Returns:
        Module names, in the order of the network.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    found = []
    for name, module in model.named_modules():
        if freeze == "none" or not isinstance(module, _ConvNd) or max(module.kernel_size) == 1:
            continue
        depthwise = module.groups > 1 and module.groups == module.in_channels
        if freeze == "spatial" or (depthwise and isinstance(module, nn.Conv2d)):
            found.append(name)
    return found


@contextmanager
def frozen(model: nn.Module, freeze: str) -> Iterator[list[str]]:
    """Hold filters still inside the block, and undo every change to the modules afterwards.

    With ``depthwise`` every kernel x is used as x + b with one trainable number b per kernel,
    zero at first, which is added into the weight at the end; x itself keeps its bits.

    Args:
        model: changed in place; its parameters keep their names and shapes after the block.
        freeze: ``none``, ``spatial`` or ``depthwise``.

    Yields:
        Names of the frozen layers.

    Raises:
        TrainingError: there is nothing to freeze.
    """
    names = frozen_layers(model, freeze)
    if freeze != "none" and not names:
        raise TrainingError(f"freeze {freeze!r}: the network has no such convolution")
    _check_stay(model, names, freeze)
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name in names:
        own = dict(model.get_submodule(name).named_parameters())
        for tensor in weight_tensors(model.get_submodule(name)):
            if tensor in own:
                own[tensor].requires_grad_(False)
    if freeze == "depthwise":
        _add_biases(model, names)
    # A kernel with a trainable offset needs the gradient of its weight.
    held = () if freeze == "depthwise" else names
    try:
        with skip_weight_gradients(model, held):
            yield names
    finally:
        if freeze == "depthwise":
            _fold_biases(model, names)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])


def _check_stay(model: nn.Module, names: list[str], freeze: str) -> None:
    """Refuse weights in parts that do not stay, or do not take an additive bias."""
    for name in names:
        module = model.get_submodule(name)
        if "weight" in list_joined(module) and (freeze == "depthwise" or not keeps_weight(module)):
            raise TrainingError(
                f"layer {name}: its weight is stored in parts, which `freeze` {freeze} cannot "
                "freeze; make it an ordinary parameter first"
            )


def _add_biases(model: nn.Module, names: list[str]) -> None:
    """Replace each weight x by x + b."""
    from torch import nn
    from torch.nn.utils.parametrize import register_parametrization

    class KernelBias(nn.Module):
        """Adds one number to every weight of a kernel; weights are (out, in, kh, kw)."""

        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.bias = nn.Parameter(weight.new_zeros(*weight.shape[:2], 1, 1))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + self.bias

    for name in names:
        layer = model.get_submodule(name)
        register_parametrization(layer, "weight", KernelBias(layer.get_parameter("weight")))


def _fold_biases(model: nn.Module, names: list[str]) -> None:
    """Make x + b the plain weight again."""
    from torch.nn.utils.parametrize import remove_parametrizations

    for name in names:
        remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)


@dataclass(frozen=True)
class TrainingResult(Tabular):
    """The result of a training run; the network is changed in place.

    Attributes:
        history: one row per epoch.
        frozen: names of the layers whose filters were frozen.
        best_epoch: the epoch of the greatest validation score, counted from 1, or None.
        stopped_early: patience ran out.
        matched: names of the modules whose outputs were compared with the teacher's.
    """

    history: tuple[EpochRow, ...]
    frozen: tuple[str, ...]
    best_epoch: int | None
    stopped_early: bool
    matched: tuple[str, ...] = ()

    def __repr__(self) -> str:
        entries = (
            f"epoch {row.epoch}: training loss {row.train_loss:.3g}"
            + ("" if row.accuracy is None else f", {row.metric} {row.accuracy:.2%}")
            for row in self.history
        )
        return summarise(
            self,
            entries,
            epochs=len(self.history),
            frozen=len(self.frozen),
            best_epoch=self.best_epoch,
            stopped_early=self.stopped_early,
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each epoch."""
        return map(asdict, self.history)


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
        model: takes (images, channels, height, width), gives scores of the images' classes, or of
            each pixel's.
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
        _leak(recipe.proxygrad),
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
def _leak(slope: float) -> Iterator[None]:
    """Use a leaky-ReLU gradient in the backward pass inside the block, unless the slope is 0.

    Raises:
        ArchitectureError: the network, once it has run, turns out to have no rectifier.
    """
    if not slope:
        yield
        return
    from filtersurgeon.networks.modules.rectifiers import check_met, rectified

    with rectified("proxygrad", slope) as mode:
        yield
    check_met(mode, "the network")


def _make_accelerator(run: RunSettings) -> Any:
    """Set accelerate up, for a precision that may differ from an earlier run's."""
    accelerate = require("accelerate", "train")
    accelerate.state.AcceleratorState._reset_state()
    accelerator = accelerate.Accelerator(cpu=run.device == "cpu", mixed_precision=run.precision)
    if accelerator.num_processes == 1:
        _place(accelerator, find_device(run.device))
    elif run.device not in ("auto", "cpu"):
        raise OptionError(f"device {run.device!r} with several processes; leave it out")
    # accelerate would quietly compute in float32.
    if run.precision == "fp16" and accelerator.device.type == "cpu":
        raise OptionError("precision 'fp16' needs a GPU; a CPU can do bf16")
    return accelerator


def _place(accelerator: Any, device: torch.device) -> None:
    """Have accelerate use a device, of which it would take the first of the best kind."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # An optimizer copies the state of the process into that of the accelerator once more.
    for state in (require("accelerate.state", "train").PartialState(), accelerator.state):
        state.device = device
