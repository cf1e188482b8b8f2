"""How many filters does a network need? Replace its kernels from banks of several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.banks import FilterBank, load_bank
from filtersurgeon.banks.autoencoder import LearningSettings
from filtersurgeon.banks.learning import ORIGINS, learn_bank, sample_bank
from filtersurgeon.banks.search import search_bank
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.filters import find_layers, select_layers
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.evaluating import evaluate
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    image_run,
    network_plan,
    open_for_worker,
    training_images,
    words,
)
from filtersurgeon.transforms._compensating import KINDS
from filtersurgeon.transforms.replace import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bank_size(
    lab: Lab,
    *,
    counts: str = "100,50,25,10",
    origin: str = "code",
    start: int = 50,
    searched: int = 8,
    epochs: int = 300,
    all_spatial: bool = False,
    compensate: str = "none",
    train: str = "",
    train_subset: int = 128,
) -> StudyResult:
    """Replace a network's kernels from banks of several sizes, without retraining, and evaluate.

    Banks are made from the network's own kernels, one for each kernel size. The greedy search goes
    from ``start`` members to ``searched`` by squared error; ``fsurgeon bank search`` goes by
    accuracy. ``dog8`` is the built-in bank, where it has the sizes.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, Table 3.

    Args:
        lab: the network and the images.
        counts: numbers of members.
        origin: ``code`` (points of the autoencoder's code, the paper's), ``archetypes``,
            ``kmeans`` or ``scale-space``; several are compared.
        start: members with which the greedy search begins; 0 leaves it out.
        searched: members that it leaves.
        epochs: of the autoencoder, at most.
        all_spatial: the kernels of standard convolutions too.
        compensate: adapt the network to the kernels, as ``replace`` does: ``none``, ``batchnorm``
            or ``least-squares``.
        train: images to compensate with; the training split of ``--data`` if left out.
        train_subset: compensate with so many of them; 0 takes all.

    Returns:
        For each bank, top-1 accuracy with Wilson's 95 % interval, and the relative error of the
        kernels.
    """
    words(compensate, KINDS, "compensate")
    sizes = _counts(counts)
    origins = words(origin, ORIGINS[:-1], "origin")
    if start and not 1 <= searched < start:
        raise OptionError(f"searched={searched} should be from 1 to start={start}, which is more")
    banks: dict[str, list[FilterBank]] = {"original": []}
    for name in origins:
        for size in _kernel_sizes(lab, all_spatial):
            for row, bank in _banks(lab, size, name, sizes, (start, searched), epochs, all_spatial):
                banks.setdefault(row, []).append(bank)
    dog8 = [load_bank("dog8").at((n, n)) for n in _kernel_sizes(lab, all_spatial)]
    if all(dog8):
        banks["dog8"] = [bank for bank in dog8 if bank]
    shared = {**network_plan(lab), "images": asdict(lab.images()),
              "settings": asdict(lab.evaluation), "all_spatial": all_spatial,
              "compensate": compensate,
              "train": None if compensate == "none"
              else training_images(lab, train, train_subset)}  # fmt: skip
    jobs = [
        {**shared, "banks": [bank.kernels.tolist() for bank in chosen]} for chosen in banks.values()
    ]
    found = run_jobs(replace_and_evaluate, jobs, lab.jobs, lab.progress)
    given = {"counts": counts, "origin": origin, "start": start, "searched": searched,
             "epochs": epochs, "all_spatial": all_spatial, "compensate": compensate,
             "train_subset": train_subset}  # fmt: skip
    return _result(given, dict(zip(banks, found, strict=True)))


def _counts(text: str) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        raise OptionError(f"counts={text} should be whole numbers, such as 100,50") from None
    if min(found) < 1:
        raise OptionError(f"counts={text} should be at least 1")
    return sorted(set(found), reverse=True)


def _kernel_sizes(lab: Lab, all_spatial: bool) -> list[int]:
    spatial = [layer for layer in find_layers(lab.network()) if layer.is_spatial]
    chosen = [
        layer
        for layer in select_layers(spatial, lab.layers)
        if all_spatial or layer.kind == "depthwise"
    ]
    found = sorted({layer.kernel_size[0] for layer in chosen
                    if layer.kernel_size[0] == layer.kernel_size[1]})  # fmt: skip
    if not found:
        raise LayerError(
            f"{lab.network().name} has no square depthwise kernels to replace; "
            "the parameter all_spatial=true takes those of standard convolutions"
        )
    return found


def _banks(
    lab: Lab,
    size: int,
    origin: str,
    counts: Sequence[int],
    search: tuple[int, int],
    epochs: int,
    all_spatial: bool,
) -> Iterator[tuple[str, FilterBank]]:
    """Make the banks of one kernel size, each with the row of the table that it belongs to."""
    network = lab.network()
    options: dict[str, Any] = {"layers": lab.layers, "all_spatial": all_spatial}
    source: Any = network
    if origin == "code":
        settings = LearningSettings(epochs=epochs, seed=lab.seed)
        source = learn_bank(network, settings, size=size, **options)
        options = {}

    def sample(count: int) -> FilterBank:
        return sample_bank(source, count, origin=origin, size=size, seed=lab.seed, **options)

    for count in counts:
        yield f"{count} {origin}", sample(count)
    begin, end = search
    if begin:
        found = search_bank(
            network, sample(begin), to=end, criterion="error", layers=lab.layers,
            all_spatial=all_spatial,
        )  # fmt: skip
        yield f"{end} greedy of {begin} {origin}", found.bank


def replace_and_evaluate(
    network: Mapping[str, Any],
    images: Mapping[str, Any],
    settings: Mapping[str, Any],
    banks: Sequence[Any],
    all_spatial: bool,
    compensate: str,
    train: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Evaluate a network whose kernels are replaced from banks; runs in a worker.

    Returns:
        The evaluation, the members of each bank, and the relative error of all kernels together.
    """
    energy = lost = 0.0

    def observe(layer: Any) -> None:
        nonlocal energy, lost
        energy += layer.energy
        lost += layer.energy * layer.relative_error**2

    with open_for_worker(network) as checkpoint:
        tried = checkpoint
        made = [
            FilterBank(str(k), np.array(kernels), tuple(map(str, range(len(kernels)))))
            for k, kernels in enumerate(banks)
        ]
        if made:
            tried = replace(
                checkpoint,
                bank=made,
                layers=network["layers"],
                all_spatial=all_spatial,
                compensate=compensate,
                data=image_run(train, network, EvaluationSettings(**settings)),
                seed=images["seed"],
                observe=observe,
            )
        for change in tried.changes:  # layers report when they have been read to the end
            for _ in tried[change.tensor].blocks():
                pass
        found = evaluate(
            tried,
            DataSpec(**images),
            EvaluationSettings(**settings),
            preprocess=network["preprocess"],
        )
    return {
        "evaluation": found.to_dict(),
        "members": [len(bank) for bank in made],
        "relative_error": (lost / energy) ** 0.5 if energy else 0.0,
    }


def _result(given: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> StudyResult:
    rows = []
    for name, result in found.items():
        one = Evaluation.from_dict(result["evaluation"])
        low, high = one.interval()
        rows.append(
            {
                "bank": name,
                "members": result["members"],
                "accuracy": one.accuracy,
                "interval95": [low, high],
                "relative_error": result["relative_error"],
            }
        )
    defaults = STUDIES.options("bank-size")
    columns = [("bank", "left"), ("top-1 %", "right"), ("95 % interval", "right"),
               ("relative error", "right")]  # fmt: skip
    cells = [
        (
            row["bank"],
            f"{100 * row['accuracy']:.2f}",
            f"{100 * row['interval95'][0]:.2f} to {100 * row['interval95'][1]:.2f}",
            row["relative_error"],
        )
        for row in rows
    ]
    return StudyResult(
        "bank-size",
        {k: v for k, v in given.items() if v != defaults[k].default},
        {"rows": rows},
        [Table("kernels replaced from banks of several sizes", columns, cells)],
        draw=lambda figure: _draw(figure, rows),
    )


def _draw(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.subplots()
    places = range(len(rows))
    values = [100 * row["accuracy"] for row in rows]
    spans = [
        [100 * (row["accuracy"] - row["interval95"][0]) for row in rows],
        [100 * (row["interval95"][1] - row["accuracy"]) for row in rows],
    ]
    axes.barh(list(places), values, xerr=spans, color="C0", height=0.6,
              error_kw={"elinewidth": 1, "ecolor": "0.3"})  # fmt: skip
    axes.set_yticks(list(places), [row["bank"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 (%), 95 % interval, without retraining")
    axes.grid(axis="x", alpha=0.3)
