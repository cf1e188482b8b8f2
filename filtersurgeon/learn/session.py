"""One training run: everything that changes from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.vision import require
from filtersurgeon.data.images import EpochOrder, LabelledImages, batches, make_loader
from filtersurgeon.data.kinds import CLASSES
from filtersurgeon.errors import DivergedError, OptionError, TrainingError
from filtersurgeon.learn import engine
from filtersurgeon.learn.distillation import Distillation
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.losses import make_loss
from filtersurgeon.learn.outcomes import Outcome, as_part, merge_parts
from filtersurgeon.learn.scores import ScoreReader
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.state import (
    STATE_FILE,
    EpochRow,
    load_state,
    plot_history,
    save_state,
    signature,
    write_csv,
)
from filtersurgeon.networks.devices import FittingBatches, copy_number, mix, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from.

    Attributes:
        train: images to learn from.
        validation: images to check every epoch on, or None.
        n_classes: outputs of the network.
        teacher: a network to learn from too, or None.
        labelled: whether the training images have labels; without, the teacher alone is learnt
            from.
        origin: what else a run that is resumed must have been started with, as plain values.
    """

    train: LabelledImages
    validation: LabelledImages | None
    n_classes: int
    teacher: nn.Module | None = None
    labelled: bool = True
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingStep:
    """The progress of a training run.

    Attributes:
        epoch: counted from 1.
        step: counted from 1, within the epoch.
        steps: steps per epoch.
        loss: of this step, over all processes.
    """

    epoch: int
    step: int
    steps: int
    loss: float


class Session:
    """A run between two steps; it can be saved, and taken up again, at any of them."""

    def __init__(
        self,
        accelerator: Any,
        model: nn.Module,
        data: TrainingData,
        recipe: TrainingRecipe,
        run: RunSettings,
    ) -> None:
        import torch
        from torch.nn.modules.batchnorm import _BatchNorm

        if run.patience and data.validation is None:
            raise OptionError("patience needs images to check every epoch on")
        if data.teacher is None and not data.labelled:
            raise OptionError("images without labels need a teacher")
        self.accelerator, self.model, self.data = accelerator, model, data
        self.recipe, self.settings = recipe, run
        self.format = torch.channels_last if run.channels_last else torch.contiguous_format
        model.to(memory_format=self.format)  # type: ignore[call-overload]
        self.order = EpochOrder(
            len(data.train),
            run.batch_size,
            run.seed,
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.updates_per_epoch = -(-self.order.steps // run.accumulate)
        self.average = engine.make_average(model, recipe)
        optimizer = engine.make_optimizer(model, recipe)
        self.schedule = engine.make_schedule(optimizer, recipe, run.epochs, self.updates_per_epoch)
        self.prepared, self.optimizer = accelerator.prepare(model, optimizer)
        if run.compile:
            self.prepared = torch.compile(self.prepared)
        norms = any(isinstance(module, _BatchNorm) for module in model.modules())
        self.fitting = FittingBatches(
            self.order.local_batch_size,
            least=2 if norms else 1,
            note=", whose gradients are added"
            + ("; batch norm takes statistics of so many images" if norms else ""),
        )
        self.window: list[tuple[Tensor, Tensor, tuple[int, ...]]] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.mixing = engine.make_mixing(recipe, data.n_classes)
        kind = data.train.kind if data.labelled else CLASSES
        self.loss, self.read = make_loss(recipe, kind), ScoreReader(kind)
        self.distillation = self._open_teacher()
        self.epoch = self.step = 0
        self.loss_sum = 0.0
        self.history: list[EpochRow] = []
        self.best: dict[str, Any] | None = None
        self.best_epoch: int | None = None
        self.signature = {**signature(recipe, run, len(data.train)), **data.origin}
        self.folder = self._open_folder()
        self.last_good = self._state()

    def _open_teacher(self) -> Distillation | None:
        """Put the teacher where the network is, if there is one."""
        if self.data.teacher is None:
            return None
        teacher = self.data.teacher.to(self.accelerator.device)
        teacher.to(memory_format=self.format)  # type: ignore[call-overload]
        kind = self.data.train.kind if self.data.labelled else None
        return Distillation(teacher, self.recipe, self.data.labelled, kind)

    def _open_folder(self) -> Path | None:
        """Make the run's folder, or take up the run that is in it."""
        if self.settings.folder is None:
            return None
        folder = Path(self.settings.folder)
        if self.settings.resume:
            self._restore(load_state(folder, self.signature))
        elif (folder / STATE_FILE).exists():
            raise TrainingError(f"{folder}: already holds a run; resume it or choose another")
        # No process may look before the first one has written.
        self.accelerator.wait_for_everyone()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run_epochs(
        self,
        progress: Callable[[TrainingStep], None] | None,
        on_epoch: Callable[[EpochRow], None] | None,
    ) -> bool:
        """Train to the end; tell whether it stopped early."""
        stopped = self._out_of_patience()
        while self.epoch < self.settings.epochs and not stopped:
            self._train_epoch(progress)
            self._close_epoch()
            if on_epoch is not None:
                on_epoch(self.history[-1])
            stopped = self._out_of_patience()
        if self.settings.patience and self.best is not None:
            self.model.load_state_dict(self.best)
        elif self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        return stopped

    def _train_epoch(self, progress: Callable[[TrainingStep], None] | None) -> None:
        """Make the remaining steps of one epoch."""
        self.data.train.epoch = self.epoch
        self.order.begin(self.epoch, self.step)
        loader = make_loader(
            self.data.train, self.order.local_batch_size, self.settings.workers, self.order
        )
        self.prepared.train()
        for images, labels in batches(loader):
            loss = self._make_step(images, labels)
            self.loss_sum += loss
            self.step += 1
            if progress is not None:
                progress(TrainingStep(self.epoch + 1, self.step, self.order.steps, loss))
            if self._at_checkpoint():
                self._save()

    def _make_step(self, images: Tensor, labels: Tensor) -> float:
        """Add one batch's gradient, and update the weights if the window is full."""
        device, accumulate = self.accelerator.device, self.settings.accumulate
        images = images.to(device, non_blocking=True, memory_format=self.format)
        labels = labels.to(device, non_blocking=True)
        first = self.step - self.step % accumulate
        window = min(accumulate, self.order.steps - first)
        full = self.step == first + window - 1
        place = (self.settings.seed, self.epoch, self.step, self.order.rank)
        with seeded(*place), nullcontext() if full else self.accelerator.no_sync(self.prepared):
            if self.mixing is not None:
                images, labels = self.mixing(images, labels)
            value = self._add_gradients(images, labels, window, place)
        if not isfinite(value):
            self._give_up(value)
        if full:
            self._update()
        return value

    def _add_gradients(
        self, images: Tensor, labels: Tensor, window: int, place: tuple[int, ...]
    ) -> float:
        """Add the gradient of a batch, in parts once a whole one does not fit into memory."""
        batch = (images, labels, place)
        if self.accelerator.num_processes > 1:  # the others wait for a whole batch
            return self._add_gradient(*batch, window)
        if not self.window:
            self.buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        todo = [batch]
        while True:
            with self.fitting.halving(len(images)):
                for each in todo:
                    value = self._add_gradient(*each, window)
                self.window = [] if len(self.window) == window - 1 else [*self.window, batch]
                return value
            # What was added of this batch cannot be told from what was added before.
            self.optimizer.zero_grad()
            for buffer, before in self.buffers:
                buffer.copy_(before)
            todo = [*self.window, batch]

    def _add_gradient(
        self, images: Tensor, labels: Tensor, place: tuple[int, ...], window: int
    ) -> float:
        """Add the gradient of a batch, and give its loss over all processes."""
        import torch

        fitting = self.fitting
        count = min(-(-len(images) // fitting.size), max(1, len(images) // fitting.least))
        total: Any = 0.0
        with seeded(*place):
            if images.is_cuda:
                torch.cuda.manual_seed(mix(*place))
            for number in range(count):
                rows = slice(number * len(images) // count, (number + 1) * len(images) // count)
                part = images[rows] if count > 1 else images
                loss = self._compute_loss(part, labels[rows] if count > 1 else labels)
                loss = loss * (len(part) / len(images))
                total = total + loss.detach()
                self.accelerator.backward(loss / window)
                del loss
        value: float = copy_number(self.accelerator.reduce(total, "mean"))
        return value

    def _compute_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run the network, and the teacher if there is one."""
        if self.distillation is None:
            return self.loss(self.read(self.prepared, images), labels)
        return self.distillation(
            self.model,
            self.prepared,
            images,
            lambda scores: self.loss(scores, labels),
            self.accelerator.autocast(),
        )

    def _update(self) -> None:
        """Change the weights by the gathered gradient."""
        if self.recipe.clip_grad:
            self.accelerator.clip_grad_norm_(self.prepared.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        done = self.epoch * self.updates_per_epoch + self.step // self.settings.accumulate + 1
        if self.schedule is not None:
            self.schedule.step_update(done)
        if self.average is not None:
            self.average.update(self.model, step=done)

    def _give_up(self, value: float) -> None:
        """Go back to the last good state and say where the loss was lost."""
        self.model.load_state_dict(self.last_good["model"])
        saved = self.folder is not None and (self.folder / STATE_FILE).exists()
        kept = f" (kept in {self.folder})" if saved else ""
        raise DivergedError(
            f"the loss is {value} at epoch {self.epoch + 1}, step {self.step + 1}; back at the"
            f" last good state{kept}: try a lower learning rate or clip_grad"
        )

    def _close_epoch(self) -> None:
        """Validate, log and save."""
        found = self._validate()
        row = EpochRow(
            epoch=self.epoch + 1,
            lr=self.optimizer.param_groups[0]["lr"],
            train_loss=self.loss_sum / self.order.steps,
            loss=None if found is None else found.loss,
            accuracy=None if found is None else found.score,
            metric="top-1" if found is None else found.score_name,
        )
        self.history.append(row)
        # Written so that a score that is not a number is no better one.
        if found is not None and found.score > self._best_accuracy():
            self.best_epoch = row.epoch
            self.best = _copy(self._result().state_dict()) if self.settings.patience else None
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self._save()
        if self.folder is not None and self.accelerator.is_main_process:
            write_csv(self.history, self.folder / "log.csv")
            plot_history(self.history, self.folder / "log.png")

    def _validate(self) -> Outcome | None:
        """Evaluate on the validation images, every process its share."""
        if self.data.validation is None:
            return None
        settings = EvaluationSettings(
            batch_size=self.order.local_batch_size,
            workers=self.settings.workers,
            device=str(self.accelerator.device),
        )
        share = self.data.validation.shard(self.order.rank, self.order.world)
        gather = require("accelerate.utils", "train").gather_object
        parts = []
        if len(share):
            parts.append(as_part(evaluate(self._result(), share, self.data.n_classes, settings)))
        found: Outcome = merge_parts(gather(parts))
        return found

    def _result(self) -> nn.Module:
        """Give the network that this run would end with now."""
        return self.model if self.average is None else self.average.module

    def _best_accuracy(self) -> float:
        """Give the score of the best epoch so far."""
        if self.best_epoch is None:
            return -1.0
        return self.history[self.best_epoch - 1].accuracy or 0.0

    def _out_of_patience(self) -> bool:
        """Say whether validation has not improved for too long."""
        if not self.settings.patience or self.best_epoch is None:
            return False
        return self.epoch - self.best_epoch >= self.settings.patience

    def _at_checkpoint(self) -> bool:
        """Say whether the state is due; gradients of an unfinished window are never saved."""
        every = self.settings.checkpoint_steps
        between_windows = self.step % self.settings.accumulate == 0
        return bool(every) and self.step % every == 0 and between_windows

    def _state(self) -> dict[str, Any]:
        """Gather everything that the rest of the run depends on."""
        scaler = self.accelerator.scaler
        return {
            "signature": self.signature,
            "model": _copy(self.model.state_dict()),
            "average": None if self.average is None else _copy(self.average.module.state_dict()),
            "optimizer": _copy(self.optimizer.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": [asdict(row) for row in self.history],
        }

    def _save(self) -> None:
        """Keep the present state, on disk if there is a folder."""
        self.last_good = self._state()
        if self.folder is not None and self.accelerator.is_main_process:
            save_state(self.folder, self.last_good)

    def _restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.epoch, self.step = state["epoch"], state["step"]
        self.loss_sum = state["loss_sum"]
        self.history = [EpochRow(**row) for row in state["history"]]

    def release(self) -> None:
        """Take accelerate's wrapping off the network."""
        import torch

        self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _copy(found: Any) -> Any:
    """Copy nested dicts and lists of tensors to the CPU."""
    import torch

    if isinstance(found, torch.Tensor):
        return found.detach().to("cpu", copy=True)
    if isinstance(found, dict):
        return {key: _copy(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_copy(value) for value in found]
    return found
