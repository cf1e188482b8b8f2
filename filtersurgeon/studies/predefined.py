"""Do fixed edge and line filters generalise better? Train converted networks and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.bank import load_bank
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.data.data import DataSpec
from filtersurgeon.data.preprocess import Augmentation
from filtersurgeon.errors import DivergedError, LayerError, OptionError, near_misses
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.networks import fresh_model
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.networks.build import build
from filtersurgeon.networks.structure import replay
from filtersurgeon.networks.structure.edits.smoothed import leaves_out
from filtersurgeon.networks.structure.edits.unskipped import skips
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    network_plan,
    open_for_worker,
    training_plan,
)
from filtersurgeon.transforms.convert import convert
from filtersurgeon.transforms.predefined.settings import MODULES, PFM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK = "network"
SWITCHES = ("no-relu", "aliasing", "smooth", "no-skips", "trainable")
_RANDOM = "random-"


@dataclass(frozen=True)
class Variant:
    """A network, converted or not.

    Attributes:
        name: the words that it was written as.
        module: ``network`` as it is, ``pfm`` or ``reduced-pfm``.
        bank: name of a bank; empty for a network as it is.
        switches: of ``SWITCHES``.
    """

    name: str
    module: str
    bank: str = ""
    switches: frozenset[str] = frozenset()


def read_variant(text: str) -> Variant:
    """Read ``MODULE``, ``MODULE+BANK``, and switches behind further plus signs.

    Without a bank a ``pfm`` has ``edge-line-9``, a ``reduced-pfm`` ``edge-line-16``, as in Linse,
    *Towards Understanding CNNs Through Visualization and Systematic Simplification*, 2025,
    chapters 6 and 7.

    Raises:
        OptionError: an unknown word, or one that does nothing here.
    """
    module, *words = (word.strip() for word in text.split("+"))
    known = (NETWORK, *MODULES)
    if module not in known:
        raise OptionError(f"variants: no module {module!r}{near_misses(module, known)}")
    switches = frozenset(word for word in words if word in SWITCHES)
    banks = [word for word in words if word not in SWITCHES]
    if module == NETWORK:
        wrong = next((w for w in words if w not in ("smooth", "no-skips")), None)
        if wrong:
            raise OptionError(f"variants: {text}: {wrong} goes with pfm or reduced-pfm")
        return Variant(text, module, "", switches)
    if "smooth" in switches:
        raise OptionError(f"variants: {text} is smoothed anyway; aliasing switches that off")
    if len(banks) > 1:
        hint = near_misses(banks[-1], SWITCHES)
        raise OptionError(f"variants: {text} names {' and '.join(banks)}; one bank is enough{hint}")
    bank = banks[0] if banks else ("edge-line-9" if module == PFM else "edge-line-16")
    load_bank(bank).at((3, 3))
    return Variant(text, module, bank, switches)


def make_variant(checkpoint: Checkpoint, variant: Variant, seed: int) -> Checkpoint:
    """Convert a network.

    Args:
        checkpoint: the network.
        variant: what to make of it.
        seed: of the weights, and of the filters of a bank ``random-K``.

    Raises:
        LayerError: there are no skip connections to take out or to smooth.
    """
    made = checkpoint
    if variant.module != NETWORK:
        learn = "trainable" in variant.switches
        made = convert(
            made, module=variant.module, bank=_bank(variant.bank, seed),
            relu="no-relu" not in variant.switches, trainable=learn, own_filters=learn,
            smooth_skips="aliasing" not in variant.switches, seed=seed,
        )  # fmt: skip
    if "smooth" in variant.switches:
        made = _edit(made, "smoothed")
    return _edit(made, "unskipped") if "no-skips" in variant.switches else made


def _bank(name: str, seed: int) -> str | FilterBank:
    """Draw random filters anew for every seed; other banks are always the same."""
    count = name.removeprefix(_RANDOM)
    if not name.startswith(_RANDOM) or not count.isdecimal():
        return name
    from filtersurgeon.banks.builtin.random import random

    return random((3, 3), count=int(count), seed=seed)


def _edit(checkpoint: Checkpoint, kind: str) -> Checkpoint:
    """Smooth or take out every skip connection."""
    model = build(checkpoint)
    found = {"smoothed": leaves_out, "unskipped": skips}[kind]
    modules = [name for name, module in model.named_modules() if found(module)]
    if not modules:
        raise LayerError(f"{checkpoint.name} has no skip connection of the kind that is {kind}")
    edit: dict[str, Any] = {"edit": kind, "modules": modules}
    replay(model, [edit])
    tensors = {
        name: checkpoint.tensors.get(name) or from_torch(tensor, name)
        for name, tensor in model.state_dict().items()
    }
    edited = checkpoint.edited(HistoryEntry("convert", {kind: True}), {}, "")
    return replace(edited, tensors=tensors, structure=(*checkpoint.structure, edit))


VARIANTS = (
    "network",
    "network+smooth",
    "reduced-pfm",
    "reduced-pfm+aliasing",
    "reduced-pfm+no-relu",
    "reduced-pfm+random-16",
    "reduced-pfm+trainable",
    "reduced-pfm+random-16+trainable",
)
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def predefined(
    lab: Lab,
    *,
    train: str = "",
    train_subset: int = 0,
    variants: str = ",".join(VARIANTS),
    epochs: int = 20,
    lr: float = 0.003,
    weight_decay: float = 1.0,
    augment: bool = False,
    repeats: int = 5,
) -> StudyResult:
    """Train a network from scratch, as it is and with pre-defined filter modules, equally.

    All variants of one repeat share the order of images. Optimiser, learning rate, weight decay
    and schedule are the dissertation's: LAMB, divided by ten three times at equal distances.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, sections 2.5.1, 6.3 to 6.6 and 7.3, Tables 6.3, 6.5 to 6.8, 7.2, 7.4.

    Args:
        lab: the network and the images to check on.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them, others for each repeat; 0 takes all.
        variants: ``network`` as it is, ``pfm`` or ``reduced-pfm``, with a plus sign before each
            further word: a bank, such as ``edge-line-18``, ``edge-4``, ``line-8``, ``random-16``
            (drawn anew for every repeat) or ``translating``; ``no-relu``; ``aliasing``, strided
            skip connections not smoothed; ``no-skips``, for ResNets; ``trainable``, every module
            learns filters of its own, beginning with the bank's; ``network+smooth``.
        epochs: passes over the training images; the dissertation has 300.
        lr: learning rate.
        weight_decay: of LAMB.
        augment: random crops and horizontal flips.
        repeats: at least 1, each with a seed of its own.

    Returns:
        Test accuracy after the last epoch, mean and standard deviation over the repeats, training
        loss, and number of parameters that learn.
    """
    if repeats < 1 or epochs < 1:
        raise OptionError("repeats and epochs should be at least 1")
    chosen = list(dict.fromkeys(read_variant(word).name for word in variants.split(",")))
    plan = training_plan(lab, train, train_subset, epochs, lr)
    plan["recipe"] = asdict(
        TrainingRecipe(
            optimizer="lamb", lr=lr, weight_decay=weight_decay, schedule="step", decays=3
        )
    )
    plan["run"] = {**plan["run"], "channels_last": True}
    shared = {**network_plan(lab), **plan, "augment": augment}
    jobs = {
        (variant, repeat): {**shared, "variant": variant, "seed": lab.seed + repeat}
        for repeat in range(repeats)
        for variant in chosen
    }
    results = run_jobs(train_variant, list(jobs.values()), lab.jobs, lab.progress)
    found = dict(zip(jobs, results, strict=True))
    runs = {v: [found[v, repeat] for repeat in range(repeats)] for v in chosen}
    given = {
        "train_subset": train_subset, "variants": variants, "epochs": epochs, "lr": lr,
        "weight_decay": weight_decay, "augment": augment, "repeats": repeats,
    }  # fmt: skip
    return _result(given, runs)


def train_variant(
    network: Mapping[str, Any],
    variant: str,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
    classes: int | None,
    augment: bool,
    seed: int,
) -> dict[str, Any]:
    """Convert, train from scratch and evaluate one network; runs in a worker.

    Returns:
        The top-1 accuracy on the test images and the training loss after every epoch, or None if
        training diverged, and the number of parameters that learn.
    """
    crops = Augmentation(scale=(0.5, 1.0), color_jitter=0.0) if augment else None
    with open_for_worker(network) as checkpoint:
        converted = make_variant(checkpoint, read_variant(variant), seed)
        fresh = fresh_model(converted, classes, seed)
        size = sum(p.numel() for p in fresh.parameters() if p.requires_grad)
        images = TrainingImages(DataSpec(**{**train, "seed": seed}), DataSpec(**test), crops)
        settings = RunSettings(**{**run, "seed": seed})
        start = TrainingStart(True, classes, network["preprocess"])
        try:
            _, result = tune(converted, images, TrainingRecipe(**recipe), settings, start=start)
        except DivergedError:
            return {"parameters": size, "accuracy": None, "loss": None}
    return {
        "parameters": size,
        "accuracy": [row.accuracy for row in result.history],
        "loss": [row.train_loss for row in result.history],
    }


def _last(runs: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    """Give the last epoch's value of every run that came to its end."""
    return [run[what][-1] for run in runs if run[what] is not None]


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _result(given: Mapping[str, Any], runs: Runs) -> StudyResult:
    defaults = STUDIES.options("predefined")
    findings = [
        {
            "variant": variant,
            "parameters": its[0]["parameters"],
            "accuracy": float(np.mean(good)) if (good := _last(its, "accuracy")) else None,
            "deviation": _spread(good),
            "loss": float(np.mean(_last(its, "loss"))) if good else None,
            "runs": [run["accuracy"] for run in its],
        }
        for variant, its in runs.items()
    ]
    return StudyResult(
        "predefined",
        {k: v for k, v in given.items() if v != defaults[k].default},
        {"variants": findings},
        [_table(findings, runs)],
        _remarks(runs),
        lambda figure: _draw(figure, findings),
    )


def _table(findings: Sequence[Mapping[str, Any]], runs: Runs) -> Table:
    columns = [("variant", "left"), ("parameters", "right"), ("top-1 %", "right"),
               ("- network", "right"), ("training loss", "right")]  # fmt: skip
    rows = [
        (
            found["variant"],
            found["parameters"],
            "diverged" if found["accuracy"] is None else _percent(found),
            _gain(runs, found["variant"]),
            "" if found["loss"] is None else f"{found['loss']:.3f}",
        )
        for found in findings
    ]
    return Table("from scratch: mean and standard deviation over the seeds", columns, rows)


def _percent(found: Mapping[str, Any]) -> str:
    return f"{100 * found['accuracy']:.2f} ±{100 * found['deviation']:.2f}"


def _gain(runs: Runs, variant: str) -> str:
    """Give the difference to the network as it is, paired by seed."""
    pairs = [
        ours["accuracy"][-1] - own["accuracy"][-1]
        for ours, own in zip(runs[variant], runs.get(NETWORK, ()), strict=False)
        if ours["accuracy"] and own["accuracy"]
    ]
    if variant == NETWORK or not pairs:
        return ""
    return f"{100 * float(np.mean(pairs)):+.2f} ±{100 * _spread(pairs):.2f}"


def _remarks(runs: Runs) -> list[str]:
    diverged = [variant for variant, its in runs.items() if any(r["loss"] is None for r in its)]
    told = ["'- network' is the difference to the network as it is, paired by seed"]
    return [*told, f"some runs diverged and are left out: {', '.join(diverged)}"][
        : 2 if diverged else 1
    ]


def _draw(figure: Figure, findings: Sequence[Mapping[str, Any]]) -> None:
    """Draw a dot per variant, with the deviation over the seeds."""
    shown = [found for found in findings if found["accuracy"] is not None][::-1]
    figure.set_size_inches(7.0, 0.9 + 0.32 * len(shown))
    axes = figure.subplots()
    axes.errorbar(
        [100 * found["accuracy"] for found in shown], range(len(shown)),
        xerr=[100 * found["deviation"] for found in shown], fmt="o", capsize=3, markersize=5,
    )  # fmt: skip
    axes.set_yticks(range(len(shown)), [found["variant"] for found in shown])
    axes.set(xlabel="top-1 (%), standard deviation over the seeds", ylim=(-0.6, len(shown) - 0.4))
    axes.grid(alpha=0.3)
