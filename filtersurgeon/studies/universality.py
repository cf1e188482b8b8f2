"""Do two networks lead to the same filters? Learn, sample and search eight in each, many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.banks import FilterBank, compare_banks, load_bank
from filtersurgeon.banks.autoencoder import LearningSettings
from filtersurgeon.banks.bank import Size
from filtersurgeon.banks.collection import KernelCollection, collect_kernels
from filtersurgeon.banks.learning import learn_bank, sample_bank
from filtersurgeon.banks.matching import BankComparison
from filtersurgeon.banks.search import search_bank
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.networks.files import load
from filtersurgeon.plots.pictures import MatchedRow, draw_matched
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._lab import Lab, StudyResult, Table, network_plan, open_for_worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIKE = 0.95
"""|cosine| from which two kernels are counted as the same."""

Pair = tuple[FilterBank, FilterBank]


def universality(
    lab: Lab,
    *,
    other: str = "",
    size: int = 0,
    start: int = 50,
    searched: int = 8,
    repeats: int = 10,
    epochs: int = 300,
    all_spatial: bool = False,
) -> StudyResult:
    """Compare the few filters that two networks lead to, with each other and with dog8.

    Every repeat learns an autoencoder from a network's kernels with a seed of its own, samples
    ``start`` kernels from the code, and removes all but ``searched`` of them by squared error.
    Two banks are matched one to one by |cosine| of the mean-free kernels, so that scale, sign and
    offset do not matter. Two rows show what the method finds without any universality:
    ``drawn`` takes kernels of the other network at random, ``noise`` takes random numbers.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, sections 3.1
    and 3.2.

    Args:
        lab: the first network; no images are needed.
        other: the second network, a file or name.
        size: side of the kernels; 0 where both networks have only one and the same.
        start: members with which the search begins.
        searched: members that it leaves.
        repeats: seeds for each network, counted from ``--seed``; at least 2.
        epochs: of the autoencoder, at most.
        all_spatial: the kernels of standard convolutions too.

    Returns:
        For each pair of banks the mean |cosine| over the matched members: its mean over the
        repeats, standard deviation, least and greatest; the same for the worst matched member, and
        the number of members with a |cosine| of at least 0.95.
    """
    if not other:
        raise OptionError("universality needs a second network; pass it with the parameter other")
    if repeats < 2 or not 1 <= searched < start:
        raise OptionError("repeats should be at least 2, and searched from 1 to start - 1")
    lab.network()
    with load(other) as second:
        side, drawn_from = _common_size(lab, second, size, all_spatial)
        described: dict[str, Any] = {"source": other, "digest": second.digest, "architecture": None,
                     "preprocess": {}, "layers": []}  # fmt: skip
    plan = {"size": side, "start": start, "searched": searched, "epochs": epochs,
            "all_spatial": all_spatial}  # fmt: skip
    seeds = [lab.seed + k for k in range(repeats)]
    networks = [network_plan(lab)["network"], described]
    jobs = [{**plan, "network": network, "seed": seed} for network in networks for seed in seeds]
    found = run_jobs(find_few, jobs, lab.jobs, lab.progress)
    names = [Path(lab.source).stem, Path(other).stem]
    names[1] += " (other)" if names[0] == names[1] else ""
    banks = [
        [_bank(name, result) for result in results]
        for name, results in zip(names, (found[:repeats], found[repeats:]), strict=True)
    ]
    given = {"other": other, "size": size, "start": start, "searched": searched,
             "repeats": repeats, "epochs": epochs, "all_spatial": all_spatial}  # fmt: skip
    return _result(given, banks, drawn_from, found, lab.seed)


def _common_size(
    lab: Lab, second: Any, size: int, all_spatial: bool
) -> tuple[int, KernelCollection]:
    """Give the side of the kernels to compare, and those of the second network.

    Raises:
        LayerError: a network has no such kernels, or the sizes differ or are not square.
    """
    wanted: Size | None = (size, size) if size else None
    first = collect_kernels([lab.network()], wanted, lab.layers, all_spatial)
    other = collect_kernels([second], wanted, None, all_spatial)
    height, width = first.size
    if first.size != other.size or height != width:
        sides = " and ".join("x".join(map(str, x.size)) for x in (first, other))
        raise LayerError(f"the kernels to compare are {sides}; choose a common side with `size`")
    return height, other


def find_few(
    network: Mapping[str, Any],
    size: int,
    start: int,
    searched: int,
    epochs: int,
    all_spatial: bool,
    seed: int,
) -> dict[str, Any]:
    """Learn, sample and search in one network with one seed; runs in a worker.

    Returns:
        The members that are left, with the relative error of the network's kernels by them, and
        the validation loss of the autoencoder.
    """
    layers = network["layers"] or None
    with open_for_worker(network) as checkpoint:
        settings = LearningSettings(epochs=epochs, seed=seed)
        learnt = learn_bank(checkpoint, settings, size=size, layers=layers, all_spatial=all_spatial)
        found = search_bank(
            checkpoint, sample_bank(learnt, start), to=searched, criterion="error",
            layers=layers, all_spatial=all_spatial,
        )  # fmt: skip
    return {
        "labels": list(found.bank.labels),
        "kernels": found.bank.kernels.tolist(),
        "relative_error": found.steps[-1].relative_error,
        "validation_loss": learnt.recipe["validation_loss"],
    }


def _bank(name: str, result: Mapping[str, Any]) -> FilterBank:
    return FilterBank(name, np.array(result["kernels"]), tuple(result["labels"]))


def _pairs(
    banks: Sequence[Sequence[FilterBank]], collection: KernelCollection, seed: int
) -> dict[str, list[Pair]]:
    """Say which banks are compared: a name for each kind of pair, and a pair per repeat."""
    first, second = banks
    one, two = first[0].name, second[0].name
    count, shape = len(first[0]), first[0].kernels.shape
    generator = np.random.default_rng(seed)
    unit = collection.normalised()
    drawn = [
        FilterBank("drawn", unit[generator.choice(len(unit), count, replace=len(unit) < count)]
                   .reshape(shape), first[0].labels)
        for _ in first
    ]  # fmt: skip
    noise = [FilterBank("noise", generator.standard_normal(shape), first[0].labels) for _ in first]
    pairs = {
        f"{one} and {two}": list(zip(first, second, strict=True)),
        f"{one}, two seeds": list(zip(first, [*first[1:], first[0]], strict=True)),
        f"{two}, two seeds": list(zip(second, [*second[1:], second[0]], strict=True)),
    }
    dog8 = load_bank("dog8").at(first[0].kernel_size)
    if dog8 is not None:
        pairs |= {f"{name} and dog8": [(bank, dog8) for bank in found]
                  for name, found in ((one, first), (two, second))}  # fmt: skip
    pairs[f"{one} and drawn"] = list(zip(first, drawn, strict=True))
    pairs[f"{one} and noise"] = list(zip(first, noise, strict=True))
    return pairs


def _matched(found: BankComparison) -> np.ndarray:
    return np.array([found.cosines[pair] for pair in found.pairs])


def _describe(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Summarise the matched cosines of one kind of pair over the repeats."""
    matched = [_matched(compare_banks(*pair)) for pair in pairs]
    means = [float(values.mean()) for values in matched]
    worst = [float(values.min()) for values in matched]
    interval = student_interval(means)
    return {
        "mean": interval.mean,
        "interval95": [interval.low, min(1.0, interval.high)],
        "deviation": float(np.std(means, ddof=1)),
        "least": min(means),
        "greatest": max(means),
        "worst_member": float(np.mean(worst)),
        "alike": float(np.mean([(values >= ALIKE).sum() for values in matched])),
        "cosines": [np.round(values, 4).tolist() for values in matched],
    }


def _by_member(banks: Sequence[Sequence[FilterBank]]) -> list[dict[str, Any]]:
    """Give, for each member of dog8, the |cosine| of its match in the banks of each network."""
    dog8 = load_bank("dog8").at(banks[0][0].kernel_size)
    if dog8 is None:
        return []
    rows: list[dict[str, Any]] = [{"member": label, "networks": []} for label in dog8.labels]
    for found in banks:
        compared = [compare_banks(dog8, bank) for bank in found]
        for k, row in enumerate(rows):
            values = [float(x.cosines[k, dict(x.pairs)[k]]) for x in compared if k in dict(x.pairs)]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            row["networks"].append({"mean": float(np.mean(values or [0])), "deviation": spread})
    return rows


def _result(
    given: Mapping[str, Any],
    banks: Sequence[Sequence[FilterBank]],
    collection: KernelCollection,
    found: Sequence[Mapping[str, Any]],
    seed: int,
) -> StudyResult:
    defaults = STUDIES.options("universality")
    rows = {name: _describe(pairs) for name, pairs in _pairs(banks, collection, seed).items()}
    members = _by_member(banks)
    count, repeats = len(banks[0][0]), len(banks[0])
    names = [each[0].name for each in banks]
    columns = [("banks", "left"), ("mean |cosine|", "right"), ("lowest to highest seed", "right"),
               ("worst member", "right"), (f"at least {ALIKE} of {count}", "right")]  # fmt: skip
    cells = [
        (name, _spread(row), f"{row['least']:.3f} to {row['greatest']:.3f}",
         f"{row['worst_member']:.3f}", f"{row['alike']:.1f}")
        for name, row in rows.items()
    ]  # fmt: skip
    side = "x".join(map(str, banks[0][0].kernel_size))
    tables = [Table(f"{count} kernels of {side}, {repeats} seeds", columns, cells)]
    if members:
        columns = [("dog8", "left"), *((name, "right") for name in names)]
        cells = [(row["member"], *map(_spread, row["networks"])) for row in members]
        tables.append(Table("|cosine| of each member's match", columns, cells))
    losses = [[result["relative_error"] for result in part]
              for part in (found[:repeats], found[repeats:])]  # fmt: skip
    remarks = [
        f"{name}: relative error of its kernels {np.mean(values):.3f} ±{np.std(values, ddof=1):.3f}"
        for name, values in zip(names, losses, strict=True)
    ]
    remarks.append("± is the standard deviation over the seeds")
    return StudyResult(
        "universality",
        {k: v for k, v in given.items() if v != defaults[k].default},
        {
            "networks": names,
            "pairs": rows,
            "members": members,
            "banks": [[bank.kernels.tolist() for bank in part] for part in banks],
        },
        tables,
        remarks,
        lambda figure: _draw(figure, banks),
    )


def _spread(row: Mapping[str, float]) -> str:
    return f"{row['mean']:.3f} ±{row['deviation']:.3f}"


def _draw(figure: Figure, banks: Sequence[Sequence[FilterBank]]) -> None:
    """Draw the first seed's kernels of both networks, matched, with those of dog8."""
    given = banks[0][0]
    strongest = [kernel.ravel()[np.abs(kernel).argmax()] for kernel in given.kernels]
    signs = np.sign(strongest)[:, None, None]
    first = FilterBank(given.name, given.kernels * signs, given.labels)
    rows: list[MatchedRow] = [(first.name, list(first.kernels), [None] * len(first))]
    others = (banks[1][0], load_bank("dog8").at(first.kernel_size))
    rows += [_row(first, bank) for bank in others if bank is not None]
    draw_matched(figure, rows)


def _row(first: FilterBank, bank: FilterBank) -> MatchedRow:
    """Turn a bank to the sides of its matches in another; None stands where it has none."""
    found = compare_banks(first, bank)
    matched = dict(found.pairs)
    kernels: list[np.ndarray | None] = [None] * len(first)
    cosines: list[float | None] = [None] * len(first)
    for k, m in matched.items():
        own, other = (kernel - kernel.mean() for kernel in (bank.kernels[m], first.kernels[k]))
        kernels[k] = bank.kernels[m] * (1 if (own * other).sum() >= 0 else -1)
        cosines[k] = float(found.cosines[k, m])
    return bank.name, kernels, cosines
