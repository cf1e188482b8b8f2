"""What does freezing the spatial filters save? Time and memory of training steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.engine import make_optimizer
from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.learn.networks import open_network
from filtersurgeon.learn.settings import TrainingRecipe
from filtersurgeon.learn.train import frozen
from filtersurgeon.networks.devices import batch_fits, find_device, wait_for
from filtersurgeon.networks.hub import untrained
from filtersurgeon.networks.outputs import class_scores
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    changed_options,
    percentages,
    scoring_options,
    words,
)
from filtersurgeon.studies._training_work import TrainingWork, count_work
from filtersurgeon.studies.channelprune import score_kernels
from filtersurgeon.transforms.prune import prune

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

PAPER = {
    "resnet50": (11.3e6, 0.48, 231, 191),
    "densenet121": (2.1e6, 0.31, 383, 347),
    "efficientnet_b0": (0.2e6, 0.05, 267, 259),
}
"""Table 3: network -> spatial parameters, their share, seconds per epoch learned and ExplainFix.
Those of ExplainFix are pruned as well, but for EfficientNet."""

PRESETS = {
    "paper": {
        "zeroed": "80,90,99,99.9", "gradient": True, "noise": 60, "side": 320, "classes": 5,
        "images": 15_000, "batch_size": 4, "steps": 50, "rounds": 20,
    }
}  # fmt: skip


def training_cost(
    lab: Lab,
    *,
    networks: str = ",".join(PAPER),
    zeroed: str = "90",
    method: str = "saliency",
    gradient: bool = False,
    noise: int = 8,
    side: int = 64,
    classes: int = 5,
    images: int = 15_000,
    batch_size: int = 4,
    steps: int = 5,
    rounds: int = 5,
    cpu_time: bool = False,
    preset: str = "",
) -> StudyResult:
    """Time training with learned and with frozen spatial filters, of a network and of pruned ones.

    A step is a forward pass on noise, a backward pass and an update by Adam, on the device of
    ``--device``. The networks take turns, so that a busy machine is so for all, and times are
    compared within a round, which counts the fastest of its steps: other programs only add to the
    time. Reading images is not timed. Beside the times stand the
    multiply-accumulates of both passes and the memory that training needs, which do not depend on
    the machine. ``-p preset=paper`` sets the authors' sizes. Without INPUT, torchvision's networks
    are taken as they are initialised.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 4.2,
    Table 3 and Fig. 11.

    Args:
        lab: the network, if any, and the images for ``saliency``, if any.
        networks: torchvision's, measured where no network is given.
        zeroed: percentages of all spatial kernels that are zeroed before the network is pruned by
            ChannelPrune; the network as it is comes first.
        method: how kernels are scored: any ranking method that scores kernels.
        gradient: score by the magnitude of the gradient alone; of ``saliency``.
        noise: number of noise images for ``saliency`` without ``--data``.
        side: height and width of images, where the network states no input size.
        classes: outputs of torchvision's networks; the paper has 5.
        images: per epoch, for the seconds; the paper has 15,000.
        batch_size: images per step; the paper has 4.
        steps: of each network in a round, of which the fastest counts.
        rounds: at least 2, for the interval.
        cpu_time: count processor seconds of this process instead of elapsed ones, for a CPU that
            runs other programs as well.
        preset: ``paper``.

    Returns:
        For each network, whole and pruned, with learned and with frozen spatial filters:
        parameters and the share that is spatial; multiply-accumulates per image of the forward and
        the backward pass; bytes that training holds at its peak, counted (weights, gradients,
        optimizer state, activations); seconds per epoch, and the share saved of those of the whole
        learned network, with Student's 95 % intervals over the rounds.
    """
    shares = percentages(zeroed, "zeroed")
    scoring_options(method, gradient)
    if min(noise, side, classes, images, batch_size, steps) < 1 or rounds < 2:
        raise OptionError("numbers should be at least 1, and rounds at least 2")
    device = find_device(lab.evaluation.device)
    if cpu_time and device.type != "cpu":
        raise OptionError(f"cpu_time=true measures a CPU, and the device is {device}")
    own = lab.checkpoint is not None
    names = [Path(lab.network().name).name] if own else words(networks, PAPER, "networks")
    rows: list[dict[str, Any]] = []
    for done, name in enumerate(names):
        start = lab.checkpoint or untrained(
            f"torchvision:{name}", seed=lab.seed, num_classes=classes
        )
        scores = score_kernels(lab, start, method, (noise, side), lab.seed, gradient)
        pruned = {
            share: prune(start, sparsity=share, scores=scores, fill="fillzero", seed=lab.seed,
                         layers=lab.layers, verify=False)
            for share in shares
        }  # fmt: skip
        clock = process_time if cpu_time else perf_counter
        found = _measure(lab, {0.0: start, **pruned}, side, batch_size, (steps, rounds), clock)
        for row in found:
            row |= {"network": name, "seconds": row.pop("step") * images / batch_size}
        rows += found
        if lab.progress:
            lab.progress(done + 1, len(names))
    given = {
        "networks": networks, "zeroed": zeroed, "method": method, "gradient": gradient,
        "noise": noise, "side": side, "classes": classes, "images": images,
        "batch_size": batch_size, "steps": steps, "rounds": rounds, "cpu_time": cpu_time,
        "preset": preset,
    }  # fmt: skip
    return _result(given, rows, str(device))


def _measure(
    lab: Lab,
    networks: Mapping[float, Checkpoint],
    side: int,
    batch_size: int,
    counts: tuple[int, int],
    clock: Callable[[], float],
) -> list[dict[str, Any]]:
    """Measure each network with learned and with frozen spatial filters.

    Args:
        lab: the device and the preprocessing.
        networks: share of kernels zeroed -> the network.
        side: of images, where a network states no input size.
        batch_size: images per step.
        counts: steps in a round, and rounds; one more round before them is not counted.
        clock: gives seconds.
    """
    import torch

    steps, rounds = counts

    device = find_device(lab.evaluation.device)
    random = torch.Generator().manual_seed(lab.seed)
    measured: list[_Step] = []
    works: list[TrainingWork] = []
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack, batch_fits(batch_size):
        for share, checkpoint in networks.items():
            for held in (False, True):
                ready = open_network(checkpoint, lab.preprocess)
                size = ready.preprocessing.input_size or (ready.preprocessing.channels, side, side)
                x = torch.randn(batch_size, *size, generator=random).to(device)
                y = torch.randint(ready.n_classes, (batch_size,), generator=random).to(device)
                model = ready.model.to(device).train()
                spatial = [p for p in model.parameters() if p.ndim > 3 and prod(p.shape[2:]) > 1]
                recipe = TrainingRecipe("spatial" if held else "none", "adam", weight_decay=0.0)
                stack.enter_context(frozen(model, recipe.freeze))
                step = _Step(model, make_optimizer(model, recipe), x, y, clock)
                works.append(count_work(model, step.compute_loss))
                measured.append(step)
                rows.append(
                    {
                        "zeroed": share,
                        "frozen": held,
                        "parameters": sum(p.numel() for p in model.parameters()),
                        "spatial": sum(p.numel() for p in spatial),
                    }
                )
        times = [[step.time(steps) for step in measured] for _ in range(rounds + 1)][1:]
    for at, (row, work) in enumerate(zip(rows, works, strict=True)):
        own = [one[at] for one in times]
        totals = [sum(each) for each in own]
        saved = [1 - sum(one[at]) / sum(one[0]) for one in times]
        row |= {
            "macs": [work.forward / batch_size, work.backward / batch_size],
            "bytes": work.memory(),
            "kept_bytes": work.kept,
            "step": fmean(totals),
            "spread": student_interval([total / fmean(totals) for total in totals]),
            "saved": student_interval(saved) if at else None,
            "shares": [sum(each[k] for each in own) / sum(totals) for k in range(3)],
        }
    return rows


class _Step:
    """Training steps of one network."""

    def __init__(
        self, model: nn.Module, optimizer: Any, x: Tensor, y: Tensor, clock: Callable[[], float]
    ) -> None:
        self.model, self.optimizer, self.x, self.y = model, optimizer, x, y
        self.clock = clock

    def compute_loss(self) -> Tensor:
        """Run the network forward."""
        from torch.nn import functional

        return functional.cross_entropy(class_scores(self.model(self.x)), self.y)

    def time(self, steps: int) -> tuple[float, float, float]:
        """Give the seconds of forward pass, backward pass and update of the fastest step."""
        taken: list[tuple[float, float, float]] = []
        for _ in range(steps):
            at = [self._now()]
            loss = self.compute_loss()
            at.append(self._now())
            loss.backward()
            at.append(self._now())
            self.optimizer.step()
            self.optimizer.zero_grad()
            at.append(self._now())
            taken.append((at[1] - at[0], at[2] - at[1], at[3] - at[2]))
        return min(taken, key=sum)

    def _now(self) -> float:
        wait_for(self.x.device)
        return self.clock()


def _result(given: Mapping[str, Any], rows: list[dict[str, Any]], device: str) -> StudyResult:
    return StudyResult(
        "training-cost",
        changed_options("training-cost", given),
        {
            "device": device,
            "rows": [
                {k: v._asdict() if k in ("spread", "saved") and v else v for k, v in row.items()}
                for row in rows
            ],
        },
        [_table(rows, given)],
        _remarks(rows, f"processor seconds of {device}" if given["cpu_time"] else device),
        lambda figure: _draw(figure, rows),
    )


def _table(rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Table:
    names = ("kernels zeroed", "filters", "parameters", "spatial", "MMACs forward",
             "backward", "MiB", "s/epoch", "saved %", "the paper's s/epoch")  # fmt: skip
    cells = []
    for row in rows:
        spread = row["spread"]
        half = row["seconds"] * max(spread.high - spread.mean, spread.mean - spread.low)
        paper = ""
        if row["network"] in PAPER and not row["zeroed"]:
            paper = f"{PAPER[row['network']][3 if row['frozen'] else 2]}"
        cells.append(
            (
                row["network"],
                f"{100 * row['zeroed']:g} %",
                "frozen" if row["frozen"] else "learned",
                f"{row['parameters']:,}",
                f"{row['spatial'] / row['parameters']:.1%}",
                f"{row['macs'][0] / 1e6:.1f}",
                f"{row['macs'][1] / 1e6:.1f}",
                f"{row['bytes'] / 2**20:.1f}",
                f"{row['seconds']:.1f} ±{half:.1f}",
                "" if row["saved"] is None else str(row["saved"]),
                paper,
            )
        )
    columns = [("network", "left"), *((name, "right") for name in names)]
    return Table(f"training on {given['images']:,} images", columns, cells)


def _remarks(rows: Sequence[Mapping[str, Any]], device: str) -> list[str]:
    remarks = [f"times are of this machine ({device}), on noise, without reading images"]
    if any(row["network"] in PAPER for row in rows):
        remarks.append("the paper's ExplainFix networks are pruned as well, but for EfficientNet")
    for learned, held in zip(rows[::2], rows[1::2], strict=True):
        less = 1 - held["macs"][1] / learned["macs"][1]
        whole = 1 - sum(held["macs"]) / sum(learned["macs"])
        remarks.append(
            f"{held['network']} at {100 * held['zeroed']:g} %: frozen filters need {less:.1%} less "
            f"work in the backward pass, {whole:.1%} less in all (multiply-accumulates)"
        )
    return remarks


def _draw(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw seconds per epoch against parameters pruned, as Fig. 11."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure.set_size_inches(4.5 * len(names), 4.2)
    for axes, name in zip(
        figure.subplots(1, len(names), squeeze=False).ravel(), names, strict=True
    ):
        whole = next(row["parameters"] for row in rows if row["network"] == name)
        for held in (False, True):
            line = [x for x in rows if x["network"] == name and x["frozen"] is held]
            axes.errorbar(
                [100 * (1 - row["parameters"] / whole) for row in line],
                [row["seconds"] for row in line],
                yerr=[row["seconds"] * (row["spread"].high - row["spread"].mean) for row in line],
                label="frozen" if held else "learned", marker="o", markersize=4, linewidth=1.2,
                elinewidth=0.9, capsize=2.5,
            )  # fmt: skip
        axes.set(title=name, xlabel="parameters pruned (%)", ylabel="seconds per epoch")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, title="spatial filters")
